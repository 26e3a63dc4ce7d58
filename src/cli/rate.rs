//! `backroom rate …`: rate limits by key, shared by all workers (PLAT-10).

use std::{process::ExitCode, time::Duration};

use backroom_queue::{RateLimit, RateState};
use clap::Subcommand;

use super::{
    exit::not_found,
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};

#[derive(Subcommand)]
pub enum Rate {
    /// Show the rate limits that were used or set, by key
    #[command(after_help = "Example:\n  backroom rate list --prefix quickbooks:")]
    List {
        /// Only keys that begin with this
        #[arg(long, default_value = "")]
        prefix: String,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long, value_name = "KEY")]
        cursor: Option<String>,
    },
    /// Set the figures of a rate limit; they stand, whatever the program says, until `rate reset`
    #[command(after_help = "Example:\n  backroom rate set quickbooks:4620816365 --permits 400 --per 60s")]
    Set {
        #[arg(value_parser = key)]
        key: String,
        /// How many jobs or calls
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=i64::from(i32::MAX)))]
        permits: u32,
        /// In how long: 500ms, 60s, 5m, 1h; up to 24h
        #[arg(long, value_name = "TIME", value_parser = period)]
        per: Duration,
    },
    /// Forget a rate limit: it starts anew, with the program's figures and no block
    #[command(after_help = "Example:\n  backroom rate reset quickbooks:4620816365")]
    Reset { key: String },
}

pub async fn run(session: &Session, command: Rate, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        Rate::List { prefix, limit, cursor } => list(session, &prefix, limit, cursor.as_deref(), output).await?,
        Rate::Set { key, permits, per } => {
            backroom_queue::fix_rate_limit(&session.db, &RateLimit::new(&key, permits, per)).await?;
            let document = serde_json::json!({ "key": key, "permits": permits, "period_s": per.as_secs_f64() });
            output.answer(&document, || format!("{key} gets {permits} permits per {per:?}"))?;
        }
        Rate::Reset { key } => {
            if !backroom_queue::forget_rate_limit(&session.db, &key).await? {
                return Err(not_found(format!("there is no rate limit `{key}`; `backroom rate list` shows them")));
            }
            output.answer(&serde_json::json!({ "key": key }), || format!("{key} starts anew at its next use"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session, prefix: &str, limit: i64, cursor: Option<&str>, output: Output) -> anyhow::Result<()> {
    let rates = backroom_queue::rate_limit_page(&session.db, prefix, cursor, limit).await?;
    let next = next_cursor(&rates, limit, |rate| rate.key.clone());
    output.answer(&page("rate_limits", &rates, next.as_ref()), || {
        let rows = rates.iter().map(|rate| {
            let RateState { permits, period_s, .. } = rate;
            [
                cell(&rate.key),
                cell(format!("{permits} per {:?}", Duration::from_secs_f64(*period_s))),
                cell(rate.tokens.floor()),
                maybe(rate.blocked_until.map(time)),
                cell(if rate.fixed { "yes" } else { "" }),
            ]
        });
        let header = ["key", "limit", "left now", "blocked until", "set by hand"];
        output.table(header, rows.collect(), "there is no rate limit") + &more(next)
    })
}

fn key(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) { Ok(text.to_owned()) } else { Err("must have 1 to 255 bytes".to_owned()) }
}

/// `500ms`, `60s`, `5m` or `1h`.
fn period(text: &str) -> Result<Duration, String> {
    let help = || "must be a time such as 500ms, 60s, 5m or 1h, up to 24h".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(help)?;
    let (number, unit) = text.split_at(end);
    let number: u64 = number.parse().map_err(|_| help())?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(help()),
    };
    let period = Duration::from_millis(number.saturating_mul(milliseconds));
    if period.is_zero() || period > Duration::from_secs(86_400) { Err(help()) } else { Ok(period) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_has_a_unit_and_is_within_a_day() {
        assert_eq!(period("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(period("60s"), period("1m"));
        assert_eq!(period("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "60", "s", "0s", "-1s", "1.5s", "25h", "1 s", "99999999999999999999h", "1d"] {
            assert!(period(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
