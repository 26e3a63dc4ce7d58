//! Was the third act true? Everything told is asked for again, of the API and of the fakes.

use anyhow::Context;
use backroom_queue::JobState;
use serde_json::json;

use super::{
    Guests, Told,
    guests::{IT, PAGE, PEOPLE, PURCHASES, STAFF},
    id_of, text,
};
use crate::demo::{checks::Findings, overdue::Act};

impl Act<'_> {
    /// Looks, tells, and answers whether all is as told.
    pub(super) async fn check_connected(&self, guests: &Guests, told: &Told) -> anyhow::Result<bool> {
        self.screen.step("Was it true?");
        let mut found = Findings { screen: self.screen, good: true };
        found.same("each test of a connection found it in order", &told.connected.tests, &vec![true; 3]);
        self.credentials_stay_inside(&mut found, told).await?;
        first_runs(&mut found, told);
        self.turns(&mut found, told).await?;
        let messages: Vec<_> =
            guests.heard().into_iter().map(|(channel, messages)| (channel, messages.len())).collect();
        found.same(
            "Slack was told of each thing once, and of those who came together in a message for each page",
            &messages,
            &vec![(PEOPLE, STAFF / PAGE + 2), (IT, 4), (PURCHASES, 3)],
        );
        self.again(&mut found, guests, told).await?;
        Ok(found.good)
    }

    async fn credentials_stay_inside(&self, found: &mut Findings, told: &Told) -> anyhow::Result<()> {
        let integration = self.api.get(&format!("/api/v1/integrations/{}", told.connected.bamboohr)).await?;
        let shown = integration.to_string().contains(crate::demo::vendors::bamboohr::API_KEY);
        found.same(
            "the API says which credentials are set, and shows none",
            &(&integration["credentials_set"], shown),
            &(&json!(["api_key", "webhook_key"]), false),
        );
        Ok(())
    }

    /// Who came and who went.
    async fn turns(&self, found: &mut Findings, told: &Told) -> anyhow::Result<()> {
        let mut started = Vec::new();
        for (turn, kind) in [(&told.hire, "onboarding"), (&told.leave, "offboarding")] {
            let path = format!("/api/v1/workflows?employee_id={}", text(&turn.employee["id"]));
            let all = self.api.get(&path).await?;
            let all = all["workflows"].as_array().cloned().unwrap_or_default();
            started.push(all.len() == 1 && all[0]["kind"] == kind && id_of(&all[0])? == turn.workflow);
        }
        found.same("who came has one onboarding, and who left one offboarding", &started, &vec![true; 2]);
        found.same("nobody else has a workflow", &self.count("workflows").await?, &2);
        let workflow = self.api.get(&format!("/api/v1/workflows/{}", told.leave.workflow)).await?;
        let steps = workflow["steps"].as_array().context("the offboarding has no steps")?;
        let returns: Vec<_> =
            steps.iter().filter(|step| !step["asset_id"].is_null()).map(|step| text(&step["status"])).collect();
        let leaver = text(&told.leave.employee["id"]);
        let held = self.api.get(&format!("/api/v1/employees/{leaver}/assets")).await?;
        found.same(
            "of two laptops to give back one came back, and one is still out",
            &(
                returns.len(),
                returns.iter().filter(|status| **status == "done").count(),
                held["assets"].as_array().map(Vec::len),
            ),
            &(2, 1, Some(1)),
        );
        let bought = self.api.get(&format!("/api/v1/assets/{}", id_of(&told.bought)?)).await?;
        found.same(
            "the laptop that was bought cost what was paid, and the newcomer has it",
            &(&bought["cost"], &bought["status"], &bought["employee_id"]),
            &(&json!("1349.00"), &json!("assigned"), &told.hire.employee["id"]),
        );
        Ok(())
    }

    /// Both once more, after all that.
    async fn again(&self, found: &mut Findings, guests: &Guests, told: &Told) -> anyhow::Result<()> {
        let before: usize = guests.heard().iter().map(|(_, messages)| messages.len()).sum();
        let mut written = 0;
        for integration in [told.connected.bamboohr, told.connected.quickbooks] {
            let run = self.run(integration, "both are read once more").await?;
            written += ["created", "updated", "failed"].iter().filter_map(|count| run[*count].as_u64()).sum::<u64>();
        }
        self.all_ended("both are read once more").await?;
        let after: usize = guests.heard().iter().map(|(_, messages)| messages.len()).sum();
        found.same("another run of both wrote nothing, and nobody was told of it", &(written, after - before), &(0, 0));
        Ok(())
    }
}

fn first_runs(found: &mut Findings, told: &Told) {
    let people = &told.people;
    let counts = |run: &serde_json::Value| ["read", "created", "failed"].map(|count| run[count].as_u64());
    let all = u64::try_from(STAFF).ok();
    found.same(
        "everybody was stored once",
        &(counts(&people.run), people.stored, text(&people.run["state"])),
        &([all, all, Some(0)], STAFF, "completed"),
    );
    found.same("how many there are to read was known to the end", &people.run["total"].as_u64(), &all);
    found.same(
        "the 429 cost one call, and no attempt of the job",
        &(people.calls, people.job.errors.len(), people.job.state),
        &(STAFF / PAGE + 1, 0, JobState::Completed),
    );
    let purchases = &told.purchases;
    let errors: Vec<bool> = purchases.job.errors.iter().map(|error| error.error.contains("500")).collect();
    found.same(
        "the 500 cost one call and one attempt, and the run went on to its end",
        &(errors, purchases.calls, purchases.job.state, text(&purchases.run["state"])),
        // One more than there are streams.
        &(vec![true], 4, JobState::Completed, "completed"),
    );
    found.same("two laptops came of the first purchase, and nothing of the paper", &purchases.stored, &2);
}
