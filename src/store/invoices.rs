//! `invoices` and `invoice_items`.

use std::collections::HashMap;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, StoreError, count, stored};
use crate::domain::{Invoice, InvoiceStatus, Item, NewInvoice, invoice};

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    number: String,
    company_id: Uuid,
    project_id: Option<Uuid>,
    contract_id: Option<Uuid>,
    status: String,
    currency: String,
    issue_date: NaiveDate,
    due_date: NaiveDate,
    payment_terms_days: i32,
    notes: Option<String>,
    subtotal: Decimal,
    tax: Decimal,
    total: Decimal,
    paid_on: Option<NaiveDate>,
    reminder_stage: i32,
    last_reminder_sent_at: Option<DateTime<Utc>>,
    reminder_failed_at: Option<DateTime<Utc>>,
    reminder_error: Option<String>,
    dunning_ended_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Row {
    fn with_items(self, items: Vec<Item>) -> Result<Invoice, StoreError> {
        Ok(Invoice {
            id: self.id,
            number: self.number,
            company_id: self.company_id,
            project_id: self.project_id,
            contract_id: self.contract_id,
            status: stored("invoices.status", &self.status)?,
            currency: stored("invoices.currency", &self.currency)?,
            issue_date: self.issue_date,
            due_date: self.due_date,
            payment_terms_days: self.payment_terms_days,
            notes: self.notes,
            subtotal: self.subtotal,
            tax: self.tax,
            total: self.total,
            paid_on: self.paid_on,
            reminder_stage: count("invoices.reminder_stage", self.reminder_stage)?,
            last_reminder_sent_at: self.last_reminder_sent_at,
            reminder_failed_at: self.reminder_failed_at,
            reminder_error: self.reminder_error,
            dunning_ended_at: self.dunning_ended_at,
            created_at: self.created_at,
            updated_at: self.updated_at,
            items,
        })
    }
}

/// Writes the invoice with its totals, computed here.
pub async fn insert(db: &mut PgConnection, new: &NewInvoice, now: DateTime<Utc>) -> Result<Invoice, StoreError> {
    let id = Uuid::now_v7();
    let totals = invoice::totals(&new.items);
    sqlx::query!(
        "insert into invoices (id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
             payment_terms_days, notes, subtotal, tax, total, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $15)",
        id,
        new.number,
        new.company_id,
        new.project_id,
        new.contract_id,
        new.status.as_str(),
        new.currency.as_str(),
        new.issue_date,
        new.due_date,
        new.payment_terms_days,
        new.notes,
        totals.subtotal,
        totals.tax,
        totals.total,
        now
    )
    .execute(&mut *db)
    .await
    .map_err(|e| {
        StoreError::from_constraint(
            e,
            &[
                ("invoices_number_key", "number", "belongs to another invoice already"),
                ("invoices_company_id_fkey", "company_id", "names a company that does not exist"),
                ("invoices_due_date_check", "due_date", "must not be before issue_date"),
            ],
        )
    })?;
    let lines: Vec<(Decimal, Decimal)> = new.items.iter().map(invoice::line).collect();
    sqlx::query!(
        "insert into invoice_items (invoice_id, position, description, quantity, unit_price, tax_rate, net, tax)
         select $1, i.position, i.description, i.quantity, i.unit_price, i.tax_rate, i.net, i.tax
         from unnest($2::text[], $3::numeric[], $4::numeric[], $5::numeric[], $6::numeric[], $7::numeric[])
              with ordinality as i (description, quantity, unit_price, tax_rate, net, tax, position)",
        id,
        &new.items.iter().map(|item| item.description.clone()).collect::<Vec<_>>(),
        &new.items.iter().map(|item| item.quantity).collect::<Vec<_>>(),
        &new.items.iter().map(|item| item.unit_price).collect::<Vec<_>>(),
        &new.items.iter().map(|item| item.tax_rate).collect::<Vec<_>>(),
        &lines.iter().map(|line| line.0).collect::<Vec<_>>(),
        &lines.iter().map(|line| line.1).collect::<Vec<_>>()
    )
    .execute(&mut *db)
    .await?;
    by_id(db, id).await?.ok_or(StoreError::NotFound { what: "invoice", id })
}

pub async fn by_id(db: &mut PgConnection, id: Uuid) -> Result<Option<Invoice>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices where id = $1",
        id
    )
    .fetch_optional(&mut *db)
    .await?;
    one(db, row).await
}

/// As [`by_id`], and nobody else changes the invoice until this transaction ends.
pub async fn lock(db: &mut PgConnection, id: Uuid) -> Result<Option<Invoice>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices where id = $1 for update",
        id
    )
    .fetch_optional(&mut *db)
    .await?;
    one(db, row).await
}

pub async fn by_number(db: &mut PgConnection, number: &str) -> Result<Option<Invoice>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices where number = $1",
        number
    )
    .fetch_optional(&mut *db)
    .await?;
    one(db, row).await
}

/// Those of these numbers that there are, by number.
pub async fn by_numbers(db: &mut PgConnection, numbers: &[&str]) -> Result<HashMap<String, Invoice>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices where number = any($1::text[])",
        numbers as _
    )
    .fetch_all(&mut *db)
    .await?;
    let invoices = with_items(db, rows).await?;
    Ok(invoices.into_iter().map(|invoice| (invoice.number.clone(), invoice)).collect())
}

async fn one(db: &mut PgConnection, row: Option<Row>) -> Result<Option<Invoice>, StoreError> {
    let rows = Vec::from_iter(row);
    Ok(with_items(db, rows).await?.pop())
}

async fn with_items(db: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Invoice>, StoreError> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let items = sqlx::query!(
        "select invoice_id, position, description, quantity, unit_price, tax_rate, net, tax
         from invoice_items where invoice_id = any($1) order by invoice_id, position",
        &ids
    )
    .fetch_all(db)
    .await?;
    let mut by_invoice: HashMap<Uuid, Vec<Item>> = HashMap::new();
    for i in items {
        by_invoice.entry(i.invoice_id).or_default().push(Item {
            position: i.position,
            description: i.description,
            quantity: i.quantity,
            unit_price: i.unit_price,
            tax_rate: i.tax_rate,
            net: i.net,
            tax: i.tax,
        });
    }
    rows.into_iter()
        .map(|row| {
            let items = by_invoice.remove(&row.id).unwrap_or_default();
            row.with_items(items)
        })
        .collect()
}

/// Which invoices. All given conditions hold.
#[derive(Clone, Debug, Default)]
pub struct InvoiceFilter {
    pub status: Option<InvoiceStatus>,
    pub company_id: Option<Uuid>,
    pub number: Option<String>,
    /// Owed, and due before this day.
    pub overdue_on: Option<NaiveDate>,
    /// Whether a reminder failed and waits for an operator.
    pub reminder_failed: Option<bool>,
}

pub async fn page(db: &mut PgConnection, filter: &InvoiceFilter, page: Page) -> Result<Vec<Invoice>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices where true",
    );
    if let Some(status) = filter.status {
        query.push(" and status = ").push_bind(status.as_str());
    }
    if let Some(company_id) = filter.company_id {
        query.push(" and company_id = ").push_bind(company_id);
    }
    if let Some(number) = &filter.number {
        query.push(" and number = ").push_bind(number.clone());
    }
    if let Some(today) = filter.overdue_on {
        query.push(" and status in ('sent', 'unpaid', 'overdue') and due_date < ").push_bind(today);
    }
    match filter.reminder_failed {
        Some(true) => _ = query.push(" and reminder_failed_at is not null"),
        Some(false) => _ = query.push(" and reminder_failed_at is null"),
        None => {}
    }
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(&mut *db).await?;
    with_items(db, rows).await
}

/// Moves the invoice to `to` if the state machine allows it; becoming paid records `today`. `None`: no such invoice.
pub async fn set_status(
    db: &mut PgConnection,
    id: Uuid,
    to: InvoiceStatus,
    today: NaiveDate,
    now: DateTime<Utc>,
) -> Result<Option<Invoice>, StoreError> {
    let found =
        sqlx::query!("select status from invoices where id = $1 for update", id).fetch_optional(&mut *db).await?;
    let Some(row) = found else { return Ok(None) };
    let from: InvoiceStatus = stored("invoices.status", &row.status)?;
    let to = from.transition_to(to)?;
    let paid_on = (to == InvoiceStatus::Paid).then_some(today);
    sqlx::query!(
        "update invoices set status = $2, paid_on = $3, updated_at = $4 where id = $1",
        id,
        to.as_str(),
        paid_on,
        now
    )
    .execute(&mut *db)
    .await?;
    by_id(db, id).await
}

/// One page of what could owe a reminder on `today`, by due date: open, past due, dunning not ended. Without items, which dunning
/// does not read. Walks `invoices_open_due_date_idx`, so a page costs the same at the first and at the millionth invoice.
pub async fn overdue_page(
    db: &mut PgConnection,
    today: NaiveDate,
    after: Option<(NaiveDate, Uuid)>,
    limit: i64,
) -> Result<Vec<Invoice>, StoreError> {
    let (due_date, id) = after.unwrap_or((NaiveDate::MIN, Uuid::nil()));
    // PostgreSQL's first day is later than chrono's.
    let due_date = due_date.max(NaiveDate::from_ymd_opt(1, 1, 1).unwrap_or_default());
    let rows = sqlx::query_as!(
        Row,
        "select id, number, company_id, project_id, contract_id, status, currency, issue_date, due_date,
                payment_terms_days, notes, subtotal, tax, total, paid_on, reminder_stage, last_reminder_sent_at,
                reminder_failed_at, reminder_error, dunning_ended_at, created_at, updated_at
         from invoices
         where status in ('sent', 'unpaid', 'overdue') and dunning_ended_at is null
           and due_date < $1 and (due_date, id) > ($2, $3)
         order by due_date, id limit $4",
        today,
        due_date,
        id,
        limit
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(|row| row.with_items(Vec::new())).collect()
}

/// How many invoices all pages of [`overdue_page`] hold together.
pub async fn overdue_count(db: &mut PgConnection, today: NaiveDate) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        "select count(*) from invoices
         where status in ('sent', 'unpaid', 'overdue') and dunning_ended_at is null and due_date < $1",
        today
    )
    .fetch_one(db)
    .await?;
    Ok(count.unwrap_or(0).unsigned_abs())
}

/// Marks those that are still open as overdue. Answers which changed.
pub async fn mark_overdue(db: &mut PgConnection, ids: &[Uuid], now: DateTime<Utc>) -> Result<Vec<Uuid>, StoreError> {
    Ok(sqlx::query_scalar!(
        "update invoices set status = 'overdue', updated_at = $2
         where id = any($1) and status in ('sent', 'unpaid') returning id",
        ids,
        now
    )
    .fetch_all(db)
    .await?)
}

/// Records that reminder `stage` was sent. False if it was recorded before.
pub async fn record_reminder(
    db: &mut PgConnection,
    id: Uuid,
    stage: u32,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invoices set reminder_stage = $2, last_reminder_sent_at = $3, updated_at = $3
         where id = $1 and reminder_stage < $2",
        id,
        stage.cast_signed(),
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// BILL-7: no reminder until an operator clears it. False if a failure is noted already, or reminder `stage` was sent after all.
pub async fn record_reminder_failure(
    db: &mut PgConnection,
    (id, stage): (Uuid, u32),
    error: &str,
    now: DateTime<Utc>,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invoices set reminder_failed_at = $3, reminder_error = $2, updated_at = $3
         where id = $1 and reminder_failed_at is null and reminder_stage < $4",
        id,
        error,
        now,
        stage.cast_signed()
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets the next sweep try again. False if no failure was noted.
pub async fn clear_reminder_failure(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invoices set reminder_failed_at = null, reminder_error = null, updated_at = $2
         where id = $1 and reminder_failed_at is not null",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that all stages went unanswered and an admin was told. False if it was recorded before.
pub async fn end_dunning(db: &mut PgConnection, id: Uuid, now: DateTime<Utc>) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "update invoices set dunning_ended_at = $2, updated_at = $2 where id = $1 and dunning_ended_at is null",
        id,
        now
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

#[cfg(test)]
mod tests {
    use chrono::Duration;
    use sqlx::Executor;

    use super::*;
    use crate::{
        domain::Organization,
        tenant::{self, TenantTx, testing::TestDatabase},
    };

    async fn open(database: &TestDatabase) -> (Organization, TenantTx, Uuid) {
        let organization = database.organization("acme").await;
        let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
        let company = Uuid::now_v7();
        sqlx::query(
            "insert into companies (id, name, email, org_number, created_at, updated_at)
             values ($1, 'Kund', 'kund@example.se', '5561947986', now(), now())",
        )
        .bind(company)
        .execute(&mut *tx)
        .await
        .unwrap();
        (organization, tx, company)
    }

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 1, day).unwrap()
    }

    fn new(company_id: Uuid, number: &str, due: u32) -> NewInvoice {
        let item = |quantity, unit_price, tax_rate: &str| crate::domain::NewItem {
            description: "Arbete".to_owned(),
            quantity: Decimal::from(quantity),
            unit_price,
            tax_rate: tax_rate.parse().unwrap(),
        };
        NewInvoice {
            number: number.to_owned(),
            company_id,
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Unpaid,
            currency: crate::domain::Currency::SEK,
            issue_date: day(1),
            due_date: day(due),
            payment_terms_days: 30,
            notes: None,
            items: vec![item(3, Decimal::new(3333, 3), "0.25"), item(1, Decimal::new(100, 0), "0.06")],
        }
    }

    /// BILL-3
    #[tokio::test]
    async fn totals_are_computed_here_and_read_back_as_they_were_written() {
        let database = TestDatabase::new().await;
        let (organization, mut tx, company) = open(&database).await;

        let made = insert(&mut tx, &new(company, "F-1", 20), organization.created_at).await.unwrap();

        // 3 × 3.333 = 10.00 and 2.50 tax; 100.00 and 6.00 tax
        assert_eq!(
            (made.subtotal.to_string(), made.tax.to_string(), made.total.to_string()),
            ("110.00".to_owned(), "8.50".to_owned(), "118.50".to_owned())
        );
        assert_eq!(made.items.len(), 2);
        assert_eq!(by_number(&mut tx, "F-1").await.unwrap().unwrap(), made);
        assert_eq!(page(&mut tx, &InvoiceFilter::default(), Page::first(10)).await.unwrap(), [made]);
    }

    /// BILL-3
    #[tokio::test]
    async fn paid_records_the_date_and_a_settled_invoice_does_not_change() {
        let database = TestDatabase::new().await;
        let (organization, mut tx, company) = open(&database).await;
        let now = organization.created_at;
        let made = insert(&mut tx, &new(company, "F-1", 20), now).await.unwrap();

        let paid = set_status(&mut tx, made.id, InvoiceStatus::Paid, day(15), now).await.unwrap().unwrap();
        assert_eq!((paid.status, paid.paid_on), (InvoiceStatus::Paid, Some(day(15))));
        let refused = set_status(&mut tx, made.id, InvoiceStatus::Unpaid, day(16), now).await;
        assert!(matches!(refused, Err(StoreError::Transition(_))), "{refused:?}");
    }

    #[tokio::test]
    async fn violations_are_conflicts_on_their_field() {
        let database = TestDatabase::new().await;
        let (organization, mut tx, company) = open(&database).await;
        let now = organization.created_at;
        insert(&mut tx, &new(company, "F-1", 20), now).await.unwrap();
        tx.commit().await.unwrap();

        for (refused, expected) in [(new(company, "F-1", 20), "number"), (new(Uuid::now_v7(), "F-2", 20), "company_id")]
        {
            let mut tx = tenant::begin(&database.pool, &organization).await.unwrap();
            let error = insert(&mut tx, &refused, now).await.unwrap_err();
            assert!(matches!(error, StoreError::Conflict { field, .. } if field == expected), "{error:?}");
        }
    }

    /// BILL-4: the pages follow the index, and its order.
    #[tokio::test]
    async fn overdue_pages_follow_each_other_by_due_date_along_the_index() {
        let database = TestDatabase::new().await;
        let (organization, mut tx, company) = open(&database).await;
        let now = organization.created_at;
        for due in [12, 10, 11, 10, 30] {
            insert(&mut tx, &new(company, &Uuid::now_v7().to_string(), due), now).await.unwrap();
        }

        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = overdue_page(&mut tx, day(20), after, 2).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some((last.due_date, last.id));
            seen.extend(page.iter().map(|invoice| invoice.due_date));
        }

        assert_eq!(seen, [day(10), day(10), day(11), day(12)]);
        assert_eq!(overdue_count(&mut tx, day(20)).await.unwrap(), 4);
        assert_eq!(overdue_count(&mut tx, day(20) + Duration::days(30)).await.unwrap(), 5);
        tx.execute("set local enable_seqscan = off; set local enable_sort = off").await.unwrap();
        let plan: Vec<String> = sqlx::query_scalar(
            "explain select id from invoices
             where status in ('sent', 'unpaid', 'overdue') and dunning_ended_at is null
               and due_date < '2026-01-20' and (due_date, id) > ('2026-01-01', gen_random_uuid())
             order by due_date, id limit 10",
        )
        .fetch_all(&mut *tx)
        .await
        .unwrap();
        assert!(plan.iter().any(|line| line.contains("invoices_open_due_date_idx")), "{plan:?}");
        assert!(plan.iter().all(|line| !line.contains("Sort")), "{plan:?}");
    }
}
