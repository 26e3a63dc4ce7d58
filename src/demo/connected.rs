//! Act III: the organization's other systems are connected, and what happens there has consequences here.

mod guests;
mod truth;

use std::time::Duration;

use anyhow::Context;
use backroom_queue::{Job, JobRecord, JobState};
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::guests::Guests;
use self::guests::{LEAVER, PAGE, RULES, STAFF};
use super::{
    overdue::{Act, LOOK_EVERY, PATIENCE, id_of},
    screen::Column::{Left, Right},
    vendors::Mood,
};
use crate::jobs::people::{StartOffboarding, StartOnboarding};

/// Tells the act and answers whether everything came out as told.
pub async fn play(act: &Act<'_>, guests: &Guests) -> anyhow::Result<bool> {
    act.screen.act("III", "What happens elsewhere has consequences here");
    let connected = act.connect(guests).await?;
    let people = act.read_everybody(guests, &connected).await?;
    let purchases = act.read_purchases(guests, &connected).await?;
    let bought = act.buy(guests, &connected).await?;
    let hire = act.hire(guests, &connected, &bought).await?;
    let leave = act.leave(guests, &connected).await?;
    act.tell_what_slack_heard(guests).await?;
    let told = Told { connected, people, purchases, bought, hire, leave };
    act.check_connected(guests, &told).await
}

/// The integrations' ids, and what their tests answered.
struct Connected {
    bamboohr: Uuid,
    quickbooks: Uuid,
    tests: Vec<bool>,
}

/// How a first run went.
struct FirstRun {
    job: JobRecord,
    run: Value,
    /// Calls for records, the refused one with them.
    calls: usize,
    /// What was stored after it.
    stored: usize,
}

/// Who came or went, and the workflow of it.
struct Turn {
    employee: Value,
    workflow: Uuid,
}

/// All that the act told, to be looked at once more.
struct Told {
    connected: Connected,
    people: FirstRun,
    purchases: FirstRun,
    bought: Value,
    hire: Turn,
    leave: Turn,
}

impl Act<'_> {
    async fn connect(&self, guests: &Guests) -> anyhow::Result<Connected> {
        self.screen.step("Three other systems are connected");
        self.screen.say(
            "The employees are in BambooHR, the purchases in QuickBooks, and people talk in Slack. Here each is a fake on \
             127.0.0.1 with the vendor's paths, keys, pages and limits. What it takes to connect one:",
        );
        self.screen.code(
            "POST /api/v1/integrations\n  {\"provider\":\"bamboohr\",\"name\":\"BambooHR\",\"config\":{…},\"credentials\":{\"api_key\":\"…\"}}\n\
             POST /api/v1/integrations/{id}/test",
        );
        let (mut ids, mut tests) = (Vec::new(), Vec::new());
        for (provider, name, config, credentials) in guests.integrations(self) {
            let order = json!({ "provider": provider, "name": name, "config": config, "credentials": credentials });
            let id = id_of(&self.api.post("/api/v1/integrations", &order).await?)?;
            let test = self.api.post(&format!("/api/v1/integrations/{id}/test"), &json!({})).await?;
            let good = test["ok"] == true;
            let mark = if good { "✓" } else { "✗" };
            self.screen.fact(&format!("{mark} {name}"), &format!("{}.", text(&test["message"])));
            ids.push(id);
            tests.push(good);
        }
        for (events, channel) in RULES {
            let rule = json!({ "integration_id": ids[2], "events": events, "channel": channel, "language": "en" });
            self.api.post("/api/v1/notification-rules", &rule).await?;
        }
        self.screen.say("And what is to be told in Slack, and where (`POST /api/v1/notification-rules`):");
        let rows = RULES.map(|(events, channel)| vec![channel.to_owned(), events.to_owned()]);
        self.screen.table(&[Left("CHANNEL"), Left("EVENTS")], rows);
        Ok(Connected { bamboohr: ids[0], quickbooks: ids[1], tests })
    }

    /// The first full run, looked at between its pages: the fake answers one only after the API was asked how far it is.
    async fn read_everybody(&self, guests: &Guests, connected: &Connected) -> anyhow::Result<FirstRun> {
        self.screen.step("Everybody is read, and BambooHR wants a pause");
        self.screen.say(&format!(
            "The first run reads everything: {PAGE} people a page, and with each page the place where the next one begins is \
             stored. After two pages BambooHR has had enough:"
        ));
        let (script, before) = (&guests.bamboohr.fake.script, guests.pages_asked());
        for mood in [Mood::Stalls, Mood::Stalls, Mood::busy(429, Some(Duration::from_secs(1)), ""), Mood::Stalls] {
            script.next("employee/data", mood);
        }
        let job = self.ask_for_run(connected.bamboohr).await?;
        let waiting = self.screen.waiting("the first page is asked for");
        let mut rows = Vec::new();
        for (call, answer) in [
            (1, "asks for the first page"),
            (2, "asks for the second page"),
            (3, "asks for the third page: 429, Retry-After: 1"),
            (4, "asks for the third page again"),
        ] {
            self.until("BambooHR is asked for a page", || guests.pages_asked() >= before + call).await?;
            let run = self.last_run(connected.bamboohr).await?;
            waiting.set(format!("{} of {STAFF} people are read", run["read"]));
            rows.push(progress(&run, answer));
            if call != 3 {
                script.let_go();
            }
        }
        drop(waiting);
        let job = self.ended("the rest is read", job).await?;
        let run = self.last_run(connected.bamboohr).await?;
        rows.push(progress(&run, text(&run["state"])));
        self.screen.table(&[Right("READ"), Right("OF"), Left("THE RUN")], rows);
        self.screen.gap();
        self.screen.fact(
            "↻ 429",
            "The run kept its place and the job gave its worker back. A second later it went on with that very page; nothing \
             was read twice.",
        );
        let stored = self.count("employees").await?;
        Ok(FirstRun { job, run, calls: guests.pages_asked() - before, stored })
    }

    /// The first full run of the books, which fails once.
    async fn read_purchases(&self, guests: &Guests, connected: &Connected) -> anyhow::Result<FirstRun> {
        self.screen.step("Purchases are read, and QuickBooks stumbles");
        self.screen.say(
            "Rules of the integration say which lines of a purchase are equipment. So far there is one purchase: two laptops, \
             and paper. The first question is answered with 500:",
        );
        let script = &guests.quickbooks.fake.script;
        script.next("/query", Mood::busy(500, None, "Internal Server Error"));
        let asked = || script.asked().iter().filter(|asked| asked.path.ends_with("/query")).count();
        let before = asked();
        let id = self.ask_for_run(connected.quickbooks).await?;
        self.comes_to("QuickBooks stumbles", id, |job| !job.errors.is_empty() || job.state.is_finished()).await?;
        // 409: its time had come already.
        let hastened = self.api.try_post(&format!("/api/v1/jobs/{id}/retry")).await? == 202;
        let job = self.ended("the purchases are read", id).await?;
        let run = self.last_run(connected.quickbooks).await?;
        for error in &job.errors {
            let how = match hastened {
                true => {
                    "It would have waited for up to ten seconds; `POST /api/v1/jobs/{id}/retry` had it go on at once"
                }
                false => "It waited in the database and went on by itself",
            };
            self.screen.fact("↻ 500", &format!("The job noted “{}”. {how}: {}.", error.error, job.state.as_str()));
        }
        let laptops = self.laptops().await?;
        self.screen.table(&LAPTOP, laptops.iter().map(laptop));
        let leaver = self.employee(LEAVER).await?;
        for laptop in &laptops {
            let path = format!("/api/v1/assets/{}/assign", id_of(laptop)?);
            self.api.post(&path, &json!({ "employee_id": leaver["id"] })).await?;
        }
        self.screen.gap();
        self.screen.say(&format!(
            "The paper is no equipment. Both laptops are handed out to {} (`POST /api/v1/assets/{{id}}/assign`).",
            name(&leaver)
        ));
        Ok(FirstRun { job, run, calls: asked() - before, stored: laptops.len() })
    }

    /// A purchase at QuickBooks becomes a laptop here.
    async fn buy(&self, guests: &Guests, connected: &Connected) -> anyhow::Result<Value> {
        self.screen.step("A purchase becomes a laptop");
        let known: Vec<Value> = self.laptops().await?.into_iter().map(|laptop| laptop["id"].clone()).collect();
        guests.quickbooks.buy_laptops(1, "1349.00");
        let run = self.run(connected.quickbooks, "the purchase is read").await?;
        let new: Vec<Value> =
            self.laptops().await?.into_iter().filter(|laptop| !known.contains(&laptop["id"])).collect();
        self.screen.say(&format!(
            "Somebody buys one by card and books it. The next run ({}) reads what has changed:",
            text(&run["mode"])
        ));
        self.screen.table(&LAPTOP, new.iter().map(laptop));
        new.into_iter().next().context("the purchase has not become a laptop")
    }

    /// Somebody comes: an onboarding starts.
    async fn hire(&self, guests: &Guests, connected: &Connected, bought: &Value) -> anyhow::Result<Turn> {
        self.screen.step("Somebody is hired");
        let id = guests.hire(self);
        let run = self.run(connected.bamboohr, "the hire is read").await?;
        let employee = self.employee(id).await?;
        self.screen.say(&format!(
            "{} is written down in BambooHR and begins on {}. The next run reads {} person, stores her, and starts her \
             onboarding, in Swedish like the organization:",
            name(&employee),
            text(&employee["hire_date"]),
            run["read"]
        ));
        let workflow = self.workflow_of(StartOnboarding::KIND, &employee).await?;
        self.screen.table(&[Left("DUE"), Left("STEP")], steps(&workflow));
        let path = format!("/api/v1/assets/{}/assign", id_of(bought)?);
        self.api.post(&path, &json!({ "employee_id": employee["id"] })).await?;
        self.screen.gap();
        self.screen.say(&format!("The new laptop {} is hers.", text(&bought["tag"])));
        Ok(Turn { employee, workflow: id_of(&workflow)? })
    }

    /// Somebody goes: an offboarding starts, with what they hold.
    async fn leave(&self, guests: &Guests, connected: &Connected) -> anyhow::Result<Turn> {
        self.screen.step("Somebody leaves, and has things to give back");
        guests.bamboohr.terminate(LEAVER, self.today());
        self.run(connected.bamboohr, "the termination is read").await?;
        let employee = self.employee(LEAVER).await?;
        self.screen.say(&format!(
            "In BambooHR {} is {} now. The offboarding has a step for each laptop that was handed out:",
            name(&employee),
            text(&employee["status"])
        ));
        let workflow = self.workflow_of(StartOffboarding::KIND, &employee).await?;
        self.screen.table(&[Left("DUE"), Left("STEP")], steps(&workflow));
        let returns = workflow["steps"].as_array().into_iter().flatten().find(|step| !step["asset_id"].is_null());
        let step = id_of(returns.context("the offboarding takes nothing back")?)?;
        let id = id_of(&workflow)?;
        let path = format!("/api/v1/workflows/{id}/steps/{step}/advance");
        self.api.post(&path, &json!({ "return_asset": true })).await?;
        self.screen.gap();
        self.screen.say("The first one comes back, which is one call for the step and the laptop:");
        self.screen.code("POST /api/v1/workflows/{id}/steps/{step_id}/advance  {\"return_asset\":true}");
        Ok(Turn { employee, workflow: id })
    }

    async fn tell_what_slack_heard(&self, guests: &Guests) -> anyhow::Result<()> {
        self.screen.step("What was told in Slack");
        self.all_ended("Slack is told, a message a second in each channel").await?;
        let rows = guests
            .heard()
            .into_iter()
            .flat_map(|(channel, messages)| messages.into_iter().map(move |message| vec![channel.to_owned(), message]));
        self.screen.table(&[Left("CHANNEL"), Left("MESSAGE")], rows);
        Ok(())
    }

    /// Asks for a run of the integration and answers its job.
    async fn ask_for_run(&self, integration: Uuid) -> anyhow::Result<Uuid> {
        let queued = self.api.post(&format!("/api/v1/integrations/{integration}/sync"), &json!({})).await?;
        Ok(queued["job_id"].as_str().context("a run was asked for and has no job")?.parse()?)
    }

    /// Has the integration run and answers its run.
    async fn run(&self, integration: Uuid, doing: &str) -> anyhow::Result<Value> {
        let job = self.ask_for_run(integration).await?;
        let job = self.ended(doing, job).await?;
        anyhow::ensure!(
            job.state == JobState::Completed,
            "expected the run to be completed, but its job is {}: {}",
            job.state,
            job.reason.unwrap_or_default()
        );
        self.last_run(integration).await
    }

    async fn last_run(&self, integration: Uuid) -> anyhow::Result<Value> {
        let runs = self.api.get(&format!("/api/v1/integrations/{integration}/runs?limit=1")).await?;
        runs["runs"].get(0).cloned().context("the integration has no runs")
    }

    /// By the id at BambooHR.
    async fn employee(&self, id: u64) -> anyhow::Result<Value> {
        let found = self.api.get(&format!("/api/v1/employees?hris_id={id}")).await?;
        found["employees"].get(0).cloned().with_context(|| format!("employee {id} of BambooHR is not here"))
    }

    async fn laptops(&self) -> anyhow::Result<Vec<Value>> {
        let found = self.api.get("/api/v1/assets?category=laptop").await?;
        Ok(found["assets"].as_array().cloned().unwrap_or_default())
    }

    /// How many there are of something whose list is called so.
    async fn count(&self, what: &str) -> anyhow::Result<usize> {
        let found = self.api.get(&format!("/api/v1/{what}?limit=200")).await?;
        Ok(found[what].as_array().map_or(0, Vec::len))
    }

    /// The workflow of the employee that a job of this kind started.
    async fn workflow_of(&self, kind: &str, employee: &Value) -> anyhow::Result<Value> {
        let jobs = self.jobs().await?;
        let job = jobs.iter().find(|job| job.kind == kind && job.args["employee_id"] == employee["id"]);
        let job = job.with_context(|| format!("no {kind} was enqueued"))?;
        let job = self.ended("the workflow starts", job.id).await?;
        let id = job.result.as_ref().and_then(|result| result["workflow_id"].as_str());
        let id = id.with_context(|| format!("{kind} has started no workflow"))?;
        self.api.get(&format!("/api/v1/workflows/{id}")).await
    }

    async fn until(&self, what: &str, is: impl Fn() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !is() {
            anyhow::ensure!(Instant::now() < deadline, "expected within {PATIENCE:?} that {what}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

fn name(employee: &Value) -> String {
    format!("{} {}", text(&employee["first_name"]), text(&employee["last_name"]))
}

fn progress(run: &Value, what: &str) -> Vec<String> {
    let total = run["total"].as_u64().map_or("–".to_owned(), |total| total.to_string());
    vec![run["read"].to_string(), total, what.to_owned()]
}

const LAPTOP: [super::screen::Column; 6] =
    [Left("TAG"), Left("NAME"), Left("STATUS"), Right("COST"), Left(""), Left("SUPPLIER")];

fn laptop(asset: &Value) -> Vec<String> {
    ["tag", "name", "status", "cost", "currency", "supplier"].map(|field| text(&asset[field]).to_owned()).into()
}

fn steps(workflow: &Value) -> Vec<Vec<String>> {
    let steps = workflow["steps"].as_array().into_iter().flatten();
    steps.map(|step| vec![text(&step["due_on"]).to_owned(), text(&step["title"]).to_owned()]).collect()
}
