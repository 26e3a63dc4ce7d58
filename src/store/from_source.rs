//! What stores that take records of a third party have in common.

use serde::Serialize;
use sqlx::PgConnection;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::{Sealer, StoreError};
use crate::vault::VaultError;

/// Whose records they are. External ids are unique within an integration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    pub integration_id: Uuid,
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    pub external_id: String,
    pub outcome: Outcome,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Created(Uuid),
    Updated(Uuid),
    /// It says what it said before: nothing was written.
    Unchanged,
    /// It contradicts what is there, or a rule; for the run's report. The sentence holds no values.
    Refused(String),
}

/// The keyed fingerprint of what a source says of a record: equal for equal facts, and tells nothing else. A source that says the
/// same again causes no write.
pub(super) fn print(sealer: Sealer<'_>, table: &str, facts: &impl Serialize) -> Result<Vec<u8>, StoreError> {
    // serde_json's own message could quote a value, so it is dropped.
    let json = serde_json::to_string(facts).map(Zeroizing::new);
    let json = json.map_err(|_| VaultError::NotWritable { place: format!("{table}.source_print") })?;
    Ok(sealer.vault.blind_index(sealer.organization, table, "source_print", &json))
}

/// The source's ids of the assets of these documents: of what is before the first colon.
pub async fn assets_of_documents(
    db: &mut PgConnection,
    source: Source,
    documents: &[String],
) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(
        r#"select external_id as "external_id!" from assets
         where integration_id = $1 and external_id like '%:%' and split_part(external_id, ':', 1) = any($2)
         order by id"#,
        source.integration_id,
        documents
    )
    .fetch_all(db)
    .await?)
}
