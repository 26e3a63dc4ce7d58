//! Conversations and their names from outside: a server, workers, and a provider of models over real HTTP.

use backroom::tenant::testing::TestDatabase;
use serde_json::{Value, json};

use crate::support::{
    Process, Program,
    api::Api,
    eventually,
    llm::{Dialect, FakeModels, KEY, Mood},
    until,
};

/// Anna at Acme, who talks to herself, and a model that names what she says.
struct Room {
    database: TestDatabase,
    models: FakeModels,
    program: Program,
    server: Process,
    anna: Api,
    workspace: String,
    log: tempfile::NamedTempFile,
}

impl Room {
    async fn new(dialect: Dialect, key: &str) -> Self {
        let database = TestDatabase::new().await;
        database.organization("acme").await;
        let models = FakeModels::start().await;
        let provider = match dialect {
            Dialect::OpenAi => "openai",
            Dialect::Anthropic => "anthropic",
        };
        let log = tempfile::NamedTempFile::new().expect("a file");
        let program = Program::on(&database.url())
            .with("BACKROOM__CLIENTS__ALLOW_NETWORKS", "127.0.0.1")
            .with("BACKROOM__LLM__PROVIDER", provider)
            .with("BACKROOM__LLM__BASE_URL", models.base_url(dialect))
            .with("BACKROOM__LLM__MODEL", "small-model")
            .with("BACKROOM__LLM__API_KEY", key)
            .with("BACKROOM__SIGN_IN__ARGON2_MEMORY_KIB", 64)
            .with("BACKROOM__LOG__FILTER", "info")
            .logging_to(log.path());
        let made = program.json(&["user", "create", "anna@acme.example", "--org", "acme", "--name", "Anna Ek"]).await;
        let (server, nobody) = program.serve("server", "").await;
        let who = json!({ "email": "Anna@acme.example", "password": made["password"] });
        let tokens = nobody.post("/api/v1/sign-in", &who).await;
        assert_eq!(tokens.status, 200, "{}", tokens.text);
        let anna = nobody.with_key(tokens.json()["access_token"].as_str().expect("a token"));
        let workspaces = anna.get("/api/v1/workspaces").await.json();
        let workspace = workspaces["workspaces"][0]["id"].as_str().expect("her own").to_owned();
        Self { database, models, program, server, anna, workspace, log }
    }

    /// Says both sides of an exchange; answers the path of the conversation.
    async fn talk(&self) -> String {
        let begun = self
            .anna
            .post(
                &format!("/api/v1/workspaces/{}/conversations", self.workspace),
                &json!({ "message": "Kaffemaskinen på andra våningen är trasig igen, vem ringer reparatören?" }),
            )
            .await;
        assert_eq!(begun.status, 201, "{}", begun.text);
        let path = begun.header("location").to_owned();
        let answered =
            self.anna.post(&format!("{path}/messages"), &json!({ "body": "Jag ringer reparatören i morgon." })).await;
        assert_eq!(answered.status, 201, "{}", answered.text);
        path
    }

    async fn until_named(&self, path: &str) -> Value {
        eventually("the conversation has a name", async || {
            Some(self.anna.get(path).await.json()).filter(|conversation| !conversation["title"].is_null())
        })
        .await
    }

    fn logged(&self) -> String {
        std::fs::read_to_string(self.log.path()).expect("the log")
    }

    async fn close(self, worker: Process) {
        worker.stop().await;
        self.server.stop().await;
        self.database.close().await.expect("dropped");
    }
}

const NAMED: &str = "select count(*) from org_acme.events where kind = 'conversation.named' and topic ~ 'conversation'";

/// WORK-8, TEN-4, VAULT-4
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_gets_its_name_from_a_model() {
    for dialect in [Dialect::OpenAi, Dialect::Anthropic] {
        let room = Room::new(dialect, KEY).await;
        room.models.will([Mood::Says("**Trasig kaffemaskin**\n")]);
        let worker = room.program.start(&["worker", "--queues", "integrations"]);

        let path = room.talk().await;
        let named = room.until_named(&path).await;

        assert_eq!((&named["title"], &named["title_source"]), (&json!("Trasig kaffemaskin"), &json!("auto")));
        assert_eq!(room.models.asked().len(), 1);
        until(&room.database.pool, NAMED, 1).await;
        until(&room.database.pool, "select tokens from public.token_usage where kind = 'conversations.name'", 150)
            .await;
        let log = room.logged();
        assert!(!log.contains(KEY) && !log.contains("affemaskin"), "{log}");
        room.close(worker).await;
    }
}

/// WORK-8, PLAT-11: a worker that is killed while the model thinks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_whose_worker_is_killed_is_named_once() {
    let room = Room::new(Dialect::OpenAi, KEY).await;
    room.models.will([Mood::Silent, Mood::Says("Kaffe")]);
    let worker = room.program.start(&["worker", "--queues", "integrations"]);
    let path = room.talk().await;
    room.models.until_asked(1).await;

    worker.kill().await;
    let worker = room.program.start(&["worker", "--queues", "integrations"]);

    assert_eq!(room.until_named(&path).await["title"], "Kaffe");
    until(&room.database.pool, "select count(*) from queue.jobs where kind = 'conversations.name'", 0).await;
    until(&room.database.pool, NAMED, 1).await;
    assert_eq!(room.models.asked().len(), 2);
    room.close(worker).await;
}

/// WORK-8, VAULT-4: a wrong key is told where operators look, without the key; nobody waits for it to be mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_key_is_told_and_the_keywords_do() {
    let room = Room::new(Dialect::Anthropic, "planted-wrong-key").await;
    let worker = room.program.start(&["worker", "--queues", "integrations"]);

    let path = room.talk().await;
    let named = room.until_named(&path).await;

    assert_eq!(named["title"], "Kaffemaskinen, våningen, trasig, ringer reparatören");
    until(&room.database.pool, "select count(*) from queue.finished_jobs where kind = 'conversations.name'", 1).await;
    let jobs = room.program.json(&["job", "list", "--kind", "conversations.name"]).await;
    let id = jobs["jobs"][0]["id"].as_str().expect("the job");
    let told = room.program.json(&["job", "show", id]).await["result"].to_string();
    let log = room.logged();
    for said in [&told, &log] {
        assert!(said.contains("llm.api_key") && !said.contains("planted-wrong-key"), "{said}");
    }
    assert!(!told.contains("affemaskin"), "what is said is the members' alone: {told}");
    room.close(worker).await;
}
