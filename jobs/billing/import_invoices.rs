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
    // A large file takes longer to read than a runtime thread may be kept from others.
    let file = file.to_vec();
    let parsed = tokio::task::spawn_blocking(move || csv_import::parse(&file)).await;
    let parsed = parsed.expect("the parser does not panic")?;
    let mut report = ImportReport { errors: parsed.bad, ..ImportReport::default() };
    let import = Import { app, organization, actor };
    for chunk in parsed.invoices.chunks(CHUNK) {
        import.chunk(chunk, &mut report).await?;
    }
    report.errors.sort_by_key(|error| error.line);
    Ok(report)
}

struct Import<'a> {
    app: &'a App,
    organization: &'a Organization,
    actor: &'a str,
}

impl<'a> Import<'a> {
    fn sealer(&self) -> Sealer<'a> {
        Sealer::new(&self.app.vault, self.organization.slug.as_str())
    }

    /// One transaction. What is known already is fetched with one query per table, so that the part of a file that an earlier
    /// run imported is passed quickly.
    async fn chunk(&self, chunk: &[(u64, ImportedInvoice)], report: &mut ImportReport) -> Result<(), ImportFailure> {
        let mut tx = tenant::begin(&self.app.db, self.organization).await?;
        let numbers: Vec<&str> = chunk.iter().map(|(_, invoice)| invoice.number.as_str()).collect();
        let org_numbers: Vec<&str> = chunk.iter().map(|(_, invoice)| invoice.org_number.as_str()).collect();
        let known = invoices::by_numbers(&mut tx, &numbers).await?;
        let mut companies = companies::by_org_numbers(&mut tx, self.sealer(), &org_numbers).await?;
        for (line, imported) in chunk {
            let company = companies.get(&imported.org_number);
            if let Some(invoice) = known.get(&imported.number) {
                if company.is_some_and(|company| is_same(invoice, company, imported)) {
                    report.unchanged += 1;
                } else {
                    let message = "belongs to an invoice that is there already and differs".to_owned();
                    report.errors.push(LineError { line: *line, field: "number".to_owned(), message });
                }
                continue;
            }
            // A savepoint: an invoice that the database refuses takes nobody along.
            let mut point = tx.begin().await?;
            match self.write(&mut point, company, imported).await {
                Ok(written) => {
                    point.commit().await?;
                    report.imported += 1;
                    report.companies_created += u64::from(company.is_none());
                    companies.insert(imported.org_number.clone(), written);
                }
                Err(StoreError::Conflict { field, message }) => {
                    point.rollback().await?;
                    report.errors.push(LineError { line: *line, field: field.to_owned(), message });
                }
                Err(other) => return Err(other.into()),
            }
        }
        Ok(tx.commit().await?)
    }

    /// A new invoice, and its company as the file has it. Answers the company.
    async fn write(
        &self,
        db: &mut PgConnection,
        known: Option<&Company>,
        imported: &ImportedInvoice,
    ) -> Result<Company, StoreError> {
        let (sealer, actor, now) = (self.sealer(), self.actor, self.app.clock.now());
        let company = match known {
            None => doors::create_company(db, sealer, &imported.new_company(), actor, now).await?,
            Some(company) => {
                let change = refreshed(company, imported);
                let updated = if change == as_new(company) {
                    None
                } else {
                    doors::update_company(db, sealer, (company.id, &change), actor, now).await?
                };
                updated.unwrap_or_else(|| company.clone())
            }
        };
        doors::create_invoice(db, &imported.clone().into_new_invoice(company.id), actor, now).await?;
        Ok(company)
    }
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

    /// BILL-10: what one line changes, the next one in the same chunk meets.
    #[tokio::test]
    async fn a_company_is_created_once_and_takes_its_last_name_from_the_file() {
        let world = World::new().await;
        let second = GOOD.replace("F-1", "F-2").replace("Kund AB", "Kund & Co AB");
        let third = second.replace("F-2", "F-3");

        let report = import(&world, &[GOOD, &second, &third]).await;

        assert_eq!(report, ImportReport { imported: 3, companies_created: 1, ..ImportReport::default() });
        let sql = "select string_agg(kind, ' ' order by id) from events where topic like 'company:%'";
        let kinds: String = sqlx::query_scalar(sql).fetch_one(&mut *world.tenant().await).await.unwrap();
        assert_eq!(kinds, "company.created company.updated");
    }

    /// BILL-10: `cargo test --release --lib twenty_thousand_invoices -- --ignored --nocapture`
    #[tokio::test]
    #[ignore = "a measurement: a minute"]
    async fn twenty_thousand_invoices_are_imported_twice() {
        let world = World::new().await;
        let lines: Vec<String> = (0..20_000).map(|n| GOOD.replace("F-1", &format!("F-{n}"))).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        for (imported, unchanged) in [(20_000, 0), (0, 20_000)] {
            let started = std::time::Instant::now();
            let report = import(&world, &lines).await;
            println!("{} new, {} known in {:?}", report.imported, report.unchanged, started.elapsed());
            assert_eq!((report.imported, report.unchanged), (imported, unchanged));
        }
    }
}
