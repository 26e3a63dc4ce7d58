//! Act II: a colleague is let in, a conversation gets its name, a stranger asks to join.

use anyhow::Context;
use backroom_queue::{Job, JobState};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api::Api,
    checks::Findings,
    overdue::{Act, id_of},
    screen::Column::{Left, Right},
};
use crate::jobs::conversations::NameConversation;

/// What is said, by turns: Elin, Karin.
const SAID: [&str; 2] = [
    "Momsdeklarationen för november ska in på måndag. Vem stämmer av leverantörsreskontran?",
    "Jag stämmer av leverantörsreskontran i kväll, så hinner du med momsdeklarationen.",
];

/// Tells the act and answers whether everything came out as told.
pub async fn play(act: &Act<'_>) -> anyhow::Result<bool> {
    act.screen.act("II", "People come in, and talk");
    let karin = act.sign_in(&act.cast.karin.email, &act.cast.karin.password).await?;
    let room = act.invite(&karin).await?;
    let talk = act.talk(&karin, &room).await?;
    let newcomer = act.join(&karin, &room).await?;
    act.check_together(&karin, &room, &talk, &newcomer).await
}

/// Where people work together, and how the second of them came in.
struct Room {
    workspace: Uuid,
    /// The address that was invited.
    invited: String,
    elin: Api,
    /// Answers to a look at the link, before it was used.
    looks: Vec<u16>,
    /// Answers to the button, pressed twice.
    pressed: [u16; 2],
}

/// A conversation with a name.
struct Talk {
    path: String,
    /// What the program called it.
    named: String,
    /// How the job ended that was enqueued once more.
    again: (JobState, String),
}

/// A stranger who became a member.
struct Newcomer {
    email: String,
    signe: Api,
    /// Of the request: before the button was pressed, and at the end.
    states: [String; 2],
    /// Answers to the button, pressed twice.
    pressed: [u16; 2],
    /// What the list of requests answers to who is no admin.
    refused: u16,
}

impl Act<'_> {
    async fn sign_in(&self, email: &str, password: &SecretString) -> anyhow::Result<Api> {
        let who = json!({ "email": email, "password": password.expose_secret() });
        let tokens = self.api.for_("").post("/api/v1/sign-in", &who).await?;
        let token = tokens["access_token"].as_str().context("signing in was answered without a token")?;
        Ok(self.api.for_(token))
    }

    /// A workspace, an invitation to it, its mail, its page.
    async fn invite(&self, karin: &Api) -> anyhow::Result<Room> {
        self.screen.step("A colleague is invited");
        let invited = self.cast.address("elin.strand", "skrivbordet.example");
        self.screen.say(
            "Karin Holm runs the office. She signs in, makes a workspace and invites Elin Strand, who has no account yet:",
        );
        self.screen.code(&format!(
            "POST /api/v1/sign-in  {{\"email\":\"{}\",\"password\":\"…\"}}\n\
             POST /api/v1/workspaces  {{\"name\":\"Bokslut\"}}\n\
             POST /api/v1/workspaces/{{id}}/invitations  {{\"email\":\"{invited}\"}}",
            self.cast.karin.email
        ));
        let made = karin.post("/api/v1/workspaces", &json!({ "name": "Bokslut" })).await?;
        let workspace = id_of(&made)?;
        let invitations = format!("/api/v1/workspaces/{workspace}/invitations");
        let invitation = id_of(&karin.post(&invitations, &json!({ "email": invited })).await?)?;
        self.all_ended("the invitation is mailed").await?;
        let link = self.link_mailed_to(&invited, "/invitations/")?;
        self.screen
            .fact("✓ mailed", &format!("to {invited}, with a link that is good for a week: `{}`", shortened(&link)));

        let stranger = self.api.for_("");
        let mut looks = Vec::new();
        for _ in 0..3 {
            looks.push(stranger.status(&link).await?);
        }
        let state = karin.get(&format!("{invitations}/{invitation}")).await?["state"].clone();
        self.screen.say(&format!(
            "A program that scans mail follows the link three times before Elin reads it. GET only shows a page; the invitation \
             is still {}.",
            state.as_str().unwrap_or("gone")
        ));
        let password = SecretString::from("en mening som bara Elin minns");
        let form = [("name", "Elin Strand"), ("password", password.expose_secret())];
        let pressed = [stranger.submit(&link, &form).await?, stranger.submit(&link, &form).await?];
        self.screen.say(&format!(
            "Elin types her name and a password and presses the button, twice by mistake: {} and {}. Account, memberships and \
             the used invitation were one transaction.",
            pressed[0], pressed[1]
        ));
        let elin = self.sign_in(&invited, &password).await?;
        Ok(Room { workspace, invited, elin, looks, pressed })
    }

    /// Two messages, and a name for them.
    async fn talk(&self, karin: &Api, room: &Room) -> anyhow::Result<Talk> {
        self.screen.step("They talk, and their conversation gets a name");
        let list = format!("/api/v1/workspaces/{}/conversations", room.workspace);
        let begun = room.elin.post(&list, &json!({ "message": SAID[0] })).await?;
        let id = id_of(&begun)?;
        let path = format!("/api/v1/conversations/{id}");
        karin.post(&format!("{path}/messages"), &json!({ "body": SAID[1] })).await?;
        let rows = ["Elin", "Karin"].iter().zip(SAID).map(|(who, said)| vec![(*who).to_owned(), said.to_owned()]);
        self.screen.table(&[Right("WHO"), Left("SAID")], rows);
        self.all_ended("the conversation is named").await?;
        let named = karin.get(&path).await?["title"].as_str().context("the conversation has no title")?.to_owned();
        let jobs = self.jobs().await?;
        let job =
            jobs.iter().find(|job| job.kind == NameConversation::KIND).context("no job named the conversation")?;
        let by = job.result.as_ref().and_then(|result| result["by"].as_str()).unwrap_or("nobody");
        self.screen.gap();
        self.screen.fact("✓ named", &format!("“{named}”"));
        self.screen.say(&match by {
            "keywords" => "The second message enqueued the job, in its own transaction. No language model is configured \
                           (`llm.provider`), so the conversation's own keywords are its name, and nothing left this machine."
                .to_owned(),
            model => format!("The second message enqueued the job, in its own transaction. The model at {model} was asked."),
        });
        karin.patch(&path, &json!({ "title": "Moms november" })).await?;
        let order = json!({ "kind": NameConversation::KIND, "args": NameConversation { conversation_id: id } });
        let again = id_of(&self.api.post("/api/v1/jobs", &order).await?)?;
        let again = self.ended("the job runs once more", again).await?;
        let again = (again.state, again.reason.unwrap_or_default());
        self.screen.say(&format!(
            "Karin calls it “Moms november”. The job, enqueued by hand once more, looks and cancels itself: {}.",
            again.1
        ));
        Ok(Talk { path, named, again })
    }

    /// A request from outside, its confirmation, and a decision.
    async fn join(&self, karin: &Api, room: &Room) -> anyhow::Result<Newcomer> {
        self.screen.step("A stranger asks to join");
        let email = self.cast.address("signe.alm", "klippan.example");
        let (stranger, path) = (self.api.for_(""), format!("/api/v1/organizations/{}/join-requests", self.slug()));
        self.screen
            .say("Signe Alm has neither a key nor an account. Anybody may ask; the answer is the same whoever asks:");
        self.screen
            .code(&format!("POST {path}\n  {{\"email\":\"{email}\",\"first_name\":\"Signe\",\"last_name\":\"Alm\"}}"));
        let asks = json!({ "email": email, "first_name": "Signe", "last_name": "Alm" });
        let received = stranger.post(&path, &asks).await?;
        self.all_ended("the confirmation is mailed").await?;
        let link = self.link_mailed_to(&email, "/join-requests/")?;
        let requests = karin.get("/api/v1/join-requests").await?;
        let request =
            requests["join_requests"].as_array().into_iter().flatten().find(|request| request["email"] == *email);
        let request = request.context("the request is not in the list")?;
        let one = format!("/api/v1/join-requests/{}", id_of(request)?);
        let before = text(&request["status"]);
        let looked = stranger.status(&link).await?;
        let pressed = [stranger.submit(&link, &[]).await?, stranger.submit(&link, &[]).await?];
        self.screen.say(&format!(
            "It is {}. A mail goes to the address, so that nobody asks in somebody else's name: its link shows a page ({looked}), \
             the button there confirms ({}), once (then {}).",
            text(&received["status"]),
            pressed[0],
            pressed[1]
        ));
        let refused = room.elin.status("/api/v1/join-requests").await?;
        self.screen.say(&format!("Elin is no admin and may not see requests ({refused}). Karin does, and approves:"));
        self.screen.code("POST /api/v1/join-requests/{id}/approve");
        karin.post(&format!("{one}/approve"), &json!({})).await?;
        self.all_ended("the decision is mailed").await?;
        let password = SecretString::from("en annan mening, som bara Signe minns");
        let link = self.link_mailed_to(&email, "/join-requests/")?;
        stranger.submit(&link, &[("password", password.expose_secret())]).await?;
        let signe = self.sign_in(&email, &password).await?;
        let after = text(&karin.get(&one).await?["status"]);
        self.screen.fact("✓ let in", "The second mail told her, and let her choose a password. Signe is a member now.");
        Ok(Newcomer { email, signe, states: [before, after], pressed, refused })
    }

    /// The path of the link in the newest letter to the address.
    fn link_mailed_to(&self, address: &str, path: &str) -> anyhow::Result<String> {
        let letters = self.stage.mailbox.list(1000);
        let letter = letters.iter().find(|letter| letter.to.iter().any(|to| to == address));
        let letter = letter.with_context(|| format!("no letter to {address} has arrived"))?;
        let text = self.stage.mailbox.get(letter.id).and_then(|letter| letter.text).unwrap_or_default();
        let link = text.find(path).and_then(|at| text[at..].split_whitespace().next());
        Ok(link.with_context(|| format!("the letter to {address} has no link"))?.to_owned())
    }

    /// Looks, tells, and answers whether all is as told.
    async fn check_together(&self, karin: &Api, room: &Room, talk: &Talk, newcomer: &Newcomer) -> anyhow::Result<bool> {
        self.screen.step("Was it true?");
        let mut found = Findings { screen: self.screen, good: true };
        let letters = self.stage.mailbox.accepted();
        let to_elin = letters.iter().filter(|letter| letter.recipient == room.invited).count();
        found.same("one invitation was mailed, once", &to_elin, &1);
        found.same(
            "its page was shown to whoever looked, let one person in, and is used up",
            &(&room.looks[..], room.pressed),
            &(&[200, 200, 200][..], [200, 410]),
        );
        let members = karin.get(&format!("/api/v1/workspaces/{}/members", room.workspace)).await?;
        found.same("the workspace has two members", &members["members"].as_array().map(Vec::len), &Some(2));
        let words = talk.named.split_whitespace().count();
        found.same("the name had at most six words", &(1..=6).contains(&words), &true);
        let seen = room.elin.get(&talk.path).await?;
        found.same(
            "a person's title stands, and the job said why it did nothing",
            &(&seen["title"], &seen["title_source"], talk.again.0),
            &(&json!("Moms november"), &json!("person"), JobState::Cancelled),
        );
        let to_signe = letters.iter().filter(|letter| letter.recipient == newcomer.email).count();
        let states = newcomer.states.each_ref().map(String::as_str);
        found.same(
            "the request was confirmed once, decided by an admin, and took two mails",
            &(states, newcomer.pressed, newcomer.refused, to_signe),
            &(["pending_confirmation", "approved"], [200, 410], 403, 2),
        );
        let statuses = [newcomer.signe.status(&talk.path).await?, self.api.status(&talk.path).await?];
        found.same(
            "the conversation does not exist for a member who is not in the workspace, and no key opens it",
            &statuses,
            &[404, 403],
        );
        Ok(found.good)
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// A link without most of its secret.
fn shortened(link: &str) -> String {
    let kept: String = link.chars().take(24).collect();
    format!("{kept}…")
}
