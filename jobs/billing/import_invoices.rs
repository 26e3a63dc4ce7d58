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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{jobs::testing::World, store::Page, store::invoices::InvoiceFilter};

    const HEADER: &str = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,quantity,unit_price,tax_rate";

    fn file(lines: &[&str]) -> Vec<u8> {
        std::iter::once(HEADER).chain(lines.iter().copied()).map(|line| format!("{line}\n")).collect::<String>().into()
    }

    async fn import(world: &World, lines: &[&str]) -> ImportReport {
        import_csv(&world.app, &world.organization, &file(lines), "test").await.unwrap()
    }

    const GOOD: &str = "F-1,556194-7986,Kund AB,kund@example.se,sv,2026-01-01,2026-01-31,SEK,Arbete,10,1000.00,0.25";

    /// BILL-10
    #[tokio::test]
    async fn good_lines_go_in_and_bad_lines_are_named() {
        let world = World::new().await;

        let report = import(
            &world,
            &[
                GOOD,
                "F-1,556194-7986,Kund AB,kund@example.se,sv,2026-01-01,2026-01-31,SEK,Resa,1,500.00,0.06",
                "F-2,123456-7890,Fel AB,fel@example.se,sv,2026-01-01,2026-01-31,SEK,Arbete,1,1.00,0.25",
                "F-3,556194-7986,Kund AB,kund@example.se,sv,2026-01-01,2026-01-31,SEK,Arbete,1,1.00,0.25",
            ],
        )
        .await;

        assert_eq!((report.imported, report.unchanged, report.companies_created), (2, 0, 1));
        assert_eq!(report.errors.len(), 1, "{:?}", report.errors);
        assert_eq!((report.errors[0].line, report.errors[0].field.as_str()), (4, "org_number"));
        let invoice = invoices::by_number(&mut *world.tenant().await, "F-1").await.unwrap().unwrap();
        assert_eq!(invoice.items.len(), 2);
        assert_eq!(invoice.total.to_string(), "13030.00");
    }

    /// BILL-10
    #[tokio::test]
    async fn the_same_file_twice_changes_nothing_and_a_different_invoice_is_an_error() {
        let world = World::new().await;
        import(&world, &[GOOD]).await;

        let again = import(&world, &[GOOD]).await;
        let changed = import(&world, &[&GOOD.replace("1000.00", "2000.00")]).await;

        assert_eq!(again, ImportReport { unchanged: 1, ..ImportReport::default() });
        assert_eq!((changed.imported, changed.unchanged, changed.errors.len()), (0, 0, 1));
        assert_eq!((changed.errors[0].line, changed.errors[0].field.as_str()), (2, "number"));
        let all = invoices::page(&mut *world.tenant().await, &InvoiceFilter::default(), Page::first(10)).await.unwrap();
        assert_eq!(all.len(), 1);
    }

    /// BILL-10
    #[tokio::test]
    async fn a_wrong_header_imports_nothing() {
        let world = World::new().await;
        let failed = import_csv(&world.app, &world.organization, b"nummer,belopp\n1,2\n", "test").await;
        assert!(matches!(failed, Err(ImportFailure::File(ImportError::Header { .. }))), "{failed:?}");
    }
}
