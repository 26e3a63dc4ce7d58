//! What events are about, in words that are not sealed: for messages that tell of them (SYNC-11).

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// An asset, as people call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Thing {
    pub tag: String,
    pub name: String,
    /// Who holds it now.
    pub employee_id: Option<Uuid>,
}

pub async fn thing(db: &mut PgConnection, asset: Uuid) -> Result<Option<Thing>, StoreError> {
    let thing = sqlx::query_as!(Thing, "select tag, name, employee_id from assets where id = $1", asset);
    Ok(thing.fetch_optional(db).await?)
}

/// The work address of an employee.
pub async fn address(db: &mut PgConnection, employee: Uuid) -> Result<Option<String>, StoreError> {
    let address = sqlx::query_scalar!("select work_email from employees where id = $1", employee);
    Ok(address.fetch_optional(db).await?.flatten())
}
