//! Organizations' schemas: creating them, migrating them, and the one way into their tables.
//!
//! Every organization has a PostgreSQL schema `org_<slug>` and a role that reaches that schema and two doors of the
//! queue, nothing else. `begin` opens a transaction as that role: whatever SQL runs inside, PostgreSQL itself refuses
//! another organization's rows.

mod create;
mod migrate;
mod people;
mod roles;
mod status;
#[doc(hidden)]
pub mod testing;
mod tx;

pub use create::{CreateError, NewOrganization, create, create_in};
#[doc(hidden)]
pub use migrate::{Measurement, measure};
pub use migrate::{MigrateReport, TEMPLATE_SCHEMA, migrate_all, migrate_platform, platform_is_current};
pub use people::{PeopleError, check_place, end_membership, give_role, join, prove_address, reset_password, vouch};
pub use roles::{drop_organization_roles, role_name};
pub use status::{set_billing_status, set_billing_status_in, set_tier};
pub use tx::{TenantTx, begin, begin_without_waiting_for_disk};
