//! The other systems of the organization, as fakes on loopback: who works there, what was bought, where people talk.

use anyhow::Context;
use serde_json::{Value, json};

use crate::demo::{
    overdue::Act,
    vendors::{
        bamboohr::{BambooHr, Person},
        quickbooks::QuickBooks,
        slack::{Door, Slack},
    },
};

/// Who works there before the curtain rises.
pub const STAFF: usize = 36;
/// Of them, who leaves: the place in the list, counted from 1, is the id at BambooHR.
pub const LEAVER: u64 = 5;
/// People a page.
pub const PAGE: usize = 12;

/// What Slack is to be told of, and in which channel.
pub const RULES: [(&str, &str); 4] =
    [("employee.*", PEOPLE), ("workflow.*", IT), ("asset.returned", IT), ("asset.created", PURCHASES)];
pub const PEOPLE: &str = "C0PERSONAL";
pub const IT: &str = "C0ITSTOD";
pub const PURCHASES: &str = "C0INKOPEN";

const FIRST_NAMES: [&str; 6] = ["Maja", "Ali", "Ingrid", "Oskar", "Sara", "Viktor"];
const LAST_NAMES: [(&str, &str); 6] = [
    ("Lind", "lind"),
    ("Åberg", "aberg"),
    ("Haddad", "haddad"),
    ("Nyström", "nystrom"),
    ("Virtanen", "virtanen"),
    ("Dahl", "dahl"),
];
const TITLES: [(&str, &str); 4] = [
    ("Revisor", "Revision"),
    ("Löneadministratör", "Lön"),
    ("Ekonomiassistent", "Redovisning"),
    ("Rådgivare", "Rådgivning"),
];

/// They stop when they are dropped.
pub struct Guests {
    pub bamboohr: BambooHr,
    pub quickbooks: QuickBooks,
    pub slack: Slack,
    /// The address of who comes.
    newcomer: String,
}

impl Guests {
    /// With everybody who works there, and two laptops that were bought earlier.
    pub async fn arrive(act: &Act<'_>) -> anyhow::Result<Self> {
        let clock = &act.stage.app.clock;
        let here = "could not start a server on 127.0.0.1";
        let staff: Vec<Person> = (0..STAFF).map(|n| employee(act, n)).collect();
        let leaver = address_of(act, usize::try_from(LEAVER)? - 1);
        let bamboohr = BambooHr::start_at(staff, clock.clone()).await.context(here)?;
        let quickbooks = QuickBooks::start(clock.clone()).await.context(here)?;
        quickbooks.buy_laptops(2, "2598.00");
        let slack = Slack::start().await.context(here)?;
        slack.patient();
        for channel in [PEOPLE, IT, PURCHASES] {
            slack.channel(channel, Door::Open);
        }
        let newcomer = act.cast.address("mira.solberg", "fyrvakten.example");
        slack.person("U0MIRA", &newcomer);
        slack.person("U0LEAVES", &leaver);
        Ok(Self { bamboohr, quickbooks, slack, newcomer })
    }

    /// What the three integrations are created with: provider, name, configuration, credentials.
    pub fn integrations(&self, act: &Act<'_>) -> [(&'static str, &'static str, Value, Value); 3] {
        let mut people = self.bamboohr.config();
        people["page_size"] = json!(PAGE);
        // The account's limit is learned, also by what a demo before did in this database.
        people["company_domain"] = json!(act.slug().replace("demo", "fyrvakten"));
        [
            ("bamboohr", "BambooHR", people, self.bamboohr.credentials()),
            ("quickbooks", "QuickBooks", self.quickbooks.config(), self.quickbooks.credentials()),
            ("slack", "Slack", self.slack.config(), self.slack.credentials()),
        ]
    }

    /// Pages of employees that BambooHR was asked for.
    pub fn pages_asked(&self) -> usize {
        self.bamboohr.fake.script.asked().iter().filter(|asked| asked.path.ends_with("employee/data")).count()
    }

    /// Messages by channel, oldest first.
    pub fn heard(&self) -> Vec<(&'static str, Vec<String>)> {
        let said = |channel| self.slack.said(channel).into_iter().map(|said| said.text).collect();
        [PEOPLE, IT, PURCHASES].map(|channel| (channel, said(channel))).into()
    }

    /// Somebody who begins in two weeks.
    pub fn hire(&self, act: &Act<'_>) -> u64 {
        let first_day = act.today() + chrono::Days::new(14);
        let person = Person::new("Mira", "Solberg", &self.newcomer)
            .with("hireDate", first_day.to_string())
            .with("jobTitle", "Redovisningskonsult")
            .with("department", "Redovisning")
            .with("location", "Göteborg");
        self.bamboohr.hire(person)
    }
}

fn address_of(act: &Act<'_>, n: usize) -> String {
    let (first, (_, last)) = (FIRST_NAMES[n % 6], LAST_NAMES[n / 6]);
    act.cast.address(&format!("{}.{last}", first.to_lowercase()), "fyrvakten.example")
}

fn employee(act: &Act<'_>, n: usize) -> Person {
    let (title, department) = TITLES[n % 4];
    Person::new(FIRST_NAMES[n % 6], LAST_NAMES[n / 6].0, &address_of(act, n))
        .with("jobTitle", title)
        .with("department", department)
        .with("location", if n.is_multiple_of(3) { "Malmö" } else { "Göteborg" })
        // Numbers for fiction (PTS).
        .with("mobilePhone", format!("070-174 06 {:02}", n + 5))
}
