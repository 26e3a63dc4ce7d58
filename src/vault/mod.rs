//! Sealed fields: AES-256-GCM bound to the place where the field lives, and blind indexes to look sealed values up.
//!
//! The format and its reasons: `docs/decisions/0006-vault-format.md`.

mod keys;
mod seal;

use std::fmt;
use std::sync::Arc;

use rust_decimal::Decimal;
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;
use zeroize::Zeroizing;

use keys::KeyRing;
pub use keys::{generate_index_key, generate_key, parse_key};

/// Where a sealed value lives. The value opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// What names the organization for ever: its slug.
    pub organization: &'a str,
    pub table: &'a str,
    pub column: &'a str,
    /// The row's primary key.
    pub row: Uuid,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} of row {} in organization {}", self.table, self.column, self.row, self.organization)
    }
}

/// Why the vault refuses. No variant holds a key or a plaintext, and none has a source that could.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    #[error("there is no vault key: set BACKROOM__VAULT__KEYS; make one with `backroom key generate`")]
    NoKey,
    #[error("there is no vault index key: set BACKROOM__VAULT__INDEX_KEY; make one with `backroom key generate`")]
    NoIndexKey,
    #[error("vault key number {position} is not usable: it {problem}; make one with `backroom key generate`")]
    MalformedKey {
        /// In the list of keys, from 1.
        position: usize,
        problem: &'static str,
    },
    #[error("the vault index key is not usable: it {problem}; make one with `backroom key generate`")]
    MalformedIndexKey { problem: &'static str },
    #[error("two vault keys are called {id}; give each its own id")]
    RepeatedKey { id: String },
    #[error("the sealed field needs vault key {id}, which is not in BACKROOM__VAULT__KEYS; put the old key back")]
    UnknownKey { id: String },
    #[error("the field is not a sealed value: it is cut short or of an unknown version")]
    NotSealed,
    #[error("could not open {place}: it was changed, moved from another place or sealed with another key")]
    NotOpened { place: String },
    #[error("{place} opened, but holds something else than the expected {expected}")]
    NotReadable { place: String, expected: &'static str },
    #[error("could not write the value for {place} as JSON")]
    NotWritable { place: String },
}

/// The keys, ready for use. Clones share them; they are wiped from memory with the last clone.
#[derive(Clone)]
pub struct Vault(Arc<KeyRing>);

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("key_ids", &self.0.ids()).finish_non_exhaustive()
    }
}

impl Vault {
    /// Takes the key ring, each key as `id:` and 32 bytes in base64url, newest first, and the index key, 32 bytes in
    /// base64url. The newest key seals, all of them open.
    pub fn from_keys(keys: &[SecretString], index_key: Option<&SecretString>) -> Result<Self, VaultError> {
        KeyRing::parse(keys, index_key).map(|ring| Self(Arc::new(ring)))
    }

    /// The id of the key that seals now.
    pub fn newest_key_id(&self) -> &str {
        self.0.newest().id()
    }

    /// The id of the key that a sealed value names, for rotation: what does not name the newest is to be sealed again.
    pub fn key_id(sealed: &[u8]) -> Result<&str, VaultError> {
        seal::Envelope::parse(sealed).map(|envelope| envelope.key_id)
    }

    /// A key for each key of the ring, under its id, newest first, for a purpose that is not sealing.
    pub fn derive_keys(&self, purpose: &str) -> Vec<(String, Zeroizing<[u8; 32]>)> {
        self.0.derive_keys(purpose)
    }

    /// Seals a text.
    pub fn seal_text(&self, place: &Place<'_>, plain: &str) -> Vec<u8> {
        seal::seal(&self.0, place, plain.as_bytes())
    }

    /// Opens what [`Vault::seal_text`] made for the same place.
    pub fn open_text(&self, place: &Place<'_>, sealed: &[u8]) -> Result<SecretString, VaultError> {
        let plain = seal::open(&self.0, place, sealed)?;
        let text = std::str::from_utf8(&plain).map_err(|_| not_readable(place, "text"))?;
        Ok(SecretString::from(text))
    }

    /// Seals a value as JSON.
    pub fn seal_json<T: Serialize + ?Sized>(&self, place: &Place<'_>, plain: &T) -> Result<Vec<u8>, VaultError> {
        // serde_json's own message could quote the value, so it is dropped.
        let json = serde_json::to_vec(plain).map_err(|_| VaultError::NotWritable { place: place.to_string() })?;
        Ok(seal::seal(&self.0, place, &Zeroizing::new(json)))
    }

    /// Opens what [`Vault::seal_json`] made for the same place.
    pub fn open_json<T: DeserializeOwned>(&self, place: &Place<'_>, sealed: &[u8]) -> Result<T, VaultError> {
        let plain = seal::open(&self.0, place, sealed)?;
        serde_json::from_slice(&plain).map_err(|_| not_readable(place, "JSON"))
    }

    /// Seals a decimal with all its digits: 1.50 stays 1.50.
    pub fn seal_decimal(&self, place: &Place<'_>, plain: Decimal) -> Vec<u8> {
        seal::seal(&self.0, place, Zeroizing::new(plain.to_string()).as_bytes())
    }

    /// Opens what [`Vault::seal_decimal`] made for the same place.
    pub fn open_decimal(&self, place: &Place<'_>, sealed: &[u8]) -> Result<Decimal, VaultError> {
        let text = self.open_text(place, sealed)?;
        Decimal::from_str_exact(text.expose_secret()).map_err(|_| not_readable(place, "decimal"))
    }

    /// 32 bytes that are equal for equal values of one column of one organization, and tell nothing else: HMAC-SHA-256
    /// (RFC 2104) under a key of that column. Normalise the value first; `Phone` and its like already are.
    pub fn blind_index(&self, organization: &str, table: &str, column: &str, normalised: &str) -> Vec<u8> {
        self.0.blind_index(&[organization, table, column], normalised.as_bytes())
    }
}

fn not_readable(place: &Place<'_>, expected: &'static str) -> VaultError {
    VaultError::NotReadable { place: place.to_string(), expected }
}

/// With keys that nobody else has.
#[cfg(test)]
pub fn a_vault() -> Vault {
    let (key, index) = (generate_key().into(), generate_index_key().into());
    Vault::from_keys(&[key], Some(&index)).unwrap()
}

#[cfg(test)]
mod tests;
