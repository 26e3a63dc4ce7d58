//! Vendors quote what they were sent, and their words are stored, logged and read by people: a connector's secrets are taken out of
//! whatever it says (VAULT-4).

use std::collections::BTreeMap;

use base64::{Engine, prelude::BASE64_STANDARD};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};

use super::connector::{Access, Connector, ConnectorError, Credentials, OAuth, ReadFrom, RecordPage};

/// What stands for a secret.
const HIDDEN: &str = "[hidden]";
/// A shorter text is no secret, and would be found in every word.
const LEAST: usize = 6;
/// So much of a secret is as good as all of it: a long answer may be cut in its middle.
const HEAD: usize = 8;

struct Discreet {
    inner: Box<dyn Connector>,
    secrets: Vec<SecretString>,
}

/// The same connector, that tells none of its secrets.
pub fn discreet(inner: Box<dyn Connector>, credentials: &Credentials) -> Box<dyn Connector> {
    let all: BTreeMap<String, SecretString> = serde_json::from_str(credentials.0.expose_secret()).unwrap_or_default();
    Box::new(Discreet { inner, secrets: all.into_values().flat_map(|secret| forms(&secret)).collect() })
}

/// The secret, and how it begins in HTTP Basic.
fn forms(secret: &SecretString) -> Vec<SecretString> {
    let text = secret.expose_secret();
    if text.len() < LEAST {
        return Vec::new();
    }
    let whole = text.len() / 3 * 3;
    vec![secret.clone(), BASE64_STANDARD.encode(&text.as_bytes()[..whole]).into()]
}

/// The text without the secret, and without what begins as it does.
fn without(text: &str, secret: &str) -> String {
    let head = &secret[..secret.floor_char_boundary(HEAD)];
    let (mut told, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find(head) {
        let (before, found) = rest.split_at(at);
        let same = found.bytes().zip(secret.bytes()).take_while(|(a, b)| a == b).count();
        told.push_str(before);
        told.push_str(HIDDEN);
        rest = &found[found.floor_char_boundary(same)..];
    }
    told + rest
}

impl Discreet {
    fn text(&self, access: &Access, text: String) -> String {
        let bearer = access.bearer.iter().flat_map(forms).collect::<Vec<_>>();
        let secrets = self.secrets.iter().chain(&bearer);
        secrets.fold(text, |text, secret| without(&text, secret.expose_secret()))
    }

    fn error(&self, access: &Access, error: ConnectorError) -> ConnectorError {
        use ConnectorError as E;
        match error {
            E::Transient(text) => E::Transient(self.text(access, text)),
            E::Unauthorized(text) => E::Unauthorized(self.text(access, text)),
            E::Credentials(text) => E::Credentials(self.text(access, text)),
            E::Forbidden(text) => E::Forbidden(self.text(access, text)),
            E::Protocol(text) => E::Protocol(self.text(access, text)),
            E::Address(text) => E::Address(self.text(access, text)),
            E::RateLimited(..) | E::CursorExpired => error,
        }
    }
}

impl Connector for Discreet {
    fn account(&self) -> &str {
        self.inner.account()
    }

    fn oauth(&self) -> Option<&OAuth> {
        self.inner.oauth()
    }

    fn streams(&self) -> &[&'static str] {
        self.inner.streams()
    }

    fn full_tells_deleted(&self) -> bool {
        self.inner.full_tells_deleted()
    }

    fn test<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
        Box::pin(async move {
            let tested = self.inner.test(access).await;
            tested.map(|text| self.text(access, text)).map_err(|error| self.error(access, error))
        })
    }

    fn read<'a>(
        &'a self,
        access: &'a Access,
        stream: &'static str,
        from: &'a ReadFrom,
    ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
        Box::pin(async move {
            let read = self.inner.read(access, stream, from).await;
            read.map_err(|error| self.error(access, error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says what it is sent.
    struct Parrot;

    impl Connector for Parrot {
        fn account(&self) -> &'static str {
            "parrot"
        }

        fn streams(&self) -> &[&'static str] {
            &["words"]
        }

        fn full_tells_deleted(&self) -> bool {
            true
        }

        fn test<'a>(&'a self, _: &'a Access) -> BoxFuture<'a, Result<String, ConnectorError>> {
            Box::pin(async { Ok("signed in with planted-key-1".to_owned()) })
        }

        fn read<'a>(
            &'a self,
            _: &'a Access,
            _: &'static str,
            _: &'a ReadFrom,
        ) -> BoxFuture<'a, Result<RecordPage, ConnectorError>> {
            let basic = BASE64_STANDARD.encode("planted-key-1:x");
            let text = format!("no planted-key-1, no planted-token-2, no Basic {basic}; ab is short; planted-ke");
            Box::pin(async move { Err(ConnectorError::Forbidden(text)) })
        }
    }

    /// VAULT-4
    #[tokio::test]
    async fn a_vendor_that_quotes_a_secret_is_not_quoted() {
        let credentials = Credentials(r#"{"api_key":"planted-key-1","short":"ab"}"#.into());
        let connector = discreet(Box::new(Parrot), &credentials);
        let access = Access { bearer: Some("planted-token-2".into()) };

        assert_eq!(connector.test(&access).await.unwrap(), "signed in with [hidden]");
        let said = connector.read(&access, "words", &ReadFrom::Beginning).await.unwrap_err().to_string();
        assert!(said.contains("ab is short") && !said.contains("planted"), "{said}");
        assert!(!said.contains(&BASE64_STANDARD.encode("planted-key-")), "{said}");
        assert_eq!((connector.account(), connector.streams()), ("parrot", &["words"][..]));
    }

    #[test]
    fn letters_of_more_than_a_byte_stay_whole() {
        assert_eq!(without("nej åäöåäöX!", "åäöåäöY"), "nej [hidden]X!");
        assert_eq!(without("åäöåäö", "hemligt"), "åäöåäö");
    }
}
