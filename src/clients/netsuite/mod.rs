//! NetSuite (SYNC-9): lines of purchase orders and fixed assets, by SuiteQL over REST, with token-based authentication (OAuth 1.0a)
//! or OAuth 2.0 by a signed assertion. What is asked for and what is known of it: Oracle's help, "SuiteQL" and "REST Web Services".

mod answers;
mod assertion;
mod fixed_assets;
mod purchase_orders;
mod suiteql;

use std::{collections::BTreeMap, sync::Arc};

use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use self::assertion::{Assertion, SigningKey};
use super::{
    connector::{
        Access, Account, Connector, ConnectorError, Credentials, Grant, OAuth, ReadFrom, RecordPage, TokenForm, Vendor,
    },
    http::{Endpoint, Http},
    oauth1::Signer,
    purchase::{self, Rule},
};
use crate::domain::{Clock, Currency, FieldErrors, ParseError, integration::Provider};

pub static VENDOR: Vendor = Vendor {
    provider: Provider::NetSuite,
    connect,
    // No figure is published; what counts is how many run at once, and one run makes one call at a time.
    calls_per_minute: 120,
    webhook: None,
    config_help: "account: the account's id, 1234567 or 1234567_SB1
streams (optional): purchase_orders and fixed_assets, both without it
rules (optional): which lines become assets, a list of {item, category, useful_life_months}; without it every line over an item in stock or for use
currency (optional): of fixed assets, and of orders where the account does not tell; SEK without it
currencies (optional): codes of the account's names of currencies, {\"US Dollar\": \"USD\"}
base_url, token_url (optional): other addresses than the account's own",
    credentials_help: "either consumer_key, consumer_secret, token_id, token_secret: of an integration record and an access token of a role that may use REST web services and SuiteAnalytics
or client_id, certificate_id, private_key: of OAuth 2.0 client credentials; the key in PEM (PKCS #8), EC or RSA",
};

/// In this order an order comes before the asset that it became.
const PURCHASE_ORDERS: &str = "purchase_orders";
const FIXED_ASSETS: &str = "fixed_assets";

/// How the vendor is called in sentences.
const NAME: &str = "NetSuite";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    account: String,
    streams: Option<Vec<String>>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    currency: Currency,
    #[serde(default)]
    currencies: BTreeMap<String, Currency>,
    base_url: Option<String>,
    token_url: Option<String>,
}

struct NetSuite {
    account: String,
    base: Endpoint,
    auth: Auth,
    streams: Vec<&'static str>,
    rules: Vec<Rule>,
    currency: Currency,
    currencies: BTreeMap<String, Currency>,
    http: Http,
    clock: Clock,
}

enum Auth {
    Token(Box<Signer>),
    OAuth(Box<OAuth>),
}

/// The two ways in which the id of an account is written (sandboxes have a suffix): in addresses, and as a realm.
fn account_forms(id: &str) -> Option<(String, String)> {
    let id = id.trim();
    let fine =
        !id.is_empty() && id.len() <= 40 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    fine.then(|| (id.to_ascii_lowercase().replace('_', "-"), id.to_ascii_uppercase().replace('-', "_")))
}

fn connect(account: Account) -> Result<Box<dyn Connector>, FieldErrors> {
    let mut errors = FieldErrors::default();
    let Account { config, credentials, http, clock } = account;
    let Some(config) = purchase::config::<Config>(&config, &mut errors) else { return Err(errors) };
    let id =
        account_forms(&config.account).ok_or_else(|| ParseError::invalid("is no id such as 1234567 or 1234567_SB1"));
    let id = errors.check("config.account", id);
    Rule::check(&config.rules, &mut errors);
    let base = match (&config.base_url, &id) {
        (Some(base), _) => Some(base.clone()),
        (None, Some((host, _))) => Some(format!("https://{}/services/rest", own_host(host))),
        (None, None) => None,
    };
    let base = base.and_then(|base| address("config.base_url", &base, &mut errors));
    let token_url = match (&config.token_url, &base) {
        (Some(url), _) => address("config.token_url", url, &mut errors),
        (None, base) => base.as_ref().map(|base| base.join("auth/oauth2/v1/token")),
    };
    let mut streams = vec![PURCHASE_ORDERS, FIXED_ASSETS];
    if let Some(wanted) = &config.streams {
        let known = !wanted.is_empty() && wanted.iter().all(|name| streams.contains(&name.as_str()));
        errors.require(
            known,
            "config.streams",
            "unknown",
            "may hold purchase_orders and fixed_assets, and not nothing",
        );
        streams.retain(|name| wanted.iter().any(|wanted| wanted == name));
    }
    let realm = id.as_ref().map_or("", |(_, realm)| realm.as_str());
    let auth = auth(&credentials, realm, token_url, &mut errors);
    errors.into_result()?;
    let (Some((host, _)), Some(base), Some(auth)) = (id, base, auth) else { return Err(FieldErrors::default()) };
    Ok(Box::new(NetSuite {
        // Whose address is another shares no rate with NetSuite's account of that name.
        account: match base.host() {
            own if own == own_host(&host) => format!("netsuite:{host}"),
            other => format!("netsuite:{other}/{host}"),
        },
        base,
        auth,
        streams,
        rules: config.rules,
        currency: config.currency,
        currencies: config.currencies,
        http,
        clock,
    }))
}

fn own_host(account: &str) -> String {
    format!("{account}.suitetalk.api.netsuite.com")
}

fn address(field: &str, text: &str, errors: &mut FieldErrors) -> Option<Endpoint> {
    errors.check(field, Endpoint::parse(text).map_err(ParseError::invalid))
}

fn auth(credentials: &Credentials, realm: &str, token_url: Option<Endpoint>, errors: &mut FieldErrors) -> Option<Auth> {
    const TOKEN: [&str; 4] = ["consumer_key", "consumer_secret", "token_id", "token_secret"];
    const OAUTH: [&str; 3] = ["client_id", "certificate_id", "private_key"];
    let by_token = TOKEN.iter().any(|name| credentials.get(name).is_some());
    let by_oauth = OAUTH.iter().any(|name| credentials.get(name).is_some());
    if by_token == by_oauth {
        let message = "must be either those of an access token (consumer_key, consumer_secret, token_id, token_secret) or those of \
                       OAuth 2.0 (client_id, certificate_id, private_key)";
        errors.require(false, "credentials", "required", message);
        return None;
    }
    let mut secret = |name: &str| {
        let found = credentials.get(name);
        errors.require(found.is_some(), format!("credentials.{name}"), "required", "must not be empty");
        found
    };
    if by_token {
        let [consumer_key, consumer_secret, token, token_secret] = TOKEN.map(&mut secret);
        return Some(Auth::Token(Box::new(Signer {
            realm: realm.to_owned(),
            consumer_key: consumer_key?,
            consumer_secret: consumer_secret?,
            token: token?,
            token_secret: token_secret?,
        })));
    }
    let [client_id, certificate_id, private_key] = OAUTH.map(&mut secret);
    let key = errors.check("credentials.private_key", SigningKey::parse(&private_key?));
    let plain = |secret: SecretString| secret.expose_secret().to_owned();
    let (client_id, token_endpoint) = (plain(client_id?), token_url?);
    let assertion = Assertion {
        key: key?,
        client_id: client_id.clone(),
        certificate_id: plain(certificate_id?),
        audience: token_endpoint.to_string(),
    };
    let form: TokenForm = Arc::new(move |now| {
        let mut form = vec![
            ("grant_type".to_owned(), "client_credentials".to_owned()),
            ("client_assertion_type".to_owned(), "urn:ietf:params:oauth:client-assertion-type:jwt-bearer".to_owned()),
        ];
        // Without the assertion the server refuses, which is all there is to do on a machine without random numbers.
        form.extend(assertion.at(now).map(|signed| ("client_assertion".to_owned(), signed)));
        form
    });
    Some(Auth::OAuth(Box::new(OAuth {
        token_endpoint,
        client_id,
        client_secret: None,
        basic: false,
        grant: Grant::ClientCredentials(form),
        default_lifetime_s: 3_600,
    })))
}

impl Connector for NetSuite {
    fn account(&self) -> &str {
        &self.account
    }

    fn oauth(&self) -> Option<&OAuth> {
        match &self.auth {
            Auth::Token(_) => None,
            Auth::OAuth(oauth) => Some(oauth),
        }
    }

    fn streams(&self) -> &[&'static str] {
        &self.streams
    }

    fn full_tells_deleted(&self) -> bool {
        true
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move {
            let mut said = Vec::new();
            for stream in &self.streams {
                let reads = match *stream {
                    PURCHASE_ORDERS => self.suiteql(access, purchase_orders::PROBE, 1).await,
                    _ => self.suiteql(access, fixed_assets::PROBE, 1).await,
                };
                said.push(match reads {
                    Ok(_) => format!("may read {}", stream.replace('_', " ")),
                    // Not every account keeps fixed assets in NetSuite.
                    Err(suiteql::Refused::NoTable) if *stream == FIXED_ASSETS => {
                        "sees no fixed assets: the account does not have them, or the role lacks the permission"
                            .to_owned()
                    }
                    Err(refused) => return Err(refused.into()),
                });
            }
            let id = self.account.rsplit([':', '/']).next().unwrap_or_default();
            Ok(format!("NetSuite account {id} answers; the role {}", said.join(", and ")))
        })
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move {
            match stream {
                PURCHASE_ORDERS => self.read_purchase_orders(access, from).await,
                FIXED_ASSETS => self.read_fixed_assets(access, from).await,
                other => Err(ConnectorError::Protocol(format!("NetSuite has no stream {other}"))),
            }
        })
    }
}

#[cfg(test)]
mod tests;
