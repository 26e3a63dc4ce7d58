use std::{collections::BTreeMap, sync::{Arc, atomic::{AtomicU64, Ordering}}, time::{Duration, Instant}};
use backroom_queue::*;
use tokio_util::sync::CancellationToken;
#[derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
struct Noop { n: u64 }
struct App { done: AtomicU64 }
impl Job for Noop { type App = App; const KIND: &'static str = "debug.noop";
  async fn run(self, ctx: Ctx<App>) -> JobResult { ctx.app.done.fetch_add(1, Ordering::Relaxed); Ok(Verdict::DONE) } }
#[tokio::main]
async fn main() -> anyhow::Result<()> {
  let url = std::env::var("DATABASE_URL")?;
  let pool = sqlx::postgres::PgPoolOptions::new().max_connections(10).connect(&url).await?;
  migrator().run(&pool).await?;
  let n: u64 = std::env::args().nth(1).map(|s| s.parse().unwrap()).unwrap_or(100_000);
  let conc: usize = std::env::args().nth(2).map(|s| s.parse().unwrap()).unwrap_or(10);
  sqlx::query("truncate queue.jobs, queue.finished_jobs").execute(&pool).await?;
  let t = Instant::now();
  let mut left = n;
  while left > 0 { let k = left.min(5000); let jobs: Vec<_> = (0..k).map(|i| NewJob::of(&Noop { n: i }).tenant("bench")).collect(); enqueue_many(&pool, &jobs).await?; left -= k; }
  println!("bulk {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
  let t = Instant::now(); for i in 0..1000 { enqueue(&pool, &NewJob::of(&Noop { n: i }).tenant("bench")).await?; } println!("one {:.0}/s", 1000.0 / t.elapsed().as_secs_f64());
  let n = n + 1000;
  let app = Arc::new(App { done: AtomicU64::new(0) });
  let reg = Arc::new(registry![Noop]);
  let stop = CancellationToken::new();
  let w = Worker::new(pool.clone(), reg, app.clone(), WorkerConfig { queues: BTreeMap::from([("default".into(), conc)]), ..Default::default() });
  let t = Instant::now();
  let h = tokio::spawn(w.run(stop.clone()));
  loop { let left: i64 = if app.done.load(Ordering::Relaxed) >= n { sqlx::query_scalar("select count(*) from queue.jobs").fetch_one(&pool).await? } else { 1 }; if left == 0 { break } tokio::time::sleep(Duration::from_millis(5)).await; }
  println!("drain {:.0}/s", n as f64 / t.elapsed().as_secs_f64());
  stop.cancel(); h.await??;
  let c: i64 = sqlx::query_scalar("select count(*) from queue.finished_jobs").fetch_one(&pool).await?; assert_eq!(c as u64, n);
  Ok(())
}
