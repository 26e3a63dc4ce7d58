//! Third parties, each behind one trait: their words become ours in here. No SQL, no jobs.

pub mod http;
pub mod llm;
