//! What the program is told from outside: compiled-in files, a file of the site, the environment. `config/default.toml`
//! lists and explains every setting.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use anyhow::{Context, bail, ensure};
use config::{File, FileFormat, Source, Value, ValueKind};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

const DEFAULT: &str = include_str!("../config/default.toml");
const DEVELOPMENT: &str = include_str!("../config/development.toml");
const PRODUCTION: &str = include_str!("../config/production.toml");

/// What stands for a secret wherever a configuration is shown.
const HIDDEN: &str = "********";

/// What is in force. Every field is explained in `config/default.toml`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    #[serde(skip_deserializing)]
    pub environment: Environment,
    pub database: Database,
    pub http: Http,
    pub events: Events,
    pub sign_in: SignIn,
    pub worker: Worker,
    pub scheduler: Scheduler,
    pub vault: VaultConfig,
    pub mail: Mail,
    pub clients: Clients,
    pub llm: Llm,
    pub jobs: Jobs,
    pub log: Log,
}

/// Chooses the compiled-in file of differences, and what is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    #[default]
    Development,
    Production,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Database {
    #[serde(serialize_with = "hidden::one")]
    pub url: SecretString,
    pub max_connections: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    pub listen: SocketAddr,
    pub public_url: String,
    pub body_limit_bytes: usize,
    pub import_body_limit_bytes: usize,
    pub request_timeout_s: u64,
    pub rate_limit_per_minute: u32,
    pub strangers_per_minute: u32,
    pub join_requests_per_hour: u32,
    pub webhooks_per_minute: u32,
    pub proxies: usize,
    #[serde(deserialize_with = "list")]
    pub cors_origins: Vec<String>,
    #[serde(with = "optional")]
    pub base_domain: Option<String>,
    #[serde(with = "hidden::optional")]
    pub operator_token: Option<SecretString>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    #[serde(deserialize_with = "list", serialize_with = "hidden::list")]
    pub token_keys: Vec<SecretString>,
    pub access_token_s: u32,
    pub refresh_token_days: u32,
    pub argon2_memory_kib: u32,
    pub argon2_passes: u32,
    pub tries_per_minute: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Events {
    pub listen: bool,
    pub poll_ms: u64,
    pub heartbeat_s: u64,
    pub buffer: usize,
    pub max_streams: usize,
    pub max_streams_per_organization: usize,
    pub max_streams_per_caller: usize,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Worker {
    pub lease_s: u64,
    pub poll_ms: u64,
    pub shutdown_s: u64,
    pub listen: bool,
    #[serde(with = "optional")]
    pub metrics_listen: Option<SocketAddr>,
    pub queues: BTreeMap<String, usize>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scheduler {
    #[serde(deserialize_with = "optional::deserialize", serialize_with = "optional::path")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct VaultConfig {
    #[serde(deserialize_with = "list", serialize_with = "hidden::list")]
    pub keys: Vec<SecretString>,
    #[serde(with = "hidden::optional")]
    pub index_key: Option<SecretString>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    #[serde(serialize_with = "hidden::one")]
    pub smtp_url: SecretString,
    pub from: String,
    pub message_id_domain: String,
    pub timeout_s: u64,
    #[serde(with = "optional")]
    pub mailbox_listen: Option<SocketAddr>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Clients {
    #[serde(deserialize_with = "networks")]
    pub allow_networks: Vec<IpNet>,
    pub body_limit_bytes: usize,
    pub timeout_s: u64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Llm {
    pub provider: LlmProvider,
    #[serde(with = "optional")]
    pub base_url: Option<String>,
    #[serde(with = "optional")]
    pub model: Option<String>,
    #[serde(with = "hidden::optional")]
    pub api_key: Option<SecretString>,
    pub timeout_s: u64,
    pub max_input_tokens: u32,
    pub max_output_tokens: u32,
    pub old_max_tokens: bool,
    #[serde(with = "optional")]
    pub temperature: Option<f64>,
    pub requests_per_minute: u32,
    pub patience_s: u32,
}

/// Who is asked for a conversation's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LlmProvider {
    /// Nobody: the conversation's own keywords name it.
    Local,
    /// Whoever speaks OpenAI's chat completions.
    Openai,
    Anthropic,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    pub debug_kinds: bool,
    pub unconfirmed_requests_days: u32,
    pub sync_stalled_hours: u32,
    pub full_sync_days: u32,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Pretty,
    Json,
}

impl Config {
    /// Reads all layers. An error names the setting at fault and where its value came from.
    pub fn load() -> anyhow::Result<Self> {
        let vars = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, _)| name == "DATABASE_URL" || name.starts_with("BACKROOM_"))
            .map(|(name, value)| match value.into_string() {
                Ok(value) => Ok((name, value)),
                Err(_) => bail!("the environment variable {name} is not valid UTF-8"),
            })
            .collect::<anyhow::Result<_>>()?;
        Self::from_vars(&vars)
    }

    /// As [`Config::load`], with these environment variables instead of the process's.
    pub fn from_vars(vars: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let environment = match vars.get("BACKROOM_ENV").map(String::as_str) {
            None | Some("" | "development") => Environment::Development,
            Some("production") => Environment::Production,
            Some(other) => bail!("BACKROOM_ENV is {other:?}; it can be `development` or `production`"),
        };
        let mut layers = config::Config::builder()
            .add_source(File::from_str(DEFAULT, FileFormat::Toml))
            .add_source(File::from_str(environment.file(), FileFormat::Toml));
        if let Some(path) = vars.get("BACKROOM_CONFIG").filter(|path| !path.is_empty()) {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("could not read the file {path} that BACKROOM_CONFIG names"))?;
            // Read here and again by `config`, which needs a path to name the origin but guesses at its ending.
            toml::from_str::<toml::Table>(&text)
                .with_context(|| format!("the file {path} that BACKROOM_CONFIG names is not TOML"))?;
            layers = layers.add_source(File::new(path, FileFormat::Toml));
        }
        layers = layers.add_source(
            config::Environment::with_prefix("BACKROOM")
                .prefix_separator("__")
                .separator("__")
                .source(Some(vars.iter().map(|(k, v)| (k.clone(), v.clone())).collect())),
        );
        if let Some(url) = vars.get("DATABASE_URL").filter(|url| !url.is_empty()) {
            layers = layers.set_override("database.url", Value::new(Some(&"DATABASE_URL".to_owned()), url.clone()))?;
        }
        let layers = layers.build().context("could not put the configuration together")?;
        let mut config: Config = serde_path_to_error::deserialize(layers.clone()).map_err(|e| at_fault(&layers, e))?;
        config.environment = environment;
        if config.http.public_url.is_empty() {
            config.http.public_url = format!("http://{}", config.http.listen);
        }
        config.check()?;
        Ok(config)
    }

    /// What is in force as TOML, secrets hidden. Says on top where the environment is from.
    pub fn to_toml(&self) -> String {
        let body = toml::to_string(self).expect("a configuration has a TOML form");
        let origin = if std::env::var_os("BACKROOM_ENV").is_some() { "BACKROOM_ENV" } else { "the default" };
        format!("# environment: {} (from {origin})\n{body}", self.environment)
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!(self.database.max_connections >= 2, "database.max_connections must be at least 2");
        ensure!(self.worker.lease_s >= 1, "worker.lease_s must be at least 1 second");
        ensure!(self.worker.poll_ms >= 1, "worker.poll_ms must be at least 1 millisecond");
        ensure!(self.events.poll_ms >= 1, "events.poll_ms must be at least 1 millisecond");
        ensure!(self.events.heartbeat_s >= 1, "events.heartbeat_s must be at least 1 second");
        ensure!(self.events.buffer >= 1, "events.buffer must be at least 1");
        ensure!(self.http.rate_limit_per_minute >= 1, "http.rate_limit_per_minute must be at least 1");
        ensure!(self.http.strangers_per_minute >= 1, "http.strangers_per_minute must be at least 1");
        ensure!(self.http.webhooks_per_minute >= 1, "http.webhooks_per_minute must be at least 1");
        ensure!(self.sign_in.tries_per_minute >= 1, "sign_in.tries_per_minute must be at least 1");
        ensure!(
            (60..=86_400).contains(&self.sign_in.access_token_s),
            "sign_in.access_token_s must be from a minute to a day: 60 to 86400"
        );
        ensure!((1..=365).contains(&self.sign_in.refresh_token_days), "sign_in.refresh_token_days must be 1 to 365");
        ensure!((1..=120).contains(&self.clients.timeout_s), "clients.timeout_s must be 1 to 120 seconds");
        ensure!(
            (1..=720).contains(&self.jobs.sync_stalled_hours),
            "jobs.sync_stalled_hours must be from an hour to thirty days: 1 to 720"
        );
        ensure!(self.jobs.full_sync_days <= 365, "jobs.full_sync_days must be 0 to 365");
        let llm = &self.llm;
        if llm.provider != LlmProvider::Local {
            ensure!(
                llm.model.is_some(),
                "llm.provider is set and llm.model is not; name the model, or set the provider to `local`"
            );
            // A job has three minutes for all it does.
            ensure!((1..=120).contains(&llm.timeout_s), "llm.timeout_s must be 1 to 120 seconds");
            ensure!(llm.requests_per_minute >= 1, "llm.requests_per_minute must be at least 1");
            ensure!(
                llm.max_input_tokens >= 1 && llm.max_output_tokens >= 1,
                "llm.max_input_tokens and max_output_tokens must be at least 1"
            );
            let within = llm.temperature.is_none_or(|temperature| (0.0..=2.0).contains(&temperature));
            ensure!(within, "llm.temperature must be 0 to 2");
        }
        if self.environment == Environment::Production {
            ensure!(
                !self.vault.keys.is_empty(),
                "production needs a vault key: set BACKROOM__VAULT__KEYS; make one with `backroom key generate`"
            );
            ensure!(
                self.mail.mailbox_listen.is_none(),
                "mail.mailbox_listen is set, and the mailbox of development never runs in production; \
                 take it away and set BACKROOM__MAIL__SMTP_URL"
            );
            ensure!(
                self.sign_in.argon2_memory_kib >= 19_456 && self.sign_in.argon2_passes >= 1,
                "sign_in.argon2_memory_kib is below 19456 (19 MiB), which is too cheap to guess for production"
            );
            ensure!(!self.jobs.debug_kinds, "jobs.debug_kinds is on, and production has no debug jobs; turn it off");
        }
        Ok(())
    }
}

impl Environment {
    fn file(self) -> &'static str {
        match self {
            Environment::Development => DEVELOPMENT,
            Environment::Production => PRODUCTION,
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Environment::Development => "development",
            Environment::Production => "production",
        })
    }
}

/// The sentence for a setting that does not fit: which, where it came from, why.
fn at_fault(layers: &config::Config, error: serde_path_to_error::Error<config::ConfigError>) -> anyhow::Error {
    let path = error.path().to_string();
    let origin = match origin(layers, &path) {
        None => "the compiled-in files".to_owned(),
        Some(origin) if origin == "the environment" => format!("BACKROOM__{}", path.replace('.', "__").to_uppercase()),
        Some(origin) => origin,
    };
    let reason = match error.into_inner() {
        config::ConfigError::At { error, .. } => error.to_string(),
        config::ConfigError::Type { unexpected, expected, .. } => format!("{unexpected} is not {expected}"),
        other => other.to_string(),
    };
    anyhow::anyhow!("the setting `{path}` (from {origin}) does not fit: {reason}")
}

/// Where the value at a dotted path came from; `None` for what is compiled in.
fn origin(layers: &config::Config, path: &str) -> Option<String> {
    let mut steps = path.split('.');
    let mut value = layers.collect().ok()?.remove(steps.next()?)?;
    for step in steps {
        let ValueKind::Table(mut table) = value.kind else { break };
        value = table.remove(step)?;
    }
    value.origin().map(str::to_owned)
}

/// A list, or text separated by commas (from the environment).
fn list<'de, D: serde::Deserializer<'de>, T: From<String>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum List {
        Items(Vec<String>),
        Text(String),
    }
    let items = match List::deserialize(deserializer)? {
        List::Items(items) => items,
        List::Text(text) => text.split(',').map(str::to_owned).collect(),
    };
    let items = items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty());
    Ok(items.map(T::from).collect())
}

/// A list of networks such as `10.1.2.0/24`; an address alone is a network of one.
fn networks<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let items: Vec<String> = list(deserializer)?;
    let parse = |text: String| match text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
        Ok(network) => Ok(network),
        Err(_) => Err(serde::de::Error::custom(format_args!("{text:?} is not a network such as 10.1.2.0/24"))),
    };
    items.into_iter().map(parse).collect()
}

/// A setting that may be missing: written as an empty string.
mod optional {
    use std::{fmt::Display, path::PathBuf, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn deserialize<'de, D: Deserializer<'de>, T: FromStr<Err: Display>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.is_empty() { Ok(None) } else { text.parse().map(Some).map_err(D::Error::custom) }
    }

    pub fn serialize<S: Serializer, T: Display>(value: &Option<T>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&value.as_ref().map(ToString::to_string).unwrap_or_default())
    }

    #[expect(clippy::ref_option, reason = "serde calls it with a reference to the field")]
    pub fn path<S: Serializer>(value: &Option<PathBuf>, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&value.as_ref().map(|path| path.display()), serializer)
    }
}

/// Secrets are shown as stars, missing ones as nothing.
mod hidden {
    use super::{ExposeSecret, HIDDEN, SecretString};
    use serde::Serializer;

    fn shown(secret: &SecretString) -> &'static str {
        if secret.expose_secret().is_empty() { "" } else { HIDDEN }
    }

    pub fn one<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(shown(secret))
    }

    pub fn list<S: Serializer>(secrets: &[SecretString], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(secrets.iter().map(shown))
    }

    pub mod optional {
        use super::{SecretString, Serializer, shown};
        use serde::{Deserialize, Deserializer};

        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
            let text = String::deserialize(deserializer)?;
            Ok(Some(text).filter(|text| !text.is_empty()).map(SecretString::from))
        }

        pub fn serialize<S: Serializer>(secret: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(secret.as_ref().map(shown).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vars: &[(&str, &str)]) -> anyhow::Result<Config> {
        Config::from_vars(&vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    fn refusal(vars: &[(&str, &str)]) -> String {
        format!("{:#}", load(vars).expect_err("the configuration was accepted"))
    }

    #[test]
    fn development_needs_nothing_from_outside() {
        let config = load(&[]).unwrap();
        assert_eq!(config.environment, Environment::Development);
        assert_eq!(config.http.listen, "127.0.0.1:4000".parse().unwrap());
        assert_eq!(config.mail.mailbox_listen, Some("127.0.0.1:1025".parse().unwrap()));
        assert_eq!(config.http.public_url, "http://127.0.0.1:4000");
        assert_eq!(config.http.base_domain, None);
        assert!(config.http.operator_token.is_none() && config.vault.keys.is_empty());
    }

    /// PLAT-8
    #[test]
    fn the_default_queues_have_their_concurrency() {
        let queues = load(&[]).unwrap().worker.queues;
        let expected = [
            ("default", 10),
            ("mailers", 20),
            ("notifications", 5),
            ("invoices", 3),
            ("integrations", 20),
            ("reports", 3),
        ];
        assert_eq!(queues, expected.map(|(name, n)| (name.to_owned(), n)).into());
    }

    #[test]
    fn later_layers_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("site.conf");
        std::fs::write(&file, "[http]\nlisten = \"127.0.0.1:1\"\nrequest_timeout_s = 7\n[worker.queues]\nslow = 1\n")
            .unwrap();
        let config = load(&[
            ("BACKROOM_CONFIG", file.to_str().unwrap()),
            ("BACKROOM__HTTP__LISTEN", "127.0.0.1:2"),
            ("BACKROOM__WORKER__QUEUES__DEFAULT", "2"),
            ("BACKROOM__JOBS__DEBUG_KINDS", "true"),
            ("BACKROOM__VAULT__KEYS", "k2:bbb, k1:aaa"),
            ("BACKROOM__MAIL__MAILBOX_LISTEN", ""),
            ("BACKROOM__DATABASE__URL", "postgres://loses"),
            ("DATABASE_URL", "postgres://wins"),
        ])
        .unwrap();
        assert_eq!(config.http.listen, "127.0.0.1:2".parse().unwrap());
        assert_eq!(config.http.request_timeout_s, 7);
        assert_eq!((config.worker.queues["slow"], config.worker.queues["default"]), (1, 2));
        assert!(config.jobs.debug_kinds);
        assert_eq!(config.vault.keys.iter().map(ExposeSecret::expose_secret).collect::<Vec<_>>(), ["k2:bbb", "k1:aaa"]);
        assert_eq!(config.mail.mailbox_listen, None);
        assert_eq!(config.database.url.expose_secret(), "postgres://wins");
    }

    #[test]
    fn an_unknown_setting_is_named_with_its_origin() {
        let error = refusal(&[("BACKROOM__HTTP__LISTN", "127.0.0.1:2")]);
        assert!(error.contains("`http.listn`") && error.contains("BACKROOM__HTTP__LISTN"), "{error}");
        assert!(error.contains("unknown field"), "{error}");
        let error = refusal(&[("BACKROOM__HTPT__LISTEN", "127.0.0.1:2")]);
        assert!(error.contains("`htpt`"), "{error}");
    }

    #[test]
    fn a_value_that_does_not_fit_is_named_with_its_origin() {
        let error = refusal(&[("BACKROOM__HTTP__LISTEN", "here")]);
        assert!(error.contains("`http.listen` (from BACKROOM__HTTP__LISTEN)"), "{error}");
        let error = refusal(&[("BACKROOM__WORKER__POLL_MS", "soon")]);
        assert!(error.contains("`worker.poll_ms` (from BACKROOM__WORKER__POLL_MS)"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("site.toml");
        std::fs::write(&file, "[log]\nformat = \"xml\"\n").unwrap();
        let error = refusal(&[("BACKROOM_CONFIG", file.to_str().unwrap())]);
        assert!(error.contains("`log.format`") && error.contains("site.toml"), "{error}");
    }

    #[test]
    fn a_missing_or_broken_file_is_named() {
        assert!(refusal(&[("BACKROOM_CONFIG", "/no/such.toml")]).contains("/no/such.toml"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[http").unwrap();
        assert!(refusal(&[("BACKROOM_CONFIG", file.path().to_str().unwrap())]).contains("is not TOML"));
    }

    /// WORK-8, SYNC-14
    #[test]
    fn a_model_needs_a_name_and_networks_are_networks() {
        assert_eq!(load(&[]).unwrap().llm.provider, LlmProvider::Local);
        assert!(refusal(&[("BACKROOM__LLM__PROVIDER", "openai")]).contains("llm.model"));
        assert!(refusal(&[("BACKROOM__LLM__PROVIDER", "oracle")]).contains("`llm.provider`"));
        let hot =
            [("BACKROOM__LLM__PROVIDER", "openai"), ("BACKROOM__LLM__MODEL", "m"), ("BACKROOM__LLM__TEMPERATURE", "3")];
        assert!(refusal(&hot).contains("llm.temperature"));
        let networks = load(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "10.1.0.0/16, 127.0.0.1,fd00::/8")]).unwrap();
        let networks: Vec<String> = networks.clients.allow_networks.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.1.0.0/16", "127.0.0.1/32", "fd00::/8"]);
        let wrong = refusal(&[("BACKROOM__CLIENTS__ALLOW_NETWORKS", "localhost")]);
        assert!(wrong.contains("clients.allow_networks") && wrong.contains("is not a network"), "{wrong}");
    }

    /// VAULT-4
    #[test]
    fn secrets_are_never_shown() {
        let config = load(&[
            ("DATABASE_URL", "postgres://u:planted-1@h/d"),
            ("BACKROOM__VAULT__KEYS", "k1:planted-2,k0:planted-3"),
            ("BACKROOM__VAULT__INDEX_KEY", "planted-4"),
            ("BACKROOM__HTTP__OPERATOR_TOKEN", "planted-5"),
            ("BACKROOM__MAIL__SMTP_URL", "smtps://u:planted-6@h"),
            ("BACKROOM__SIGN_IN__TOKEN_KEYS", "t1:planted-7"),
            ("BACKROOM__LLM__API_KEY", "planted-8"),
        ])
        .unwrap();
        let shown = config.to_toml();
        assert!(!shown.contains("planted") && !format!("{config:?}").contains("planted"), "{shown}");
        assert_eq!(shown.matches(HIDDEN).count(), 8);
    }

    #[test]
    fn what_is_printed_can_be_read_again() {
        let mut shown: toml::Table = toml::from_str(&load(&[]).unwrap().to_toml()).unwrap();
        shown.remove("environment");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), shown.to_string()).unwrap();
        load(&[("BACKROOM_CONFIG", file.path().to_str().unwrap())]).unwrap();
    }

    /// VAULT-6, MAIL-4
    #[test]
    fn production_refuses_to_run_without_keys_or_with_toys() {
        let production = ("BACKROOM_ENV", "production");
        let keys = ("BACKROOM__VAULT__KEYS", "k1:aaa");
        assert!(refusal(&[production]).contains("backroom key generate"));
        assert!(refusal(&[production, keys, ("BACKROOM__MAIL__MAILBOX_LISTEN", "127.0.0.1:1025")]).contains("mailbox"));
        assert!(refusal(&[production, keys, ("BACKROOM__JOBS__DEBUG_KINDS", "true")]).contains("jobs.debug_kinds"));
        assert_eq!(load(&[production, keys]).unwrap().log.format, LogFormat::Json);
        assert!(refusal(&[("BACKROOM_ENV", "staging")]).contains("staging"));
    }
}
