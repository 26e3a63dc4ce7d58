//! Things that a source has no longer. Of a deleted document a source tells the id alone: one that ends with a colon stands for all
//! things of the document (`crate::clients::purchase`). Of one that is there it tells what is left of it ([`Left`]), and the rest of what
//! came of it is surplus. Either counts as one record.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::{
    domain::source_record::Left,
    jobs::people::doors::{self as people, Gone, Taking},
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
    let documents: HashMap<&str, &String> = ids.iter().filter_map(|id| Some((id.strip_suffix(':')?, id))).collect();
    let mut things: HashMap<String, &String> =
        ids.iter().filter(|id| !id.ends_with(':')).map(|id| (id.clone(), id)).collect();
    for (thing, document) in things_of(db, taking, names(&documents)).await? {
        if let Some(id) = documents.get(document.as_str()) {
            things.insert(thing, id);
        }
    }
    let became = take_away(db, sealer, taking, (things, Gone::Removed)).await?;
    Ok(of_each(ids.iter(), &became))
}

/// What became of each of these documents, of which this is left.
pub async fn surplus(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    documents: &[(String, Left)],
) -> Result<Vec<Taken>, StoreError> {
    let left: HashMap<&str, (&String, &Left)> =
        documents.iter().map(|(document, left)| (document.as_str(), (document, left))).collect();
    let mut things = HashMap::new();
    for (thing, document) in things_of(db, taking, names(&left)).await? {
        if let Some((id, left)) = left.get(document.as_str())
            && !left.has(&thing[document.len() + 1..])
        {
            things.insert(thing, *id);
        }
    }
    let became = take_away(db, sealer, taking, (things, Gone::Surplus)).await?;
    Ok(of_each(documents.iter().map(|(document, _)| document), &became))
}

fn names<T>(documents: &HashMap<&str, T>) -> Vec<String> {
    documents.keys().map(|document| (*document).to_owned()).collect()
}

/// The things that are here of these documents, each with its document.
async fn things_of(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    documents: Vec<String>,
) -> Result<Vec<(String, String)>, StoreError> {
    if documents.is_empty() {
        return Ok(Vec::new());
    }
    let things = from_source::assets_of_documents(db, taking.source, &documents).await?;
    Ok(things.into_iter().filter_map(|thing| Some((thing.clone(), thing.split_once(':')?.0.to_owned()))).collect())
}

/// Takes these things away, and says of the ids that they are gone by what became of them.
async fn take_away<'a>(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    taking: &Taking<'_>,
    (by, why): (HashMap<String, &'a String>, Gone),
) -> Result<HashMap<&'a String, Outcome>, StoreError> {
    let mut became: HashMap<&String, Outcome> = HashMap::new();
    let mut things: Vec<String> = by.keys().cloned().collect();
    things.sort_unstable();
    for Taken { external_id, outcome } in people::assets_gone(db, sealer, taking, (&things, why)).await? {
        if let Some(id) = by.get(&external_id) {
            became.entry(id).and_modify(|before| add(before, &outcome)).or_insert(outcome);
        }
    }
    Ok(became)
}

fn of_each<'a>(ids: impl Iterator<Item = &'a String>, became: &HashMap<&'a String, Outcome>) -> Vec<Taken> {
    let outcome = |id| became.get(id).cloned().unwrap_or(Outcome::Unchanged);
    ids.map(|id| Taken { external_id: id.clone(), outcome: outcome(id) }).collect()
}

/// What became of a document, as far as another of its things makes a difference to it: what must be named comes first.
fn add(before: &mut Outcome, more: &Outcome) {
    match (before, more) {
        (Outcome::Refused(before), Outcome::Refused(more)) => *before = format!("{before}; {more}"),
        (before @ Outcome::Updated(_), Outcome::Refused(_)) | (before @ Outcome::Unchanged, _) => {
            *before = more.clone()
        }
        _ => {}
    }
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
