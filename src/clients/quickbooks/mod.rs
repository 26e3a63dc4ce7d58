//! QuickBooks Online (SYNC-10): purchases and bills, whose hardware lines become assets, and invoices (BILL-10). By change data capture
//! within its thirty days, else by query in the order of change. Shapes: Intuit's Finance.xsd; the rest: Intuit's developer pages.

mod faults;
mod invoices;
mod purchases;
mod reading;
mod webhook;

use futures::future::BoxFuture;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::Value;

use super::{
    connector::{Access, Account, Connector, ConnectorError, Grant, OAuth, ReadFrom, RecordPage, Vendor},
    http::{Endpoint, Http},
    purchase::{self, Rule},
};
use crate::domain::{Clock, Currency, FieldErrors, ParseError, integration::Provider};

pub static VENDOR: Vendor = Vendor {
    provider: Provider::QuickBooks,
    connect,
    // 500 a minute and company are published; eight a second stay below both of the limits that are.
    calls_per_minute: 480,
    webhook: Some(webhook::receive),
    config_help: "realm_id: the company's id, as QuickBooks shows it when the app is connected
rules (optional): which lines of purchases and bills become assets, a list of {account or item, category, useful_life_months}; names may end with *; without rules neither is read
invoices (optional): false, if they are not to be taken; true without it
org_number_field (optional): the name of the invoices' custom field that holds the customer's organization number
currency (optional): of documents that name none; SEK without it
sandbox (optional): true for a company of a developer's sandbox
base_url, token_url (optional): other addresses than Intuit's",
    credentials_help: "client_id, client_secret: of the app
refresh_token: of the company's consent; it is replaced as QuickBooks replaces it
webhook_verifier_token (optional): of the app's webhooks",
};

/// How the vendor is called in sentences.
const NAME: &str = "QuickBooks";
/// The lowest version of answers that is served.
const MINOR_VERSION: &str = "75";

const PURCHASES: &str = "purchases";
const BILLS: &str = "bills";
const INVOICES: &str = "invoices";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    realm_id: String,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default = "yes")]
    invoices: bool,
    org_number_field: Option<String>,
    #[serde(default)]
    currency: Currency,
    #[serde(default)]
    sandbox: bool,
    base_url: Option<String>,
    token_url: Option<String>,
}

fn yes() -> bool {
    true
}

struct QuickBooks {
    account: String,
    /// `…/v3/company/<realm>`
    company: Endpoint,
    realm_id: String,
    oauth: OAuth,
    streams: Vec<&'static str>,
    rules: Vec<Rule>,
    org_number_field: Option<String>,
    currency: Currency,
    http: Http,
    clock: Clock,
}

fn connect(account: Account) -> Result<Box<dyn Connector>, FieldErrors> {
    let mut errors = FieldErrors::default();
    let Account { config, credentials, http, clock } = account;
    let Some(config) = purchase::config::<Config>(&config, &mut errors) else { return Err(errors) };
    let realm_id = config.realm_id.trim().to_owned();
    let is_id = !realm_id.is_empty() && realm_id.len() <= 30 && realm_id.bytes().all(|b| b.is_ascii_digit());
    errors.require(is_id, "config.realm_id", "invalid", "must be the digits of a company's id");
    Rule::check(&config.rules, &mut errors);
    let host = if config.sandbox { "sandbox-quickbooks" } else { "quickbooks" };
    let own_host = format!("{host}.api.intuit.com");
    let base = config.base_url.unwrap_or_else(|| format!("https://{own_host}"));
    let base = errors.check("config.base_url", Endpoint::parse(&base).map_err(ParseError::invalid));
    let token = config.token_url.as_deref().unwrap_or("https://oauth.platform.intuit.com/oauth2/v1/tokens/bearer");
    let token = errors.check("config.token_url", Endpoint::parse(token).map_err(ParseError::invalid));
    let [client_id, client_secret, _] = ["client_id", "client_secret", "refresh_token"].map(|name| {
        let found = credentials.get(name);
        errors.require(found.is_some(), format!("credentials.{name}"), "required", "must not be empty");
        found
    });
    let mut streams = Vec::new();
    if !config.rules.is_empty() {
        streams.extend([PURCHASES, BILLS]);
    }
    if config.invoices {
        streams.push(INVOICES);
    }
    errors.require(!streams.is_empty(), "config.rules", "required", "must not be empty if no invoices are taken");
    errors.into_result()?;
    let (Some(base), Some(token_endpoint), Some(client_id)) = (base, token, client_id) else {
        return Err(FieldErrors::default());
    };
    Ok(Box::new(QuickBooks {
        // Whose address is another shares no rate with Intuit's company of that id.
        account: match base.host() {
            own if own == own_host => format!("quickbooks:{realm_id}"),
            other => format!("quickbooks:{other}/{realm_id}"),
        },
        company: base.join(&format!("v3/company/{realm_id}")),
        realm_id,
        oauth: OAuth {
            token_endpoint,
            client_id: client_id.expose_secret().to_owned(),
            client_secret,
            basic: true,
            grant: Grant::RefreshToken,
            default_lifetime_s: 3_600,
        },
        streams,
        rules: config.rules,
        org_number_field: config.org_number_field,
        currency: config.currency,
        http,
        clock,
    }))
}

impl Connector for QuickBooks {
    fn account(&self) -> &str {
        &self.account
    }

    fn oauth(&self) -> Option<&OAuth> {
        Some(&self.oauth)
    }

    fn streams(&self) -> &[&'static str] {
        &self.streams
    }

    /// A query tells what is there; of what was deleted, change data capture does.
    fn full_tells_deleted(&self) -> bool {
        false
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move {
            let path = format!("companyinfo/{}", self.realm_id);
            let reply = self.get(access, &path, &[]).await?;
            let answer: Value = faults::accepted(&reply, &self.clock)?;
            let name = answer["CompanyInfo"]["CompanyName"].as_str().and_then(purchase::line_of_text);
            let name =
                name.ok_or_else(|| ConnectorError::Protocol("QuickBooks did not name the company".to_owned()))?;
            Ok(format!("QuickBooks company {name} (realm {}) answers", self.realm_id))
        })
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move {
            let (entity, records): (_, reading::Reader) = match stream {
                PURCHASES => ("Purchase", |quickbooks, raw| quickbooks.purchase("purchase", raw)),
                BILLS => ("Bill", |quickbooks, raw| quickbooks.purchase("bill", raw)),
                INVOICES => ("Invoice", |quickbooks, raw| vec![quickbooks.invoice(raw)]),
                other => return Err(ConnectorError::Protocol(format!("QuickBooks has no stream {other}"))),
            };
            self.read_entity(access, entity, records, from).await
        })
    }
}

#[cfg(test)]
mod tests;
