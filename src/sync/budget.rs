//! How often an account may be called (SYNC-13). The figure is the queue's, under the account's name, so that all nodes share it; what
//! the vendor answers moves it.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use backroom_queue::{Ctx, RateLimit};

/// When a vendor that refuses a call does not say for how long.
pub const BUSY: Duration = Duration::from_secs(60);
/// As long a wait for a permit is not worth a snooze.
const SHORT: Duration = Duration::from_secs(2);
/// After so many calls without a refusal a tenth more is tried.
const GOOD_CALLS: u32 = 50;

/// Calls of this process since the last refusal, or the last raise, by account.
static GOOD: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);

/// An account's budget.
pub struct Budget<'a> {
    pub account: &'a str,
    /// Before anything was learned, and never more: calls per minute.
    pub per_minute: u32,
}

impl Budget<'_> {
    /// Takes a permit for a call; waits for it if that is not long. `Err`: come back after this time. Otherwise the figure that the
    /// call is made under.
    pub async fn permit<A>(&self, ctx: &Ctx<A>) -> anyhow::Result<Result<u32, Duration>> {
        let limit = RateLimit::new(self.account, self.per_minute.max(1), Duration::from_secs(60));
        loop {
            let (figure, wait) = ctx.permit_learned(&limit).await?;
            let Some(wait) = wait else { return Ok(Ok(figure)) };
            if wait > SHORT || ctx.cancelled().is_cancelled() {
                return Ok(Err(wait));
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The vendor answered a call that was made under `figure`, and perhaps said for how long no other is left.
    pub async fn good<A>(&self, ctx: &Ctx<A>, figure: u32, none_left_for: Option<Duration>) -> anyhow::Result<()> {
        if let Some(wait) = none_left_for {
            ctx.block_rate(self.account, wait).await?;
        }
        let calls = self.count(|calls| {
            *calls = if *calls >= GOOD_CALLS { 1 } else { *calls + 1 };
            *calls
        });
        let raised = if calls >= GOOD_CALLS { figure.saturating_add((figure / 10).max(1)) } else { figure };
        let learned = raised.clamp(1, self.per_minute.max(1));
        if learned != figure {
            ctx.learn_rate(self.account, figure, learned).await?;
        }
        Ok(())
    }

    /// The vendor refused a call that was made under `figure`: nobody calls before `wait` is over, and half as often after it.
    pub async fn busy<A>(&self, ctx: &Ctx<A>, figure: u32, wait: Duration) -> anyhow::Result<()> {
        self.count(|calls| *calls = 0);
        ctx.block_rate(self.account, wait).await?;
        if ctx.learn_rate(self.account, figure, (figure / 2).max(1)).await? {
            tracing::warn!(
                account = self.account,
                per_minute = (figure / 2).max(1),
                ?wait,
                "the vendor limits calls; half as many from now on"
            );
        }
        Ok(())
    }

    fn count<T>(&self, change: impl FnOnce(&mut u32) -> T) -> T {
        let mut good = GOOD.lock().unwrap_or_else(PoisonError::into_inner);
        change(good.entry(self.account.to_owned()).or_default())
    }
}
