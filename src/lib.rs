//! Backroom: a multi-tenant worker platform for the back office.

/// What the platform does per second, measured on the reader's own machine.
pub mod bench;
/// The command line: one program for every process and everything that an operator does by hand.
pub mod cli;
/// Third parties, each behind one trait, and the one way out to the web.
pub mod clients;
/// What the program is told from outside, every setting explained.
pub mod config;
/// What handlers, requests and commands share: pool, vault, mailer, clock.
pub mod context;
/// A tour that shows the promises being kept, a killed worker included.
pub mod demo;
/// The words of the business and their rules; no database, no network, no time of its own.
pub mod domain;
/// Live events: one reader per process hands what is committed to whoever follows it.
pub mod events;
/// Everything about one job: the queue's record, with what it did in its organization.
pub mod flight_recorder;
/// The API and the pages: a file per resource, one shape of errors.
pub mod http;
/// What the product does in the background, one file per job.
///
/// The subject of the repository has a folder at its top. It belongs to this crate all the same: a member crate would
/// either make a package cycle or split payload from handler.
#[path = "../jobs/mod.rs"]
pub mod jobs;
/// Letters: their words, the way to a mail server, and a mailbox for development.
pub mod mail;
/// SQL: a file per table family, functions on a connection.
pub mod store;
/// Reads what third parties have, page by page: budget, tokens, checkpoints, takeover.
pub mod sync;
/// What the processes tell about themselves: logs and metrics.
pub mod telemetry;
/// Organizations' schemas and roles, and the one way into their tables.
pub mod tenant;
/// Sealed fields: what is secret in the database is ciphertext there.
pub mod vault;
