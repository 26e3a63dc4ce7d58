//! A small world for job tests: a database with one organization, a mailbox that speaks SMTP, a clock that stands still.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc};

use backroom_queue::{Job, NewJob, Outcome, Registry, run_inline};
use chrono::{DateTime, Duration, NaiveDate, TimeZone, Utc};
use rust_decimal::dec;
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::{
    config::Config,
    context::App,
    domain::{
        Clock, Currency, EmailAddress, Invoice, InvoiceStatus, Language, NewCompany, NewInvoice, NewItem, OrgNumber,
        Organization,
    },
    mail::mailbox::{Mailbox, MailboxRules},
    store::{
        Sealer, events, invoices,
        organizations::{self, OrganizationChange},
    },
    tenant::{self, TenantTx, testing::TestDatabase},
    vault,
};

pub struct World {
    pub app: Arc<App>,
    pub organization: Organization,
    pub mailbox: Mailbox,
    pub registry: Arc<Registry<App>>,
    // Dropped after the app's pool.
    pub database: TestDatabase,
    _mailbox: DropGuard,
}

impl World {
    /// Monday 2 March 2026, 09:00 in Stockholm.
    pub async fn new() -> Self {
        Self::with(&[]).await
    }

    /// The same day, with these settings besides.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let clock = Clock::fixed(Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap());
        let database = TestDatabase::new().await;
        let organization = database.organization("acme").await;
        let shutdown = CancellationToken::new();
        let mailbox =
            Mailbox::start((Ipv4Addr::LOCALHOST, 0).into(), MailboxRules::default(), clock.clone(), shutdown.clone())
                .await
                .unwrap();
        let mut vars = BTreeMap::from(
            [
                ("DATABASE_URL", database.url()),
                ("BACKROOM__DATABASE__MAX_CONNECTIONS", "4".to_owned()),
                ("BACKROOM__MAIL__SMTP_URL", mailbox.url()),
                ("BACKROOM__VAULT__KEYS", vault::generate_key()),
                ("BACKROOM__VAULT__INDEX_KEY", vault::generate_index_key()),
                ("BACKROOM__JOBS__DEBUG_KINDS", "true".to_owned()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        vars.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let app = App::connect(Config::from_vars(&vars).unwrap(), clock).await.unwrap();
        let registry = Arc::new(super::registry(&app.config));
        Self { app, organization, mailbox, registry, database, _mailbox: shutdown.drop_guard() }
    }

    pub async fn tenant(&self) -> TenantTx {
        tenant::begin(&self.app.db, &self.organization).await.unwrap()
    }

    /// Waits until a connection to the database waits for another's lock.
    pub async fn until_somebody_waits(&self) {
        self.database.until_somebody_waits().await;
    }

    pub fn now(&self) -> DateTime<Utc> {
        self.app.clock.now()
    }

    pub fn today(&self) -> NaiveDate {
        self.app.clock.today(self.organization.time_zone)
    }

    /// An unpaid invoice over 12 500 kr to `email`, due so many days ago.
    pub async fn invoice(&self, number: &str, email: &str, days_overdue: i64) -> Invoice {
        let due_date = self.today() - Duration::days(days_overdue);
        let mut tx = self.tenant().await;
        let sealer = Sealer::new(&self.app.vault, "acme");
        let company = NewCompany {
            name: "Kund & Co".to_owned(),
            email: EmailAddress::parse(email).unwrap(),
            org_number: org_number(),
            language: Language::Sv,
            phone: None,
            contact: None,
        };
        let company = super::billing::create_company(&mut tx, sealer, &company, "test", self.now()).await.unwrap();
        let new = NewInvoice {
            number: number.to_owned(),
            company_id: company.id,
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Unpaid,
            currency: Currency::SEK,
            issue_date: due_date - Duration::days(30),
            due_date,
            payment_terms_days: 30,
            notes: None,
            items: vec![NewItem {
                description: "Arbete".to_owned(),
                quantity: dec!(10),
                unit_price: dec!(1000),
                tax_rate: dec!(0.25),
            }],
        };
        let invoice = super::billing::create_invoice(&mut tx, &new, "test", self.now()).await.unwrap();
        tx.commit().await.unwrap();
        invoice
    }

    /// Who hears about invoices that no reminder got paid.
    pub async fn set_admins(&mut self, emails: &[&str]) {
        let mut settings = self.organization.settings.clone();
        settings.admin_emails = emails.iter().map(|email| EmailAddress::parse(email).unwrap()).collect();
        let change = OrganizationChange { settings: Some(settings), ..OrganizationChange::default() };
        let mut db = self.app.db.acquire().await.unwrap();
        self.organization = organizations::update(&mut db, self.organization.id, &change, self.now()).await.unwrap();
    }

    /// As if `stage` reminders had gone out, the last one so many days ago.
    pub async fn pretend_reminded(&self, id: Uuid, stage: u32, days_ago: i64) {
        let mut tx = self.tenant().await;
        invoices::record_reminder(&mut tx, id, stage, self.now() - Duration::days(days_ago)).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// As many invoices like this one.
    pub async fn copy_invoice(&self, id: Uuid, copies: u32) {
        let sql = "insert into invoices (id, number, company_id, status, currency, issue_date, due_date, subtotal, tax,
                       total, created_at, updated_at)
                   select gen_random_uuid(), number || '-' || n, company_id, status, currency, issue_date, due_date,
                       subtotal, tax, total, created_at, updated_at
                   from invoices, generate_series(1, $2) n where id = $1";
        let mut tx = self.tenant().await;
        sqlx::query(sql).bind(id).bind(copies.cast_signed()).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn reload(&self, id: Uuid) -> Invoice {
        invoices::by_id(&mut *self.tenant().await, id).await.unwrap().unwrap()
    }

    pub async fn event_kinds(&self, id: Uuid) -> Vec<String> {
        let topic = format!("invoice:{id}");
        let page = events::page(&mut *self.tenant().await, Some(&topic), crate::store::Page::first(100)).await.unwrap();
        page.into_iter().map(|event| event.kind).collect()
    }

    pub fn job(&self, job: &impl Job) -> NewJob {
        NewJob::of(job).tenant("acme")
    }

    /// One attempt, here and now.
    pub async fn run(&self, job: &impl Job) -> Outcome {
        run_inline(&self.app.db, &self.registry, self.app.clone(), self.job(job), |_, _| {}).await.unwrap().0
    }
}

/// A valid number that is new each time: companies are unique by it.
fn org_number() -> OrgNumber {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        if let Some(number) = (0..10).find_map(|check| OrgNumber::parse(&format!("5560{serial:05}{check}")).ok()) {
            return number;
        }
    }
}
