//! The program from outside: its processes, its HTTP, its command line, on real PostgreSQL and real SMTP.

mod bad_input;
mod batches;
mod contract;
mod conversations;
mod database;
mod demo;
mod events;
mod integration_secrets;
mod invitations;
mod join_requests;
mod operations;
mod operators;
mod people;
mod reminders;
mod secrets;
mod smtp;
mod structure;
mod support;
mod sync;
