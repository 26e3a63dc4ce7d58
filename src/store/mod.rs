//! SQL: free functions on `&mut PgConnection`, a file per table family.
//!
//! `organizations`, `api_keys`, `dead_letters`, `idempotency`, `users`, `memberships`, `password_resets`, `sessions`, `sign_in_tries` and
//! `usage` are the control plane in schema `public` and take any connection of the program's own role. The rest are an organization's own tables: their names are
//! unqualified and resolve in a [`crate::tenant::TenantTx`] only.

pub mod api_keys;
pub mod asset_transactions;
pub mod assets;
pub mod companies;
pub mod conversations;
pub mod dead_letters;
pub mod deliveries;
pub mod employees;
pub mod events;
pub mod feed;
pub mod from_source;
pub mod idempotency;
pub mod integrations;
pub mod invitations;
pub mod invoices;
pub mod join_requests;
pub mod locations;
pub mod memberships;
pub mod notification_rules;
pub mod organizations;
pub mod overdue_workflows;
pub mod password_resets;
pub mod reminders;
pub mod sessions;
pub mod sign_in_tries;
pub mod slack_people;
pub mod subjects;
pub mod sync_runs;
pub mod tasks;
pub mod tokens;
pub mod usage;
pub mod users;
pub mod webhook_deliveries;
pub mod workflow_templates;
pub mod workflows;
pub mod workspaces;

use std::{fmt::Display, str::FromStr};

use uuid::Uuid;

use crate::{
    domain::{LimitExceeded, asset, employee, invoice::TransitionError},
    vault::{Place, Vault, VaultError},
};

/// Why a row could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A named constraint refused a value. The message continues the field's name ("`number` is taken …").
    #[error("`{field}` {message}")]
    Conflict { field: &'static str, message: String },
    #[error(transparent)]
    Transition(#[from] TransitionError),
    /// An asset is not where it could be done.
    #[error(transparent)]
    Asset(#[from] asset::Refusal),
    /// An employee does not stand so that it could be done.
    #[error(transparent)]
    Employee(#[from] employee::Refusal),
    #[error("there is no {what} with id {id}")]
    NotFound { what: &'static str, id: Uuid },
    /// A row that this version of the program does not understand; newer program, or a change by hand.
    #[error("column {column} holds a value that is not valid: it {reason}")]
    Stored { column: &'static str, reason: String },
    /// The tier allows no more (TEN-4).
    #[error(transparent)]
    Limit(#[from] LimitExceeded),
    #[error("could not open or seal a field")]
    Vault(#[from] VaultError),
    #[error("the database did not take the statement")]
    Database(#[from] sqlx::Error),
}

impl StoreError {
    /// Turns a violation of one of the named constraints into a [`StoreError::Conflict`].
    fn from_constraint(error: sqlx::Error, constraints: &[(&str, &'static str, &str)]) -> Self {
        let violated = error.as_database_error().and_then(|e| e.constraint());
        match constraints.iter().find(|(name, ..)| Some(*name) == violated) {
            Some((_, field, message)) => StoreError::Conflict { field, message: (*message).to_owned() },
            None => error.into(),
        }
    }
}

/// Which page of a list, in the order of ids (UUIDv7: the order of creation).
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The last id of the page before.
    pub after: Option<Uuid>,
    pub limit: i64,
    pub newest_first: bool,
}

impl Page {
    /// The first `limit` rows, oldest first.
    pub fn first(limit: i64) -> Self {
        Self { after: None, limit, newest_first: false }
    }

    fn push_to(self, query: &mut sqlx::QueryBuilder<sqlx::Postgres>) {
        let (comparison, direction) = if self.newest_first { ("<", "desc") } else { (">", "asc") };
        if let Some(after) = self.after {
            query.push(format_args!(" and id {comparison} ")).push_bind(after);
        }
        query.push(format_args!(" order by id {direction} limit ")).push_bind(self.limit);
    }
}

/// The vault as one organization's rows see it.
#[derive(Clone, Copy)]
pub struct Sealer<'a> {
    pub vault: &'a Vault,
    /// The organization's slug.
    pub organization: &'a str,
}

impl<'a> Sealer<'a> {
    pub fn new(vault: &'a Vault, organization: &'a str) -> Self {
        Self { vault, organization }
    }

    fn place(&self, table: &'a str, column: &'a str, row: Uuid) -> Place<'a> {
        Place { organization: self.organization, table, column, row }
    }
}

/// Reads a stored text back into its type.
fn stored<T: FromStr<Err: Display>>(column: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|e: T::Err| StoreError::Stored { column, reason: e.to_string() })
}

/// A count that is never negative, stored as `integer`.
fn count(column: &'static str, value: i32) -> Result<u32, StoreError> {
    u32::try_from(value).map_err(|_| StoreError::Stored { column, reason: format!("is negative: {value}") })
}

/// What comes after all texts that begin with `start`, compared byte by byte: for a prefix as a range of an index.
fn prefix_end(start: &str) -> String {
    format!("{start}\u{10FFFF}")
}
