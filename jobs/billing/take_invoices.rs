//! Invoices as a finance system tells of them (BILL-10), a page at a time, in one transaction of the caller. An invoice is known by
//! its number: what is here and the same stays, what is here and differs is refused, and what was paid there is paid here.

use chrono::NaiveDate;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::doors;
use crate::{
    domain::{
        Invoice, InvoiceStatus, NewInvoice, NewItem, OrgNumber,
        source_record::{InvoiceFacts, InvoiceLineFacts},
    },
    jobs::people::doors::Taking,
    store::{
        Sealer, StoreError,
        companies::{self, Candidate},
        from_source::{Outcome, Taken},
        invoices,
    },
};

/// What became of each of the records. Nothing that is refused is written.
pub async fn take_invoices(
    db: &mut PgConnection,
    _sealer: Sealer<'_>,
    taking: &Taking<'_>,
    records: &[(String, InvoiceFacts)],
) -> Result<Vec<Taken>, StoreError> {
    let numbers: Vec<&str> = records.iter().map(|(_, facts)| facts.number.as_str()).collect();
    let mut known = invoices::by_numbers(db, &numbers).await?;
    let companies = customers(db, records).await?;
    let mut taken = Vec::with_capacity(records.len());
    for (external_id, facts) in records {
        let outcome = match (find(&companies, facts), known.get(&facts.number)) {
            // Voided, and never here.
            (_, None) if facts.lines.is_empty() => Outcome::Unchanged,
            (Err(reason), _) => Outcome::Refused(reason.to_owned()),
            (Ok(company_id), Some(invoice)) => meet(db, taking, (invoice, company_id), facts).await?,
            (Ok(company_id), None) => create(db, taking, company_id, facts).await?,
        };
        // The same number may come twice in a page.
        if let Outcome::Created(id) | Outcome::Updated(id) = outcome
            && let Some(invoice) = invoices::by_id(db, id).await?
        {
            known.insert(facts.number.clone(), invoice);
        }
        taken.push(Taken { external_id: external_id.clone(), outcome });
    }
    Ok(taken)
}

async fn customers(db: &mut PgConnection, records: &[(String, InvoiceFacts)]) -> Result<Vec<Candidate>, StoreError> {
    let facts = || records.iter().map(|(_, facts)| facts);
    let org_numbers: Vec<String> = facts().filter_map(org_number).map(String::from).collect();
    let names: Vec<String> = facts().map(|facts| facts.customer_name.clone()).filter(|name| !name.is_empty()).collect();
    let emails: Vec<String> = facts().filter_map(email).collect();
    companies::candidates(db, &org_numbers, &names, &emails).await
}

/// A number that is none, as of a foreign company, tells nothing.
fn org_number(facts: &InvoiceFacts) -> Option<OrgNumber> {
    OrgNumber::parse(facts.customer_org_number.as_deref()?).ok()
}

fn email(facts: &InvoiceFacts) -> Option<String> {
    Some(facts.customer_email.as_ref()?.as_str().to_lowercase())
}

/// The company: by organization number, which decides alone where there is one, else by name, else by e-mail.
fn find(companies: &[Candidate], facts: &InvoiceFacts) -> Result<Uuid, &'static str> {
    const UNKNOWN: &str = "no company has the organization number, the name or the e-mail of its customer; add the company and run a \
                           full sync";
    if let Some(number) = org_number(facts) {
        let found = companies.iter().find(|company| company.org_number == number);
        return found.map(|company| company.id).ok_or(UNKNOWN);
    }
    let named: Vec<&Candidate> =
        companies.iter().filter(|company| !company.name.is_empty() && company.name == facts.customer_name).collect();
    let email = email(facts);
    let mailed = |company: &&Candidate| Some(company.email.as_str().to_lowercase()) == email;
    let found: Vec<&Candidate> = match named.len() {
        0 => companies.iter().filter(mailed).collect(),
        1 => named,
        _ => named.into_iter().filter(|company| mailed(company)).collect(),
    };
    match found.as_slice() {
        [company] => Ok(company.id),
        [] => Err(UNKNOWN),
        _ => Err(
            "more than one company has the name and the e-mail of its customer; give the customer an organization number",
        ),
    }
}

/// What is here already meets what is told of it.
async fn meet(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    (invoice, company_id): (&Invoice, Uuid),
    facts: &InvoiceFacts,
) -> Result<Outcome, StoreError> {
    let refused = |reason: &str| Ok(Outcome::Refused(reason.to_owned()));
    if facts.lines.is_empty() {
        // Of a voided invoice this is all that is left to know it by.
        if !is_of(invoice, company_id, facts) {
            return refused(
                "it was voided at the source and its number belongs to another invoice here; correct one of the two",
            );
        }
        return match invoice.status {
            InvoiceStatus::Cancelled => Ok(Outcome::Unchanged),
            InvoiceStatus::Paid => refused("it is paid here and was voided at the source"),
            _ => change(db, taking, (invoice.id, InvoiceStatus::Cancelled), taking.now.date_naive()).await,
        };
    }
    if !is_same(invoice, company_id, facts) {
        return refused("its number belongs to an invoice that is there already and differs; correct one of the two");
    }
    match (facts.paid_on, invoice.status) {
        (None, _) | (Some(_), InvoiceStatus::Paid) => Ok(Outcome::Unchanged),
        (Some(_), InvoiceStatus::Draft) => {
            refused("it is paid at the source and a draft here; send it or cancel it here")
        }
        (Some(_), InvoiceStatus::Cancelled) => refused("it is paid at the source and was cancelled here"),
        (Some(paid_on), _) => change(db, taking, (invoice.id, InvoiceStatus::Paid), paid_on).await,
    }
}

async fn change(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    (id, to): (Uuid, InvoiceStatus),
    day: NaiveDate,
) -> Result<Outcome, StoreError> {
    match doors::change_invoice_status(db, (id, to), day, taking.actor, taking.now).await {
        Ok(_) => Ok(Outcome::Updated(id)),
        // Somebody was faster.
        Err(StoreError::Transition(_)) => Ok(Outcome::Unchanged),
        Err(error) => Err(error),
    }
}

/// Whether it is an invoice to the same company, of the same day, in the same currency.
fn is_of(invoice: &Invoice, company_id: Uuid, facts: &InvoiceFacts) -> bool {
    invoice.company_id == company_id && invoice.issue_date == facts.issue_date && invoice.currency == facts.currency
}

/// Whether the source says what is stored. That it was paid since is no difference.
fn is_same(invoice: &Invoice, company_id: Uuid, facts: &InvoiceFacts) -> bool {
    let items = invoice.items.iter().map(|item| InvoiceLineFacts {
        description: item.description.clone(),
        quantity: item.quantity,
        unit_price: item.unit_price,
        tax_rate: item.tax_rate,
    });
    is_of(invoice, company_id, facts) && invoice.due_date == facts.due_date && items.eq(facts.lines.iter().cloned())
}

async fn create(
    db: &mut PgConnection,
    taking: &Taking<'_>,
    company_id: Uuid,
    facts: &InvoiceFacts,
) -> Result<Outcome, StoreError> {
    let new = new_invoice(company_id, facts);
    if let Err(errors) = new.validate() {
        return Ok(Outcome::Refused(errors.to_string()));
    }
    // A savepoint: an invoice that the database refuses takes nobody along.
    let mut point = db.begin().await?;
    let invoice = match doors::create_invoice(&mut point, &new, taking.actor, taking.now).await {
        Ok(invoice) => invoice,
        Err(StoreError::Conflict { field, message }) => {
            point.rollback().await?;
            return Ok(Outcome::Refused(format!("`{field}` {message}")));
        }
        Err(error) => return Err(error),
    };
    if let Some(paid_on) = facts.paid_on {
        let paid = (invoice.id, InvoiceStatus::Paid);
        doors::change_invoice_status(&mut point, paid, paid_on, taking.actor, taking.now).await?;
    }
    point.commit().await?;
    Ok(Outcome::Created(invoice.id))
}

fn new_invoice(company_id: Uuid, facts: &InvoiceFacts) -> NewInvoice {
    let terms = (facts.due_date - facts.issue_date).num_days().clamp(0, 365);
    let items = facts.lines.iter().cloned();
    NewInvoice {
        number: facts.number.clone(),
        company_id,
        project_id: None,
        contract_id: None,
        status: InvoiceStatus::Unpaid,
        currency: facts.currency,
        issue_date: facts.issue_date,
        due_date: facts.due_date,
        payment_terms_days: i32::try_from(terms).unwrap_or(0),
        notes: None,
        items: items
            .map(|InvoiceLineFacts { description, quantity, unit_price, tax_rate }| NewItem {
                description,
                quantity,
                unit_price,
                tax_rate,
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::dec;

    use super::*;
    use crate::{
        domain::{Currency, EmailAddress},
        jobs::testing::World,
        store::from_source::Source,
    };

    fn facts(world: &World, number: &str) -> InvoiceFacts {
        InvoiceFacts {
            number: number.to_owned(),
            customer_org_number: None,
            customer_name: "Kund & Co".to_owned(),
            customer_email: None,
            currency: Currency::SEK,
            issue_date: world.today(),
            due_date: world.today(),
            lines: vec![InvoiceLineFacts {
                description: "Arbete".to_owned(),
                quantity: dec!(10),
                unit_price: dec!(1000),
                tax_rate: dec!(0.25),
            }],
            paid_on: None,
        }
    }

    async fn take(world: &World, facts: &[InvoiceFacts]) -> Vec<Outcome> {
        let taking = Taking {
            organization: &world.organization,
            source: Source { integration_id: Uuid::nil() },
            actor: "test",
            now: world.now(),
            first_run: false,
            trace: None,
        };
        let records: Vec<(String, InvoiceFacts)> =
            facts.iter().enumerate().map(|(n, facts)| (format!("invoice-{n}"), facts.clone())).collect();
        let mut tx = world.tenant().await;
        let sealer = Sealer::new(&world.app.vault, "acme");
        let taken = take_invoices(&mut tx, sealer, &taking, &records).await.unwrap();
        tx.commit().await.unwrap();
        assert!(taken.iter().enumerate().all(|(n, taken)| taken.external_id == format!("invoice-{n}")));
        taken.into_iter().map(|taken| taken.outcome).collect()
    }

    fn created(outcome: &Outcome) -> Uuid {
        let Outcome::Created(id) = outcome else { panic!("{outcome:?}") };
        *id
    }

    /// BILL-10, SYNC-3: also twice in one page.
    #[tokio::test]
    async fn an_invoice_comes_in_once() {
        let world = World::new().await;
        world.invoice("F-1", "kund@example.se", 1).await;
        let new = facts(&world, "QB-1");

        let first = take(&world, &[new.clone(), new.clone()]).await;
        let again = take(&world, &[new]).await;

        let id = created(&first[0]);
        assert_eq!((&first[1], again.as_slice()), (&Outcome::Unchanged, [Outcome::Unchanged].as_slice()));
        let invoice = world.reload(id).await;
        assert_eq!((invoice.status, invoice.total), (InvoiceStatus::Unpaid, dec!(12500)));
        assert_eq!(world.event_kinds(id).await, ["invoice.created"]);
    }

    /// BILL-10: by number, else by name, else by address; a number that nobody has is not overruled by a name.
    #[tokio::test]
    async fn a_customer_is_found_in_the_order_of_certainty() {
        let world = World::new().await;
        let first = world.invoice("F-1", "kund@example.se", 1).await;
        let second = world.invoice("F-2", "annan@example.se", 1).await;
        let sealer = Sealer::new(&world.app.vault, "acme");
        let company = companies::by_id(&mut *world.tenant().await, sealer, second.company_id).await.unwrap().unwrap();
        let email = |text: &str| Some(EmailAddress::parse(text).unwrap());
        let by_number = InvoiceFacts {
            customer_org_number: Some(company.org_number.to_string()),
            customer_email: email("kund@example.se"),
            ..facts(&world, "Q-1")
        };
        // Both are called the same: the address decides.
        let by_name = InvoiceFacts { customer_email: email("KUND@example.se"), ..facts(&world, "Q-2") };
        let nameless = InvoiceFacts { customer_name: String::new(), ..by_name.clone() };
        let by_email = InvoiceFacts { number: "Q-3".to_owned(), ..nameless };
        let by_name_alone = facts(&world, "Q-4");
        let stranger = InvoiceFacts { customer_name: "Ingen AB".to_owned(), ..facts(&world, "Q-5") };
        let other_number = InvoiceFacts { customer_org_number: Some("212000-0142".to_owned()), ..by_name.clone() };

        let outcomes = take(&world, &[by_number, by_name, by_email, by_name_alone, stranger, other_number]).await;

        let mut found = Vec::new();
        for outcome in &outcomes[..3] {
            found.push(world.reload(created(outcome)).await.company_id);
        }
        assert_eq!(found, [second.company_id, first.company_id, first.company_id]);
        for refused in &outcomes[3..] {
            let Outcome::Refused(reason) = refused else { panic!("{refused:?}") };
            assert!(reason.contains("company") && !reason.contains("AB"), "{reason}");
        }
    }

    /// BILL-10
    #[tokio::test]
    async fn an_invoice_that_differs_is_refused_and_stays() {
        let world = World::new().await;
        let stored = world.invoice("F-1", "kund@example.se", 0).await;
        let same = InvoiceFacts { issue_date: stored.issue_date, ..facts(&world, "F-1") };
        let mut dearer = same.clone();
        dearer.lines[0].unit_price = dec!(2000);
        let broken = InvoiceFacts { due_date: world.today() - chrono::Duration::days(1), ..facts(&world, "F-9") };

        let outcomes = take(&world, &[same, dearer, broken]).await;

        assert_eq!(outcomes[0], Outcome::Unchanged);
        assert!(matches!(&outcomes[1], Outcome::Refused(reason) if reason.contains("differs")), "{outcomes:?}");
        assert!(matches!(&outcomes[2], Outcome::Refused(reason) if reason.contains("due_date")), "{outcomes:?}");
        assert_eq!(world.reload(stored.id).await, stored);
    }

    /// BILL-10: a voided invoice cancels no other of its number.
    #[tokio::test]
    async fn a_voided_invoice_cancels_nobody_elses() {
        let world = World::new().await;
        let stored = world.invoice("F-1", "kund@example.se", 0).await;
        let other = world.invoice("F-2", "annan@example.se", 0).await;
        let voided = InvoiceFacts {
            issue_date: stored.issue_date,
            customer_email: Some(EmailAddress::parse("kund@example.se").unwrap()),
            lines: Vec::new(),
            ..facts(&world, "F-1")
        };
        let day = stored.issue_date - chrono::Duration::days(1);
        let wrong = [
            InvoiceFacts { number: "F-2".to_owned(), issue_date: other.issue_date, ..voided.clone() },
            InvoiceFacts { issue_date: day, due_date: day, ..voided.clone() },
            InvoiceFacts { currency: Currency::parse("EUR").unwrap(), ..voided.clone() },
        ];

        for outcome in take(&world, &wrong).await {
            assert!(matches!(&outcome, Outcome::Refused(reason) if reason.contains("another invoice")), "{outcome:?}");
        }
        assert_eq!((world.reload(stored.id).await, world.reload(other.id).await), (stored.clone(), other));
        assert_eq!(take(&world, &[voided]).await, [Outcome::Updated(stored.id)]);
    }

    /// BILL-10: nobody is reminded of what they have paid.
    #[tokio::test]
    async fn what_was_paid_or_voided_there_is_so_here() {
        let world = World::new().await;
        world.invoice("F-1", "kund@example.se", 1).await;
        let paid_on = world.today() - chrono::Duration::days(2);
        let open = facts(&world, "Q-1");
        let paid = InvoiceFacts { paid_on: Some(paid_on), ..open.clone() };
        let born_paid = InvoiceFacts { number: "Q-2".to_owned(), ..paid.clone() };
        let outcomes = take(&world, &[open.clone(), born_paid, facts(&world, "Q-3")]).await;
        let ids: Vec<Uuid> = outcomes.iter().map(created).collect();
        let voided = InvoiceFacts { lines: Vec::new(), ..facts(&world, "Q-3") };
        let never_here = InvoiceFacts { lines: Vec::new(), ..facts(&world, "Q-4") };

        for expected in [
            [Outcome::Updated(ids[0]), Outcome::Updated(ids[2]), Outcome::Unchanged],
            [Outcome::Unchanged, Outcome::Unchanged, Outcome::Unchanged],
        ] {
            assert_eq!(take(&world, &[paid.clone(), voided.clone(), never_here.clone()]).await, expected);
        }

        for id in &ids[..2] {
            let invoice = world.reload(*id).await;
            assert_eq!((invoice.status, invoice.paid_on), (InvoiceStatus::Paid, Some(paid_on)));
        }
        assert_eq!(world.reload(ids[2]).await.status, InvoiceStatus::Cancelled);
        assert_eq!(world.event_kinds(ids[0]).await, ["invoice.created", "invoice.status_changed"]);
    }
}
