//! Workday (SYNC-8): workers over REST, or a report that the customer has made (RaaS), with OAuth 2.0 or, for reports, a password.
//!
//! REST is paged and knows little of a worker: name, mail, title, organization. A report knows what its author put in, under names that
//! its author chose, so its columns are configuration. Neither tells what has changed, unless the report has a prompt for it.

mod map;
mod raas;
mod rest;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::TimeDelta;
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use self::map::Columns;
use super::{
    connector::{Access, Account, Connector, ConnectorError, Grant, OAuth, ReadFrom, RecordPage, TokenForm, Vendor},
    hris::{Settings, said},
    http::{Content, Endpoint, Http, Method, Reply, header},
};
use crate::domain::{Clock, FieldErrors, integration::Provider};

const TITLE: &str = "Workday";
/// The one stream.
pub const WORKERS: &str = "workers";

pub static VENDOR: Vendor = Vendor {
    provider: Provider::Workday,
    connect,
    // The vendor publishes no number; five a second are said to be taken.
    calls_per_minute: 300,
    webhook: None,
    config_help: "tenant: as in the address after signing in\n\
        host: of the tenant's services, such as wd2-impl-services1.workday.com\n\
        auth: refresh_token (the default), client_credentials, or basic (reports only)\n\
        source: rest (the default) or raas, a report that is enabled as a web service\n\
        api: v1 unless told, or for instance staffing/v6\n\
        page_size: workers a page, up to 100, which it is unless told\n\
        report_owner, report_name: of the report, as in its address\n\
        prompts: {Worker_Type!WID: \"...\"}, what the report asks for\n\
        updated_since_prompt: the prompt that takes a time and leaves the report with what has changed since\n\
        overlap_minutes: how much of the last run is read again, 60 unless told\n\
        columns: {id: Employee_ID, first_name: Legal_First_Name, ...}, what is in which column; names with dots lead into groups\n\
        custom_fields: more columns to keep\n\
        base_url, token_url: other addresses than those of the host",
    credentials_help: "client_id, client_secret and refresh_token: of an API client for integrations\n\
        or client_id and client_secret, with auth client_credentials\n\
        or username and password of an integration system user, with auth basic",
};

const KEYS: [&str; 14] = [
    "tenant",
    "host",
    "auth",
    "source",
    "api",
    "page_size",
    "report_owner",
    "report_name",
    "prompts",
    "updated_since_prompt",
    "overlap_minutes",
    "columns",
    "custom_fields",
    "base_url",
];

enum Source {
    /// The collection of workers.
    Rest {
        workers: Endpoint,
        page_size: u64,
    },
    Raas {
        report: Endpoint,
        prompts: BTreeMap<String, String>,
        since: Option<String>,
        overlap: TimeDelta,
    },
}

enum Auth {
    /// The header.
    Password(SecretString),
    OAuth(OAuth),
}

struct Workday {
    http: Http,
    clock: Clock,
    account: String,
    tenant: String,
    auth: Auth,
    source: Source,
    columns: Columns,
    custom: Vec<String>,
}

fn connect(account: Account) -> Result<Box<dyn Connector>, FieldErrors> {
    let known: Vec<&str> = KEYS.into_iter().chain(["token_url"]).collect();
    let mut settings = Settings::new(&account.config, &account.credentials, &known);
    let tenant = settings.name("tenant").unwrap_or_default();
    let base = match settings.text("base_url") {
        Some(url) => url,
        None => format!("https://{}", settings.name("host").unwrap_or_else(|| "host".to_owned())),
    };
    let base = base.trim_end_matches('/').to_owned();
    let endpoint = settings.endpoint("base_url", &base);
    let way = settings.choice("auth", &["refresh_token", "client_credentials", "basic"]);
    let is_raas = settings.choice("source", &["rest", "raas"]) == "raas";
    if way == "basic" && !is_raas {
        settings.wrong("auth", "invalid", "can be basic for reports only; set source to raas, or use OAuth 2.0");
    }
    let given = settings.map("columns", &map::our_names());
    let columns = map::columns(is_raas, given, &mut settings);
    let source = if is_raas { raas(&mut settings, &base, &tenant) } else { rest(&mut settings, &base, &tenant) };
    let token_url = settings.endpoint("token_url", &format!("{base}/ccx/oauth2/{tenant}/token"));
    let auth = auth(&mut settings, way, token_url, &tenant);
    let custom = settings.list("custom_fields");
    let host = endpoint.as_ref().map(Endpoint::host).unwrap_or_default();
    let (source, auth) = settings.done(source.zip(auth))?;
    Ok(Box::new(Workday {
        http: account.http,
        clock: account.clock,
        account: format!("workday:{host}/{tenant}").to_lowercase(),
        tenant,
        auth,
        source,
        columns,
        custom,
    }))
}

fn rest(settings: &mut Settings<'_>, base: &str, tenant: &str) -> Option<Source> {
    let api = settings.text("api").unwrap_or_else(|| "v1".to_owned());
    if !api.chars().all(|c| c.is_ascii_alphanumeric() || c == '/') {
        settings.wrong("api", "invalid", "must look like v1 or staffing/v6");
    }
    let page_size = settings.number("page_size", 1..=100, 100);
    let workers = Endpoint::parse(&format!("{base}/ccx/api/{api}/{tenant}/workers")).ok()?;
    Some(Source::Rest { workers, page_size })
}

fn raas(settings: &mut Settings<'_>, base: &str, tenant: &str) -> Option<Source> {
    let (owner, name) = (settings.name("report_owner"), settings.name("report_name"));
    let prompts = settings.texts("prompts");
    let since = settings.text("updated_since_prompt");
    let overlap = i64::try_from(settings.number("overlap_minutes", 0..=10_080, 60)).unwrap_or_default();
    let path = format!("{base}/ccx/service/customreport2/{tenant}/{}/{}", owner?, name?);
    let report = Endpoint::parse(&path).ok()?;
    Some(Source::Raas { report, prompts, since, overlap: TimeDelta::minutes(overlap) })
}

fn auth(settings: &mut Settings<'_>, way: &str, token_endpoint: Option<Endpoint>, tenant: &str) -> Option<Auth> {
    if way == "basic" {
        let (username, password) = (settings.required_secret("username"), settings.required_secret("password"));
        let pair = format!("{}:{}", username.expose_secret(), password.expose_secret());
        return Some(Auth::Password(SecretString::from(format!("Basic {}", BASE64_STANDARD.encode(pair)))));
    }
    let (client_id, client_secret) = (settings.required_secret("client_id"), settings.required_secret("client_secret"));
    let grant = if way == "client_credentials" {
        let tenant = tenant.to_owned();
        let form: TokenForm = Arc::new(move |_| {
            vec![
                ("grant_type".to_owned(), "client_credentials".to_owned()),
                ("tenant_alias".to_owned(), tenant.clone()),
            ]
        });
        Grant::ClientCredentials(form)
    } else {
        settings.required_secret("refresh_token");
        Grant::RefreshToken
    };
    Some(Auth::OAuth(OAuth {
        token_endpoint: token_endpoint?,
        client_id: client_id.expose_secret().to_owned(),
        client_secret: Some(client_secret),
        basic: true,
        grant,
        default_lifetime_s: 3_600,
    }))
}

impl Connector for Workday {
    fn account(&self) -> &str {
        &self.account
    }

    fn oauth(&self) -> Option<&OAuth> {
        match &self.auth {
            Auth::OAuth(oauth) => Some(oauth),
            Auth::Password(_) => None,
        }
    }

    fn streams(&self) -> &[&'static str] {
        &[WORKERS]
    }

    fn full_tells_deleted(&self) -> bool {
        true
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move {
            match &self.source {
                Source::Rest { workers, .. } => self.try_rest(access, workers).await,
                Source::Raas { report, .. } => self.try_report(access, report).await,
            }
        })
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        _stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move {
            match &self.source {
                Source::Rest { workers, page_size } => self.workers(access, workers, *page_size, from).await,
                Source::Raas { report, prompts, since, overlap } => {
                    self.report(access, report, (prompts, since.as_deref(), *overlap), from).await
                }
            }
        })
    }
}

impl Workday {
    /// A call that answers 200.
    async fn call(
        &self,
        access: &Access,
        endpoint: &Endpoint,
        query: &[(&str, &str)],
    ) -> Result<Reply, ConnectorError> {
        let authorization = match (&self.auth, &access.bearer) {
            (Auth::Password(header), _) => header.clone(),
            (Auth::OAuth(_), Some(bearer)) => SecretString::from(format!("Bearer {}", bearer.expose_secret())),
            (Auth::OAuth(_), None) => {
                return Err(ConnectorError::Unauthorized(format!("there is no access token for {TITLE}")));
            }
        };
        let headers =
            [(header::AUTHORIZATION, authorization), (header::ACCEPT, SecretString::from("application/json"))];
        let reply = self.http.send(Method::GET, endpoint, query, &headers, Content::Empty).await;
        let reply = reply.map_err(|error| ConnectorError::of_http(&endpoint.host(), &error))?;
        if reply.status == 200 { Ok(reply) } else { Err(self.refused(endpoint, &reply)) }
    }

    /// What another status means. REST says why as `{error, errors: [{error}]}`; reports answer text or XML, which is not repeated.
    fn refused(&self, endpoint: &Endpoint, reply: &Reply) -> ConnectorError {
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let details = body["errors"].as_array().into_iter().flatten().filter_map(|error| error["error"].as_str());
        let words: Vec<&str> = body["error"].as_str().into_iter().chain(details).collect();
        let said = said(Some(&words.join(", ")));
        let (tenant, host, status) = (&self.tenant, endpoint.host(), reply.status);
        match status {
            401 if self.oauth().is_some() => {
                ConnectorError::Unauthorized(format!("{TITLE} does not take the access token{said}"))
            }
            401 => ConnectorError::Credentials(format!(
                "{TITLE} does not take the user name and the password for `{tenant}`{said}; give the integration those of its \
                 integration system user, the name perhaps as user@{tenant}"
            )),
            403 => ConnectorError::Forbidden(format!(
                "{TITLE} does not let this account read {WORKERS}{said}; add the functional areas Staffing, Contact Information, and \
                 Organizations and Roles to the API client, and the domains to the security group of its user; a report is to be \
                 shared with that user"
            )),
            429 => ConnectorError::RateLimited(TITLE, reply.retry_after(self.clock.now())),
            503 if reply.retry_after(self.clock.now()).is_some() => {
                ConnectorError::RateLimited(TITLE, reply.retry_after(self.clock.now()))
            }
            408 | 500.. => ConnectorError::Transient(format!("{TITLE} answered {status}{said}")),
            300..=399 | 404 => ConnectorError::Address(format!(
                "{host} does not know what was asked for in `{tenant}` ({status}){said}; check host, tenant and, for a report, its \
                 owner and name"
            )),
            _ => ConnectorError::Protocol(format!("{TITLE} refused the request ({status}){said}")),
        }
    }
}
