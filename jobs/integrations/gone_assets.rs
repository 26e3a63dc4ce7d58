//! Things that a source has no longer. Of a deleted document a source tells the id alone: one that ends with a colon stands for all
//! things of the document (`crate::clients::purchase`), and counts as one record.

use sqlx::PgConnection;

use crate::{
    jobs::people::doors::{self as people, Taking},
    store::{
        Sealer, StoreError,
        from_source::{self, Outcome, Taken},
    },
};

/// What became of each of these ids.
pub async fn gone(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    ids: &[String],
) -> Result<Vec<Taken>, StoreError> {
    let (documents, mut things): (Vec<String>, Vec<String>) = ids.iter().cloned().partition(|id| id.ends_with(':'));
    if documents.is_empty() {
        return people::assets_gone(db, sealer, taking, ids).await;
    }
    for thing in from_source::assets_beginning(db, taking.source, &documents).await? {
        if !things.contains(&thing) {
            things.push(thing);
        }
    }
    let taken = people::assets_gone(db, sealer, taking, &things).await?;
    let outcome = |id: &String| {
        let is_of = |taken: &&Taken| {
            if id.ends_with(':') { taken.external_id.starts_with(id) } else { taken.external_id == *id }
        };
        let mut of_id = taken.iter().filter(is_of);
        let changed = of_id.find(|taken| taken.outcome != Outcome::Unchanged);
        changed.map_or(Outcome::Unchanged, |taken| taken.outcome.clone())
    };
    Ok(ids.iter().map(|id| Taken { external_id: id.clone(), outcome: outcome(id) }).collect())
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::{domain::source_record::AssetFacts, jobs::testing::World, store::from_source::Source};

    /// SYNC-10: a deleted purchase takes its laptops along, and no other's whose number begins alike.
    #[tokio::test]
    async fn a_deleted_document_takes_its_things_along() {
        let world = World::new().await;
        let integration_id = Uuid::now_v7();
        let mut tx = world.tenant().await;
        let sql = "insert into integrations (id, provider, name, credentials, interval_minutes, created_at, updated_at)
                   values ($1, 'quickbooks', 'Books', '\\x00', 60, now(), now())";
        sqlx::query(sql).bind(integration_id).execute(&mut *tx).await.unwrap();
        let taking = Taking {
            organization: &world.organization,
            source: Source { integration_id },
            actor: "test",
            now: world.now(),
            first_run: false,
            trace: None,
        };
        let sealer = Sealer::new(&world.app.vault, "acme");
        let facts = AssetFacts { name: "Laptop".to_owned(), ..AssetFacts::default() };
        let records: Vec<_> =
            ["purchase-1:1:1", "purchase-1:1:2", "purchase-15:1:1"].map(|id| (id.to_owned(), facts.clone())).into();
        people::take_assets(&mut tx, sealer, &taking, &records).await.unwrap();
        let ids = ["purchase-1:".to_owned(), "purchase-9:".to_owned()];

        let first = gone(&mut tx, sealer, &taking, &ids).await.unwrap();
        let again = gone(&mut tx, sealer, &taking, &ids).await.unwrap();

        assert!(matches!(first[0].outcome, Outcome::Updated(_)), "{first:?}");
        assert_eq!((first.len(), &first[1].outcome), (2, &Outcome::Unchanged));
        assert!(again.iter().all(|taken| taken.outcome == Outcome::Unchanged), "{again:?}");
        let sql =
            "select string_agg(external_id || ' ' || status, ', ' order by external_id collate \"C\") from assets";
        let stand: String = sqlx::query_scalar(sql).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(stand, "purchase-15:1:1 in_stock, purchase-1:1:1 retired, purchase-1:1:2 retired");
    }
}
