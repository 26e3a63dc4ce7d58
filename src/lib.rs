//! Backroom: a multi-tenant worker platform for the back office.

pub mod bench;
pub mod cli;
pub mod config;
pub mod context;
pub mod demo;
pub mod domain;
pub mod http;
/// The subject of the repository has a folder at its top. It belongs to this crate all the same: a member crate would
/// either make a package cycle or split payload from handler.
#[path = "../jobs/mod.rs"]
pub mod jobs;
pub mod mail;
pub mod store;
pub mod telemetry;
pub mod tenant;
pub mod vault;
