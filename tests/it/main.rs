//! The program from outside: its processes, its HTTP, its command line, on real PostgreSQL and real SMTP.

mod database;
mod demo;
mod reminders;
mod structure;
mod support;
