//! Who plays: a made-up organization, its customers, and their invoices in every state. Dates are relative to today and
//! keep some days' distance from every limit, so that the story is the same on both sides of midnight.

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike, Days, NaiveDate, NaiveTime, Utc};
use rust_decimal::{Decimal, dec};
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::people::{CUSTOMERS, Customer, WORK};
use crate::{
    context::App,
    domain::{
        BillingStatus, Contact, Currency, EmailAddress, InvoiceStatus, Language, NewCompany, NewInvoice, NewItem,
        NewUser, OrgNumber, Organization, Password, PaymentDetails, Phone, Role, Settings, Slug, Tier,
    },
    jobs::billing,
    store::{Page, Sealer, invoices, organizations, users},
    tenant::{self, CreateError, NewOrganization, TenantTx},
};

const NAME: &str = "Fyrvakten AB";
const ACTOR: &str = "demo";

/// Where an invoice stands when the curtain rises. Numbers are days.
#[derive(Clone, Copy)]
enum Standing {
    Draft,
    Cancelled,
    DueIn(u64),
    PaidAgo(u64),
    /// Past its due date for so long, with so many reminders behind it.
    Overdue(u64, u32),
}

use Standing::{Cancelled, Draft, DueIn, Overdue, PaidAgo};

/// The invoices by customer, as in [`CUSTOMERS`]. The last two customers' mail servers are difficult.
const INVOICES: [&[Standing]; 10] = [
    &[PaidAgo(40), PaidAgo(12), Overdue(3, 0), DueIn(12), DueIn(26)],
    &[PaidAgo(33), Overdue(24, 3), Overdue(4, 1), Draft],
    &[PaidAgo(21), Overdue(9, 1), DueIn(8)],
    &[PaidAgo(55), PaidAgo(25), Overdue(17, 2), Overdue(2, 0), DueIn(19)],
    &[Overdue(10, 1), DueIn(5), Cancelled],
    &[PaidAgo(16), PaidAgo(3), Overdue(5, 0), Draft],
    &[PaidAgo(9), Overdue(18, 2), Overdue(5, 1), DueIn(27)],
    &[PaidAgo(30), Overdue(11, 1), Overdue(3, 0), Draft, Cancelled],
    &[PaidAgo(44), Overdue(6, 0), DueIn(14)],
    &[PaidAgo(60), Overdue(4, 0)],
];

/// Who plays which part.
pub struct Cast {
    pub organization: Organization,
    /// Runs the office.
    pub karin: Employee,
    pub companies: usize,
    pub invoices: usize,
    /// Its mail server turns strangers away once.
    pub greylisted: Uuid,
    /// Its address does not exist.
    pub rejected: Uuid,
    /// Is paid after the sweep and before its mail.
    pub paid_in_time: Uuid,
    /// A company whose phone and contact are shown as they are stored.
    pub sealed: Uuid,
}

/// Somebody with an account.
pub struct Employee {
    pub email: String,
    pub password: SecretString,
}

impl Cast {
    /// An address of this demo; earlier ones in the same database have their own.
    pub fn address(&self, name: &str, domain: &str) -> String {
        address(&self.organization, name, domain)
    }
}

fn address(organization: &Organization, name: &str, domain: &str) -> String {
    let tag = organization.slug.as_str().strip_prefix("demo-").map(|number| format!("+{number}")).unwrap_or_default();
    format!("{name}{tag}@{domain}")
}

/// Creates the organization with everything in it. In a database that has seen a demo before it is called `demo-2`, and
/// so on: the vault keys of the earlier ones are gone, so they are suspended, and nothing of theirs is deleted.
pub async fn assemble(app: &App) -> anyhow::Result<Cast> {
    suspend_earlier_demos(app).await?;
    let organization = found(app).await?;
    let mut tx = tenant::begin(&app.db, &organization).await?;
    let mut seed = Seed { app, organization: &organization, tx: &mut tx, number: 1000 };
    let mut made = Vec::new();
    for (customer, standings) in CUSTOMERS.iter().zip(INVOICES) {
        let company = seed.company(customer).await.with_context(|| format!("could not write {}", customer.name))?;
        let mut invoices = Vec::new();
        for standing in standings {
            let id = seed.invoice(company, customer, *standing).await;
            invoices.push(id.with_context(|| format!("could not write an invoice of {}", customer.name))?);
        }
        made.push((company, invoices));
    }
    tx.commit().await?;
    let karin = employ(app, &organization).await.context("could not employ Karin Holm")?;
    Ok(Cast {
        organization,
        karin,
        companies: made.len(),
        invoices: made.iter().map(|(_, invoices)| invoices.len()).sum(),
        greylisted: made[8].1[1],
        rejected: made[9].1[1],
        paid_in_time: made[5].1[2],
        sealed: made[0].0,
    })
}

/// Karin Holm, with an account and the role of an admin, as `backroom user create` makes them.
async fn employ(app: &App, organization: &Organization) -> anyhow::Result<Employee> {
    let email = address(organization, "karin.holm", "fyrvakten.example");
    let password = SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>()));
    let hash = app.hash_password(Password::parse(password.expose_secret())?).await?;
    let now = app.clock.now();
    let new = NewUser {
        email: EmailAddress::parse(&email)?,
        name: "Karin Holm".to_owned(),
        language: Language::Sv,
        password: Some(hash),
        confirmed_at: Some(now),
    };
    let mut tx = app.db.begin().await?;
    let id = users::create(&mut tx, &new, now).await?.id;
    tenant::join(tx, organization, id, (Role::Admin, None), (ACTOR, now)).await?.commit().await?;
    Ok(Employee { email, password })
}

async fn suspend_earlier_demos(app: &App) -> anyhow::Result<()> {
    let known = organizations::list(&mut *app.db.acquire().await?, Page::first(10_000)).await?;
    for earlier in known.iter().filter(|organization| organization.name == NAME && !organization.is_held()) {
        tenant::set_billing_status(&app.db, &app.clock, earlier, BillingStatus::Suspended).await?;
    }
    Ok(())
}

/// The first of `demo`, `demo-2` … that is free.
async fn found(app: &App) -> anyhow::Result<Organization> {
    let settings = Settings {
        admin_emails: vec![EmailAddress::parse("karin.holm@fyrvakten.example")?],
        payment: PaymentDetails {
            bankgiro: Some("5050-1055".to_owned()),
            iban: Some("SE45 5000 0000 0583 9825 7466".to_owned()),
            payee: Some(NAME.to_owned()),
        },
        ..Settings::default()
    };
    for number in 1..10_000 {
        let slug = if number == 1 { "demo".to_owned() } else { format!("demo-{number}") };
        let new = NewOrganization {
            slug: Slug::parse(&slug)?,
            name: NAME.to_owned(),
            tier: Tier::Pro,
            time_zone: chrono_tz::Europe::Stockholm,
            locale: Language::Sv,
            settings: settings.clone(),
        };
        match tenant::create(&app.db, &app.clock, new).await {
            Err(CreateError::SlugTaken(_)) => {}
            Err(error) => return Err(error).context("could not create the organization"),
            Ok(made) => {
                let active = tenant::set_billing_status(&app.db, &app.clock, &made, BillingStatus::Active).await?;
                return Ok(active.0);
            }
        }
    }
    anyhow::bail!("this database is full of demos: give the next one an empty database in DATABASE_URL")
}

/// Writes rows through the same functions as the API does.
struct Seed<'a> {
    app: &'a App,
    organization: &'a Organization,
    tx: &'a mut TenantTx,
    number: u32,
}

impl Seed<'_> {
    async fn company(&mut self, customer: &Customer) -> anyhow::Result<Uuid> {
        let (name, title) = customer.contact;
        let new = NewCompany {
            name: customer.name.to_owned(),
            email: EmailAddress::parse(customer.email)?,
            org_number: OrgNumber::parse(customer.org_number)?,
            language: customer.language,
            phone: Some(Phone::parse(customer.phone)?),
            contact: Some(Contact {
                name: Some(name.to_owned()),
                title: Some(title.to_owned()),
                phone: None,
                notes: None,
            }),
        };
        new.validate()?;
        let sealer = Sealer::new(&self.app.vault, self.organization.slug.as_str());
        Ok(billing::create_company(self.tx, sealer, &new, ACTOR, self.app.clock.now()).await?.id)
    }

    async fn invoice(&mut self, company_id: Uuid, customer: &Customer, standing: Standing) -> anyhow::Result<Uuid> {
        self.number += 1;
        let today = self.app.clock.today(self.organization.time_zone);
        let due_date = match standing {
            Draft => today + Days::new(30),
            Cancelled => today - Days::new(20),
            DueIn(days) => today + Days::new(days),
            PaidAgo(days) => today - Days::new(days) + Days::new(2),
            Overdue(days, _) => today - Days::new(days),
        };
        let issue_date = due_date - Days::new(30);
        let new = NewInvoice {
            number: format!("{}-{}", today.year(), self.number),
            company_id,
            project_id: None,
            contract_id: None,
            status: if matches!(standing, Draft) { InvoiceStatus::Draft } else { InvoiceStatus::Unpaid },
            currency: Currency::SEK,
            issue_date,
            due_date,
            payment_terms_days: 30,
            notes: None,
            items: items(self.number as usize, customer.language),
        };
        new.validate()?;
        let issued = self.morning(issue_date);
        let id = billing::create_invoice(self.tx, &new, ACTOR, issued).await?.id;
        match standing {
            Draft | DueIn(_) => {}
            Cancelled => self.becomes(id, InvoiceStatus::Cancelled, due_date).await?,
            PaidAgo(days) => self.becomes(id, InvoiceStatus::Paid, today - Days::new(days)).await?,
            Overdue(_, reminders) => self.was_reminded(id, due_date, reminders).await?,
        }
        Ok(id)
    }

    /// The reminders of the past, each on the day that the organization's policy asks for.
    async fn was_reminded(&mut self, id: Uuid, due_date: NaiveDate, reminders: u32) -> anyhow::Result<()> {
        if reminders > 0 {
            self.becomes(id, InvoiceStatus::Overdue, due_date + Days::new(1)).await?;
        }
        for (stage, day) in (1..=reminders).zip(&self.organization.settings.dunning_days) {
            let sent_at = self.morning(due_date + Days::new(u64::from(*day)));
            invoices::record_reminder(self.tx, id, stage, sent_at).await?;
        }
        Ok(())
    }

    async fn becomes(&mut self, id: Uuid, status: InvoiceStatus, day: NaiveDate) -> anyhow::Result<()> {
        let at = self.morning(day);
        billing::change_invoice_status(self.tx, (id, status), day, ACTOR, at).await?;
        Ok(())
    }

    /// Nine o'clock in the organization's time zone, when sweeps run.
    fn morning(&self, day: NaiveDate) -> DateTime<Utc> {
        let nine = day.and_time(NaiveTime::MIN) + chrono::Duration::hours(9);
        nine.and_local_timezone(self.organization.time_zone).earliest().map_or(nine.and_utc(), |at| at.to_utc())
    }
}

/// Two lines of work, different from invoice to invoice.
fn items(number: usize, language: Language) -> Vec<NewItem> {
    let line = |at: usize| {
        let (swedish, english, quantity, unit_price) = WORK[at % WORK.len()];
        let description = if language == Language::Sv { swedish } else { english };
        NewItem {
            description: description.to_owned(),
            quantity: Decimal::from(quantity),
            unit_price: Decimal::from(unit_price),
            tax_rate: dec!(0.25),
        }
    };
    vec![line(number), line(number * 3 + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BILL-1: the program refuses a customer that it would refuse from anybody else.
    #[test]
    fn the_customers_are_valid_and_different() {
        let mut numbers = std::collections::HashSet::new();
        for customer in CUSTOMERS {
            assert!(numbers.insert(OrgNumber::parse(customer.org_number).unwrap()), "{}", customer.name);
            EmailAddress::parse(customer.email).unwrap();
            Phone::parse(customer.phone).unwrap();
        }
        assert!(CUSTOMERS[8].email.starts_with("greylist") && CUSTOMERS[9].email.starts_with("reject"));
    }
}
