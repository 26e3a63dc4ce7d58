//! OAuth 1.0a (RFC 5849): signs a call with the secrets of a consumer and of a token, as NetSuite's token-based authentication asks
//! for it, by HMAC-SHA-256. Bodies of JSON are not signed; the address, its query and the time are.
//!
//! By hand: the crates that sign this way are no longer kept, or know SHA-1 alone.

use base64::{Engine, engine::general_purpose::STANDARD};
use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use url::Url;

/// RFC 5849, section 3.6: everything but letters, digits, `-`, `.`, `_` and `~`.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Who signs.
#[derive(Clone)]
pub struct Signer {
    /// Stands in the header and is not signed.
    pub realm: String,
    pub consumer_key: SecretString,
    pub consumer_secret: SecretString,
    pub token: SecretString,
    pub token_secret: SecretString,
}

impl Signer {
    /// The value of `Authorization` for one call. `nonce` is good for this call alone, also when it is made again.
    pub fn authorization(&self, method: &Method, url: &Url, at: DateTime<Utc>, nonce: &str) -> SecretString {
        let mut parameters = vec![
            ("oauth_consumer_key", self.consumer_key.expose_secret().to_owned()),
            ("oauth_token", self.token.expose_secret().to_owned()),
            ("oauth_signature_method", "HMAC-SHA256".to_owned()),
            ("oauth_timestamp", at.timestamp().to_string()),
            ("oauth_nonce", nonce.to_owned()),
            ("oauth_version", "1.0".to_owned()),
        ];
        let base = base_string(method, url, &parameters);
        parameters
            .push(("oauth_signature", signature::<Hmac<Sha256>>(&base, &self.consumer_secret, &self.token_secret)));
        parameters.insert(0, ("realm", self.realm.clone()));
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}=\"{}\"", escape(value))).collect();
        format!("OAuth {}", pairs.join(", ")).into()
    }
}

/// RFC 5849, section 3.4.1. `parameters` are those of the header, without realm and signature, and those of a body that is a form.
pub fn base_string(method: &Method, url: &Url, parameters: &[(&str, String)]) -> String {
    let mut all: Vec<(String, String)> = url
        .query_pairs()
        .map(|(name, value)| (escape(&name), escape(&value)))
        .chain(parameters.iter().map(|(name, value)| (escape(name), escape(value))))
        .collect();
    all.sort();
    let all: Vec<String> = all.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut address = url.clone();
    address.set_query(None);
    address.set_fragment(None);
    format!("{}&{}&{}", method.as_str(), escape(address.as_str()), escape(&all.join("&")))
}

/// RFC 5849, section 3.4.2, with any hash.
pub fn signature<M: Mac + KeyInit>(base: &str, consumer_secret: &SecretString, token_secret: &SecretString) -> String {
    let key = format!("{}&{}", escape(consumer_secret.expose_secret()), escape(token_secret.expose_secret()));
    let mac = <M as KeyInit>::new_from_slice(key.as_bytes()).expect("HMAC takes keys of any length");
    STANDARD.encode(mac.chain_update(base.as_bytes()).finalize().into_bytes())
}

pub fn escape(text: &str) -> String {
    utf8_percent_encode(text, ESCAPED).to_string()
}

#[cfg(test)]
mod tests {
    use sha1::Sha1;

    use super::*;

    fn sha1(method: &Method, url: &str, parameters: &[(&str, &str)], secrets: (&str, &str)) -> String {
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let base = base_string(method, &Url::parse(url).unwrap(), &parameters);
        signature::<Hmac<Sha1>>(&base, &secrets.0.into(), &secrets.1.into())
    }

    /// SYNC-9: RFC 5849, section 3.4.1.1, with its query, its form and its letters that need escaping.
    #[test]
    fn the_base_string_is_the_standards() {
        let url = Url::parse("http://EXAMPLE.COM/request?b5=%3D%253D&a3=a&c%40=&a2=r%20b").unwrap();
        let parameters = [
            ("oauth_consumer_key", "9djdj82h48djs9d2"),
            ("oauth_token", "kkk9d7dh3k39sjv7"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "137131201"),
            ("oauth_nonce", "7d8f3e4a"),
            ("c2", ""),
            ("a3", "2 q"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        assert_eq!(
            base_string(&Method::POST, &url, &parameters),
            "POST&http%3A%2F%2Fexample.com%2Frequest&a2%3Dr%2520b%26a3%3D2%2520q%26a3%3Da%26b5%3D%253D%25253D%26c%2540%3D\
             %26c2%3D%26oauth_consumer_key%3D9djdj82h48djs9d2%26oauth_nonce%3D7d8f3e4a%26oauth_signature_method%3DHMAC-SHA1\
             %26oauth_timestamp%3D137131201%26oauth_token%3Dkkk9d7dh3k39sjv7"
        );
    }

    /// SYNC-9: RFC 5849, section 1.2: the requests for a token and for the photos.
    #[test]
    fn signatures_are_the_standards() {
        let first = [
            ("oauth_consumer_key", "dpf43f3p2l4k3l03"),
            ("oauth_token", "hh5s93j4hdidpola"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "137131201"),
            ("oauth_nonce", "walatlh"),
            ("oauth_verifier", "hfdp7dh39dks9884"),
        ];
        let secrets = ("kd94hf93k423kf44", "hdhd0244k9j7ao03");
        let signed = sha1(&Method::POST, "https://photos.example.net/token", &first, secrets);
        assert_eq!(signed, "gKgrFCywp7rO0OXSjdot/IHF7IU=");
        let second = [
            ("oauth_consumer_key", "dpf43f3p2l4k3l03"),
            ("oauth_token", "nnch734d00sl2jdk"),
            ("oauth_signature_method", "HMAC-SHA1"),
            ("oauth_timestamp", "137131202"),
            ("oauth_nonce", "chapoH"),
        ];
        let url = "http://photos.example.net/photos?file=vacation.jpg&size=original";
        let signed = sha1(&Method::GET, url, &second, ("kd94hf93k423kf44", "pfkkdhi9sl3r4s00"));
        assert_eq!(signed, "MdpQcU8iPSUjWoN/UDMsK2sui9I=");
    }

    /// SYNC-9: the vector of a NetSuite query (vendors.md, section 9).
    #[test]
    fn a_query_of_netsuite_is_signed_as_it_should_be() {
        let signer = Signer {
            realm: "1234567_SB1".to_owned(),
            consumer_key: "ck".into(),
            consumer_secret: "cs".into(),
            token: "tk".into(),
            token_secret: "ts".into(),
        };
        let url = "https://1234567-sb1.suitetalk.api.netsuite.com/services/rest/query/v1/suiteql?limit=1000&offset=0";
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let header = signer.authorization(&Method::POST, &Url::parse(url).unwrap(), at, "abc123");
        assert_eq!(
            header.expose_secret(),
            "OAuth realm=\"1234567_SB1\", oauth_consumer_key=\"ck\", oauth_token=\"tk\", \
             oauth_signature_method=\"HMAC-SHA256\", oauth_timestamp=\"1700000000\", oauth_nonce=\"abc123\", \
             oauth_version=\"1.0\", oauth_signature=\"Rbf0FPcRDz1XflpQ9cdsIMX%2FjVSIL0TZ9yD0Zzu60ss%3D\""
        );
    }
}
