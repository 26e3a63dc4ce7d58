//! `asset_transactions` (ASSET-4): what happened to assets. Rows are added and never changed; the database sees to that.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use secrecy::ExposeSecret;
use sqlx::{PgConnection, QueryBuilder};
use uuid::Uuid;

use super::{Page, Sealer, StoreError, stored};
use crate::domain::{
    AssetStatus, Condition,
    asset::{Custody, TransactionKind},
};

const TABLE: &str = "asset_transactions";

/// Something that happened to an asset.
#[derive(Clone, Debug)]
pub struct NewTransaction<'a> {
    pub asset_id: Uuid,
    pub kind: TransactionKind,
    /// Where the asset stood; `None`: it is new.
    pub from: Option<Custody>,
    pub to: Custody,
    /// Who did it, as events name them.
    pub actor: &'a str,
    pub ip: Option<&'a str>,
    pub user_agent: Option<&'a str>,
    /// In the asset's currency. Sealed.
    pub amount: Option<Decimal>,
    /// Sealed.
    pub note: Option<&'a str>,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq)]
pub struct Transaction {
    pub id: Uuid,
    pub asset_id: Uuid,
    pub kind: TransactionKind,
    pub from_status: Option<AssetStatus>,
    pub to_status: AssetStatus,
    pub from_employee_id: Option<Uuid>,
    pub to_employee_id: Option<Uuid>,
    pub from_location_id: Option<Uuid>,
    pub to_location_id: Option<Uuid>,
    pub condition: Condition,
    pub actor: String,
    pub ip: Option<String>,
    pub user_agent: Option<String>,
    pub amount: Option<Decimal>,
    pub note: Option<String>,
    pub created_at: DateTime<Utc>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    asset_id: Uuid,
    kind: String,
    from_status: Option<String>,
    to_status: String,
    from_employee_id: Option<Uuid>,
    to_employee_id: Option<Uuid>,
    from_location_id: Option<Uuid>,
    to_location_id: Option<Uuid>,
    condition: String,
    actor: String,
    ip: Option<String>,
    user_agent: Option<String>,
    amount: Option<Vec<u8>>,
    note: Option<Vec<u8>>,
    created_at: DateTime<Utc>,
}

impl Row {
    fn open(self, sealer: Sealer<'_>) -> Result<Transaction, StoreError> {
        let place = |column| sealer.place(TABLE, column, self.id);
        let amount = self.amount.as_ref().map(|sealed| sealer.vault.open_decimal(&place("amount"), sealed));
        let note = self.note.as_ref().map(|sealed| sealer.vault.open_text(&place("note"), sealed)).transpose()?;
        let from = self.from_status.as_deref().map(|from| stored("asset_transactions.from_status", from));
        Ok(Transaction {
            id: self.id,
            asset_id: self.asset_id,
            kind: stored("asset_transactions.kind", &self.kind)?,
            from_status: from.transpose()?,
            to_status: stored("asset_transactions.to_status", &self.to_status)?,
            from_employee_id: self.from_employee_id,
            to_employee_id: self.to_employee_id,
            from_location_id: self.from_location_id,
            to_location_id: self.to_location_id,
            condition: stored("asset_transactions.condition", &self.condition)?,
            actor: self.actor,
            ip: self.ip,
            user_agent: self.user_agent,
            amount: amount.transpose()?,
            note: note.map(|note| note.expose_secret().to_owned()),
            created_at: self.created_at,
        })
    }
}

/// Appends them in one statement, in their order.
pub async fn append(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    transactions: &[NewTransaction<'_>],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if transactions.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = transactions.iter().map(|_| Uuid::now_v7()).collect();
    let of = |get: fn(&Custody) -> Option<Uuid>| -> [Vec<Option<Uuid>>; 2] {
        let from = transactions.iter().map(|t| t.from.as_ref().and_then(get)).collect();
        [from, transactions.iter().map(|t| get(&t.to)).collect()]
    };
    let [from_employees, to_employees] = of(|custody| custody.employee_id);
    let [from_locations, to_locations] = of(|custody| custody.location_id);
    let from: Vec<_> = transactions.iter().map(|t| t.from.map(|from| from.status.as_str().to_owned())).collect();
    let each = || ids.iter().zip(transactions);
    let amounts: Vec<Option<Vec<u8>>> = each()
        .map(|(id, t)| t.amount.map(|amount| sealer.vault.seal_decimal(&sealer.place(TABLE, "amount", *id), amount)))
        .collect();
    let notes: Vec<Option<Vec<u8>>> = each()
        .map(|(id, t)| t.note.map(|note| sealer.vault.seal_text(&sealer.place(TABLE, "note", *id), note)))
        .collect();
    sqlx::query!(
        "insert into asset_transactions (id, asset_id, kind, from_status, to_status, from_employee_id, to_employee_id,
             from_location_id, to_location_id, condition, actor, ip, user_agent, amount, note, created_at)
         select t.*, $16
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::uuid[],
                     $9::uuid[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[], $15::bytea[]) as t",
        &ids,
        &transactions.iter().map(|t| t.asset_id).collect::<Vec<_>>(),
        &transactions.iter().map(|t| t.kind.as_str().to_owned()).collect::<Vec<_>>(),
        &from as &[Option<String>],
        &transactions.iter().map(|t| t.to.status.as_str().to_owned()).collect::<Vec<_>>(),
        &from_employees as &[Option<Uuid>],
        &to_employees as &[Option<Uuid>],
        &from_locations as &[Option<Uuid>],
        &to_locations as &[Option<Uuid>],
        &transactions.iter().map(|t| t.to.condition.as_str().to_owned()).collect::<Vec<_>>(),
        &transactions.iter().map(|t| t.actor.to_owned()).collect::<Vec<_>>(),
        &transactions.iter().map(|t| t.ip.map(str::to_owned)).collect::<Vec<_>>() as &[Option<String>],
        &transactions.iter().map(|t| t.user_agent.map(str::to_owned)).collect::<Vec<_>>() as &[Option<String>],
        &amounts as &[Option<Vec<u8>>],
        &notes as &[Option<Vec<u8>>],
        now
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Whose history.
#[derive(Clone, Copy, Debug)]
pub enum Of {
    Asset(Uuid),
    /// All that came to an employee and went from them.
    Employee(Uuid),
}

pub async fn page(
    db: &mut PgConnection,
    sealer: Sealer<'_>,
    of: Of,
    page: Page,
) -> Result<Vec<Transaction>, StoreError> {
    let mut query = QueryBuilder::new(
        "select id, asset_id, kind, from_status, to_status, from_employee_id, to_employee_id, from_location_id,
                to_location_id, condition, actor, ip, user_agent, amount, note, created_at
         from asset_transactions where ",
    );
    match of {
        Of::Asset(asset) => query.push("asset_id = ").push_bind(asset),
        Of::Employee(employee) => {
            query.push("(from_employee_id = ").push_bind(employee);
            query.push(" or to_employee_id = ").push_bind(employee).push(")")
        }
    };
    page.push_to(&mut query);
    let rows: Vec<Row> = query.build_query_as().fetch_all(db).await?;
    rows.into_iter().map(|row| row.open(sealer)).collect()
}
