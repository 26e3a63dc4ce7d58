//! Hands a page's records to those who keep them, by kind, and counts what became of them (SYNC-4).

use std::collections::HashMap;

use futures::future::BoxFuture;
use sqlx::{Connection, PgConnection};

use crate::{
    domain::{
        integration::{BadRecord, SyncCounts, SyncMode},
        source_record::{AssetFacts, EmployeeFacts, Facts, InvoiceFacts, Left, RecordKind, SourceRecord},
    },
    store::{
        StoreError,
        from_source::{Outcome, Taken},
    },
};

/// Records of one kind, each under the source's id, no id twice.
#[derive(Clone, Debug)]
pub enum Batch {
    Employees(Vec<(String, EmployeeFacts)>),
    EmployeesGone(Vec<String>),
    Assets(Vec<(String, AssetFacts)>),
    AssetsGone(Vec<String>),
    AssetsLeft(Vec<(String, Left)>),
    Invoices(Vec<(String, InvoiceFacts)>),
    InvoicesGone(Vec<String>),
}

/// Who keeps what is read. The connection is in a transaction of the organization's, which commits with the run's checkpoint.
pub trait Receiver: Send + Sync {
    /// Stores the records; one that cannot be stored is [`Outcome::Refused`]. `first_run`: nothing was read from this source before,
    /// so that nothing in it is news.
    fn take<'a>(
        &'a self,
        db: &'a mut PgConnection,
        batch: &'a Batch,
        first_run: bool,
    ) -> BoxFuture<'a, Result<Vec<Taken>, StoreError>>;

    /// A stream has been read to its end: what refers to records that came later can be resolved.
    fn end_of_stream<'a>(&'a self, db: &'a mut PgConnection) -> BoxFuture<'a, Result<(), StoreError>>;

    /// The run is complete.
    fn completed<'a>(
        &'a self,
        db: &'a mut PgConnection,
        mode: SyncMode,
        counts: SyncCounts,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

impl Batch {
    pub fn len(&self) -> usize {
        match self {
            Self::Employees(records) => records.len(),
            Self::Assets(records) => records.len(),
            Self::AssetsLeft(documents) => documents.len(),
            Self::Invoices(records) => records.len(),
            Self::EmployeesGone(ids) | Self::AssetsGone(ids) | Self::InvoicesGone(ids) => ids.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn first_id(&self) -> Option<String> {
        match self {
            Self::Employees(records) => records.first().map(|(id, _)| id.clone()),
            Self::Assets(records) => records.first().map(|(id, _)| id.clone()),
            Self::AssetsLeft(documents) => documents.first().map(|(id, _)| id.clone()),
            Self::Invoices(records) => records.first().map(|(id, _)| id.clone()),
            Self::EmployeesGone(ids) | Self::AssetsGone(ids) | Self::InvoicesGone(ids) => ids.first().cloned(),
        }
    }

    /// The second half; the first stays.
    fn split(&mut self) -> Self {
        let at = self.len() / 2;
        match self {
            Self::Employees(records) => Self::Employees(records.split_off(at)),
            Self::EmployeesGone(ids) => Self::EmployeesGone(ids.split_off(at)),
            Self::Assets(records) => Self::Assets(records.split_off(at)),
            Self::AssetsGone(ids) => Self::AssetsGone(ids.split_off(at)),
            Self::AssetsLeft(documents) => Self::AssetsLeft(documents.split_off(at)),
            Self::Invoices(records) => Self::Invoices(records.split_off(at)),
            Self::InvoicesGone(ids) => Self::InvoicesGone(ids.split_off(at)),
        }
    }

    /// A page's records by kind. Of what a page says twice the last word counts.
    fn sorted(records: Vec<SourceRecord>) -> Vec<Self> {
        let mut last = HashMap::new();
        for (n, record) in records.iter().enumerate() {
            last.insert((kind(&record.facts), record.external_id.clone()), n);
        }
        let (mut employees, mut assets, mut invoices) = (Vec::new(), Vec::new(), Vec::new());
        let (mut employees_gone, mut assets_gone, mut invoices_gone) = (Vec::new(), Vec::new(), Vec::new());
        let mut assets_left = Vec::new();
        for (n, SourceRecord { external_id: id, facts }) in records.into_iter().enumerate() {
            if last.get(&(kind(&facts), id.clone())) != Some(&n) {
                continue;
            }
            match facts {
                Facts::Employee(facts) => employees.push((id, facts)),
                Facts::Asset(facts) => assets.push((id, facts)),
                Facts::Invoice(facts) => invoices.push((id, facts)),
                Facts::Gone(RecordKind::Employee) => employees_gone.push(id),
                Facts::Gone(RecordKind::Asset) => assets_gone.push(id),
                Facts::Gone(RecordKind::Invoice) => invoices_gone.push(id),
                Facts::Left(left) => assets_left.push((id, left)),
            }
        }
        let batches = [
            Self::Employees(employees),
            Self::EmployeesGone(employees_gone),
            Self::Assets(assets),
            Self::AssetsGone(assets_gone),
            Self::AssetsLeft(assets_left),
            Self::Invoices(invoices),
            Self::InvoicesGone(invoices_gone),
        ];
        batches.into_iter().filter(|batch| !batch.is_empty()).collect()
    }
}

fn kind(facts: &Facts) -> RecordKind {
    match facts {
        Facts::Employee(_) => RecordKind::Employee,
        Facts::Asset(_) | Facts::Left(_) => RecordKind::Asset,
        Facts::Invoice(_) => RecordKind::Invoice,
        Facts::Gone(kind) => *kind,
    }
}

/// What became of a page.
#[derive(Debug, Default)]
pub struct Counted {
    pub counts: SyncCounts,
    pub bad: Vec<BadRecord>,
}

/// Stores a page. A record that the database refuses takes no other with it: what fails together is tried in halves.
pub async fn take(
    db: &mut PgConnection,
    receiver: &dyn Receiver,
    records: Vec<Result<SourceRecord, BadRecord>>,
    first_run: bool,
) -> Result<Counted, StoreError> {
    let read = records.len() as u64;
    let mut counted = Counted { counts: SyncCounts { pages: 1, read, ..SyncCounts::default() }, bad: Vec::new() };
    let mut good = Vec::with_capacity(records.len());
    for record in records {
        match record {
            Ok(record) => good.push(record),
            Err(bad) => counted.bad.push(bad),
        }
    }
    let mut open = Batch::sorted(good);
    open.reverse();
    while let Some(mut batch) = open.pop() {
        let mut savepoint = db.begin().await?;
        match receiver.take(&mut savepoint, &batch, first_run).await {
            Ok(taken) => {
                savepoint.commit().await?;
                counted.count(taken);
            }
            Err(error) => {
                savepoint.rollback().await?;
                let Some(reason) = blame(&error) else { return Err(error) };
                if batch.len() > 1 {
                    open.push(batch.split());
                    open.push(batch);
                } else {
                    counted.bad.push(BadRecord { external_id: batch.first_id(), reason });
                }
            }
        }
    }
    let counts = &mut counted.counts;
    counts.failed = counted.bad.len() as u64;
    // Said twice on the page.
    counts.unchanged = read - counts.created - counts.updated - counts.failed;
    Ok(counted)
}

impl Counted {
    fn count(&mut self, taken: Vec<Taken>) {
        for Taken { external_id, outcome } in taken {
            match outcome {
                Outcome::Created(_) => self.counts.created += 1,
                Outcome::Updated(_) => self.counts.updated += 1,
                Outcome::Unchanged => {}
                Outcome::Refused(reason) => {
                    self.bad.push(BadRecord { external_id: Some(external_id), reason });
                }
            }
        }
    }
}

/// What to say of a record that was not stored, without its values; `None` if it was not the record's fault.
fn blame(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Database(sqlx::Error::Database(refused)) => {
            // Data exceptions and violated constraints (SQLSTATE, PostgreSQL's appendix A).
            let code = refused.code()?;
            let rule = refused.constraint().map_or_else(|| format!("SQLSTATE {code}"), ToOwned::to_owned);
            (code.starts_with("22") || code.starts_with("23")).then(|| format!("the database did not take it ({rule})"))
        }
        StoreError::Stored { .. } | StoreError::Vault(_) | StoreError::Database(_) => None,
        of_the_record => Some(of_the_record.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, facts: Facts) -> SourceRecord {
        SourceRecord { external_id: id.to_owned(), facts }
    }

    fn employee(first_name: &str) -> Facts {
        Facts::Employee(EmployeeFacts { first_name: first_name.to_owned(), ..EmployeeFacts::default() })
    }

    /// SYNC-2: each kind by itself, and the last word of a page counts.
    #[test]
    fn a_page_is_sorted_by_kind_and_says_each_record_once() {
        let batches = Batch::sorted(vec![
            record("1", employee("Ada")),
            record("2", Facts::Asset(AssetFacts::default())),
            record("1", employee("Beda")),
            record("3", employee("Cia")),
            record("3", Facts::Gone(RecordKind::Employee)),
        ]);

        let [Batch::Employees(employees), Batch::EmployeesGone(gone), Batch::Assets(assets)] = &batches[..] else {
            panic!("{batches:?}");
        };
        let [(id, facts)] = &employees[..] else { panic!("{employees:?}") };
        assert_eq!((id.as_str(), facts.first_name.as_str()), ("1", "Beda"));
        assert_eq!((&gone[..], assets.len()), (&["3".to_owned()][..], 1));
    }

    #[test]
    fn halves_make_up_the_whole() {
        let ids = |batch: &Batch| match batch {
            Batch::AssetsGone(ids) => ids.clone(),
            other => panic!("{other:?}"),
        };
        let mut first = Batch::AssetsGone(vec!["1".into(), "2".into(), "3".into()]);
        let second = first.split();
        assert_eq!((ids(&first), ids(&second)), (vec!["1".to_owned()], vec!["2".to_owned(), "3".to_owned()]));
    }
}
