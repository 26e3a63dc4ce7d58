//! Imports invoices from a CSV file (BILL-10): good lines in, bad lines named, and the same file twice changes nothing.

use serde::Serialize;
use sqlx::{Connection, PgConnection};

use super::doors;
use crate::{
    context::App,
    domain::{
        Company, Invoice, NewCompany, NewItem, Organization,
        csv_import::{self, ImportError, ImportedInvoice, LineError},
    },
    store::{Sealer, StoreError, companies, invoices},
    tenant,
};

/// Invoices written in one transaction. A crash in between loses nothing: the same file again goes on.
const CHUNK: usize = 200;

/// What became of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ImportReport {
    pub imported: u64,
    /// There already, and the same.
    pub unchanged: u64,
    pub companies_created: u64,
    /// What was not imported and why, by line.
    pub errors: Vec<LineError>,
}

/// Why a file was not looked at, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ImportFailure {
    #[error(transparent)]
    File(#[from] ImportError),
    #[error("could not write the invoices; the same file can be imported again")]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ImportFailure {
    fn from(error: sqlx::Error) -> Self {
        StoreError::from(error).into()
    }
}

/// Imports a file for the organization; events name `actor`.
pub async fn import_csv(
    app: &App,
    organization: &Organization,
    file: &[u8],
    actor: &str,
) -> Result<ImportReport, ImportFailure> {
    let parsed = csv_import::parse(file)?;
    let mut report = ImportReport { errors: parsed.bad, ..ImportReport::default() };
    for chunk in parsed.invoices.chunks(CHUNK) {
        let mut tx = tenant::begin(&app.db, organization).await?;
        for (line, invoice) in chunk {
            // A savepoint: an invoice that the database refuses takes nobody along.
            let mut point = tx.begin().await?;
            match import_one(&mut point, app, organization, invoice, actor).await {
                Ok(imported) => {
                    point.commit().await?;
                    report.imported += u64::from(imported.invoice);
                    report.unchanged += u64::from(!imported.invoice);
                    report.companies_created += u64::from(imported.company);
                }
                Err(StoreError::Conflict { field, message }) => {
                    point.rollback().await?;
                    report.errors.push(LineError { line: *line, field: field.to_owned(), message });
                }
                Err(other) => return Err(other.into()),
            }
        }
        tx.commit().await?;
    }
    report.errors.sort_by_key(|error| error.line);
    Ok(report)
}

/// What was new.
struct Imported {
    invoice: bool,
    company: bool,
}

async fn import_one(
    db: &mut PgConnection,
    app: &App,
    organization: &Organization,
    imported: &ImportedInvoice,
    actor: &str,
) -> Result<Imported, StoreError> {
    let now = app.clock.now();
    let sealer = Sealer::new(&app.vault, organization.slug.as_str());
    let known = companies::by_org_number(db, sealer, &imported.org_number).await?;
    if let Some(invoice) = invoices::by_number(db, &imported.number).await? {
        if known.is_some_and(|company| is_same(&invoice, &company, imported)) {
            return Ok(Imported { invoice: false, company: false });
        }
        let message = "belongs to an invoice that is there already and differs".to_owned();
        return Err(StoreError::Conflict { field: "number", message });
    }
    let (company_id, created) = match known {
        Some(company) => {
            let change = refreshed(&company, imported);
            if change != as_new(&company) {
                doors::update_company(db, sealer, (company.id, &change), actor, now).await?;
            }
            (company.id, false)
        }
        None => (doors::create_company(db, sealer, &imported.new_company(), actor, now).await?.id, true),
    };
    doors::create_invoice(db, &imported.clone().into_new_invoice(company_id), actor, now).await?;
    Ok(Imported { invoice: true, company: created })
}

fn as_new(company: &Company) -> NewCompany {
    NewCompany {
        name: company.name.clone(),
        email: company.email.clone(),
        org_number: company.org_number.clone(),
        language: company.language,
        phone: company.phone.clone(),
        contact: company.contact.clone(),
    }
}

/// The company as the file has it, with the phone and the contact that no file has.
fn refreshed(company: &Company, imported: &ImportedInvoice) -> NewCompany {
    NewCompany { phone: company.phone.clone(), contact: company.contact.clone(), ..imported.new_company() }
}

/// Whether the file says what is stored. What happened to the invoice since, such as a payment, is no difference.
fn is_same(invoice: &Invoice, company: &Company, imported: &ImportedInvoice) -> bool {
    let items = invoice.items.iter().map(|item| NewItem {
        description: item.description.clone(),
        quantity: item.quantity,
        unit_price: item.unit_price,
        tax_rate: item.tax_rate,
    });
    invoice.company_id == company.id
        && invoice.issue_date == imported.issue_date
        && invoice.due_date == imported.due_date
        && invoice.currency == imported.currency
        && items.eq(imported.items.iter().cloned())
}
