//! No talk with the database lasts for ever: a line may be half open, and then nothing but our own patience ends the wait.

use std::{io, time::Duration};

use sqlx::postgres::PgConnectOptions;

/// Gives up on a talk that has had no answer for so long. What was asked may have happened or not.
///
/// A connection on which a talk was given up goes back to its pool, which must find out by itself whether it is dead
/// (`PgPoolOptions::after_release` with a time limit), or is one connection short from then on.
pub(crate) async fn within<T>(patience: Duration, talk: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
    let silence = || io::Error::new(io::ErrorKind::TimedOut, format!("the database said nothing for {patience:?}"));
    tokio::time::timeout(patience, talk).await.unwrap_or_else(|_| Err(sqlx::Error::Io(silence())))
}

/// Sessions in which the server gives up a little before we do: a statement that we no longer wait for would go on waiting for its
/// locks, one more with each attempt, and the locks of a transaction would be held for as long as its stopped process, or the
/// line to it, takes to die.
pub(crate) fn impatient(options: &PgConnectOptions, patience: Duration) -> PgConnectOptions {
    let limit = (patience * 9 / 10).as_millis().to_string();
    options.clone().options([("statement_timeout", &limit), ("idle_in_transaction_session_timeout", &limit)])
}
