//! The secret in a link that a stranger gets by mail.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{ParseError, Slug};

/// Characters of 32 bytes in base64url.
const SECRET_CHARS: usize = 43;

/// `acme.<43 characters base64url>`: the organization whose tables know it, and 32 random bytes. It is shown to who it is mailed
/// to; tables hold its hash, and only what is sealed holds itself. Its `Debug` hides it.
#[derive(Clone)]
pub struct LinkToken {
    organization: Slug,
    text: SecretString,
}

impl LinkToken {
    /// Draws a new one.
    pub fn random(organization: &Slug) -> Self {
        let secret = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        Self { organization: organization.clone(), text: format!("{}.{secret}", organization.as_str()).into() }
    }

    /// Reads one back. What is not a token by its form is refused without a look at any table.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let refuse = || ParseError::invalid("is not a token");
        let (slug, secret) = text.split_once('.').ok_or_else(refuse)?;
        let organization = Slug::parse(slug).map_err(|_| refuse())?;
        let bytes = URL_SAFE_NO_PAD.decode(secret).map_err(|_| refuse())?;
        if bytes.len() != 32 || secret.len() != SECRET_CHARS {
            return Err(refuse());
        }
        Ok(Self { organization, text: text.into() })
    }

    /// Whose tables know it.
    pub fn organization(&self) -> &Slug {
        &self.organization
    }

    /// SHA-256 of the whole token, as it is stored. With 256 random bits in it, an indexed look-up by the hash tells a guesser
    /// nothing.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.text.expose_secret()).into()
    }

    /// The token itself, for the link in the mail.
    pub fn expose(&self) -> &str {
        self.text.expose_secret()
    }
}

impl fmt::Debug for LinkToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkToken({}, hidden)", self.organization.as_str())
    }
}

impl Serialize for LinkToken {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.expose())
    }
}

impl<'de> Deserialize<'de> for LinkToken {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn acme() -> Slug {
        Slug::parse("acme").unwrap()
    }

    /// WORK-3: 100,000 tokens, none twice; over all of them each bit is set half of the time, to within five standard deviations.
    #[test]
    fn tokens_are_all_different_and_show_no_pattern() {
        const DRAWN: u32 = 100_000;
        let (mut seen, mut ones) = (HashSet::new(), [0u32; 256]);
        for _ in 0..DRAWN {
            let token = LinkToken::random(&acme());
            let secret = token.expose().split_once('.').unwrap().1.to_owned();
            let bytes = URL_SAFE_NO_PAD.decode(&secret).unwrap();
            assert_eq!((secret.len(), bytes.len()), (43, 32));
            for (bit, ones) in ones.iter_mut().enumerate() {
                *ones += u32::from((bytes[bit / 8] >> (bit % 8)) & 1);
            }
            assert!(seen.insert(token.hash()), "a token was drawn twice");
        }
        // A fair bit: mean n/2, standard deviation sqrt(n)/2.
        let (mean, deviation) = (f64::from(DRAWN) / 2.0, f64::from(DRAWN).sqrt() / 2.0);
        for (bit, ones) in ones.into_iter().enumerate() {
            let away = (f64::from(ones) - mean).abs() / deviation;
            assert!(away < 5.5, "bit {bit} is set {ones} times of {DRAWN}");
        }
    }

    /// WORK-3
    #[test]
    fn a_token_reads_back_and_names_its_organization() {
        let token = LinkToken::random(&Slug::parse("acme-inc").unwrap());
        let read = LinkToken::parse(token.expose()).unwrap();
        assert_eq!((read.organization().as_str(), read.hash()), ("acme-inc", token.hash()));
        let json = serde_json::to_string(&token).unwrap();
        assert_eq!(serde_json::from_str::<LinkToken>(&json).unwrap().hash(), token.hash());
    }

    /// VAULT-4
    #[test]
    fn a_token_is_in_no_debug_output() {
        let token = LinkToken::random(&acme());
        assert_eq!(format!("{token:?}"), "LinkToken(acme, hidden)");
    }

    proptest! {
        /// WORK-3: a token with any character changed, added or left out is another one, or none.
        #[test]
        fn a_changed_token_opens_nothing(at in 0usize..48, with in "[A-Za-z0-9_.\\-/%]?") {
            let token = LinkToken::random(&acme());
            let mut text = token.expose().to_owned();
            text.replace_range(at..=at.min(text.len() - 1), &with);
            prop_assume!(text != token.expose());
            if let Ok(other) = LinkToken::parse(&text) {
                prop_assert_ne!(other.hash(), token.hash());
            }
        }

        #[test]
        fn nothing_that_is_typed_breaks_it(text in "(?s).{0,80}") {
            let _ = LinkToken::parse(&text);
        }
    }
}
