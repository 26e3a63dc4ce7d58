//! The key ring: keys from the configuration and the keys derived from them (HKDF-SHA-256, RFC 5869).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::VaultError;

/// 256 bits, wiped when dropped.
pub(super) type KeyBytes = Zeroizing<[u8; 32]>;

const SEAL_PURPOSE: &str = "backroom vault v1 seal";
const INDEX_PURPOSE: &str = "backroom vault v1 blind index";
const DERIVE_PURPOSE: &str = "backroom vault v1 derive";

/// A new key for the front of `BACKROOM__VAULT__KEYS`: a random id, a colon and 32 random bytes in base64url.
pub fn generate_key() -> String {
    let mut id = [0; 4];
    rand::rng().fill_bytes(&mut id);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("k{id}:{}", generate_index_key())
}

/// A new `BACKROOM__VAULT__INDEX_KEY`: 32 random bytes in base64url. Changing it makes every blind index useless until
/// it is computed again.
pub fn generate_index_key() -> String {
    let mut bytes: KeyBytes = Zeroizing::new([0; 32]);
    rand::rng().fill_bytes(bytes.as_mut());
    URL_SAFE_NO_PAD.encode(bytes.as_ref())
}

/// Reads `id:key`, 32 bytes in base64url, as [`generate_key`] makes it. An error continues the key's name.
pub fn parse_key(text: &str) -> Result<(String, Zeroizing<[u8; 32]>), &'static str> {
    Key::parse(text).map(|key| (key.id, key.bytes))
}

pub(super) struct Key {
    id: String,
    bytes: KeyBytes,
}

impl Key {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// The key that seals one organization's fields.
    pub(super) fn sealing_key(&self, organization: &str) -> KeyBytes {
        derive(&self.bytes, SEAL_PURPOSE, &[organization])
    }

    fn parse(text: &str) -> Result<Self, &'static str> {
        let (id, bytes) = text.split_once(':').ok_or("has no id; write it as id:key")?;
        let id_ok =
            (1..=32).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !id_ok {
            return Err("has an id that is not 1 to 32 letters, digits, hyphens and underscores");
        }
        Ok(Self { id: id.to_owned(), bytes: parse_bytes(bytes)? })
    }
}

fn parse_bytes(text: &str) -> Result<KeyBytes, &'static str> {
    let decoded = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map(Zeroizing::new);
    let decoded = decoded.map_err(|_| "is not base64url")?;
    let bytes = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| "does not have 32 bytes")?;
    Ok(Zeroizing::new(bytes))
}

/// All keys, newest first, never none.
pub(super) struct KeyRing {
    newest: Key,
    older: Vec<Key>,
    index_key: KeyBytes,
}

impl KeyRing {
    pub(super) fn parse(keys: &[SecretString], index_key: Option<&SecretString>) -> Result<Self, VaultError> {
        let mut parsed = Vec::<Key>::with_capacity(keys.len());
        for (position, text) in keys.iter().enumerate() {
            let text = text.expose_secret().trim();
            if text.is_empty() {
                continue; // an empty variable is no key
            }
            let key =
                Key::parse(text).map_err(|problem| VaultError::MalformedKey { position: position + 1, problem })?;
            if parsed.iter().any(|other| other.id == key.id) {
                return Err(VaultError::RepeatedKey { id: key.id });
            }
            parsed.push(key);
        }
        let mut parsed = parsed.into_iter();
        let newest = parsed.next().ok_or(VaultError::NoKey)?;
        let index_key = index_key.filter(|key| !key.expose_secret().trim().is_empty()).ok_or(VaultError::NoIndexKey)?;
        let index_key = parse_bytes(index_key.expose_secret().trim())
            .map_err(|problem| VaultError::MalformedIndexKey { problem })?;
        Ok(Self { newest, older: parsed.collect(), index_key })
    }

    pub(super) fn newest(&self) -> &Key {
        &self.newest
    }

    pub(super) fn by_id(&self, id: &str) -> Option<&Key> {
        std::iter::once(&self.newest).chain(&self.older).find(|key| key.id == id)
    }

    pub(super) fn ids(&self) -> Vec<&str> {
        std::iter::once(&self.newest).chain(&self.older).map(Key::id).collect()
    }

    pub(super) fn derive_keys(&self, purpose: &str) -> Vec<(String, KeyBytes)> {
        let keys = std::iter::once(&self.newest).chain(&self.older);
        keys.map(|key| (key.id.clone(), derive(&key.bytes, DERIVE_PURPOSE, &[purpose]))).collect()
    }

    pub(super) fn blind_index(&self, column: &[&str], value: &[u8]) -> Vec<u8> {
        let key = derive(&self.index_key, INDEX_PURPOSE, column);
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_ref()).expect("HMAC takes keys of any length");
        mac.update(value);
        mac.finalize().into_bytes().to_vec()
    }
}

fn derive(key: &KeyBytes, purpose: &str, context: &[&str]) -> KeyBytes {
    let mut info = Vec::new();
    append(&mut info, purpose.as_bytes());
    for part in context {
        append(&mut info, part.as_bytes());
    }
    let mut out: KeyBytes = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(None, key.as_ref()).expand(&info, out.as_mut()).expect("32 bytes are within HKDF's limit");
    out
}

/// Appends a part and its length, so that ("ab", "c") and ("a", "bc") differ.
pub(super) fn append(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&(part.len() as u64).to_be_bytes());
    out.extend_from_slice(part);
}
