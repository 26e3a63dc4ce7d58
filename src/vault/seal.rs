//! The sealed value: version, key id, nonce, ciphertext with tag (AES-256-GCM, NIST SP 800-38D).

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use rand::Rng;
use zeroize::Zeroizing;

use super::keys::{Key, KeyRing, append};
use super::{Place, VaultError};

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;

/// The parts of a sealed value.
pub(super) struct Envelope<'a> {
    /// Version, length of the key id, key id.
    header: &'a [u8],
    pub(super) key_id: &'a str,
    nonce: [u8; NONCE_BYTES],
    ciphertext: &'a [u8],
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(sealed: &'a [u8]) -> Result<Self, VaultError> {
        Self::split(sealed).ok_or(VaultError::NotSealed)
    }

    fn split(sealed: &'a [u8]) -> Option<Self> {
        let (&[VERSION, id_length], _) = sealed.split_first_chunk::<2>()? else { return None };
        let (header, rest) = sealed.split_at_checked(2 + usize::from(id_length))?;
        let key_id = std::str::from_utf8(&header[2..]).ok().filter(|id| id.bytes().all(|b| b.is_ascii_graphic()))?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>()?;
        (ciphertext.len() >= TAG_BYTES).then_some(Self { header, key_id, nonce: *nonce, ciphertext })
    }
}

pub(super) fn seal(ring: &KeyRing, place: &Place<'_>, plain: &[u8]) -> Vec<u8> {
    let key = ring.newest();
    let id_length = u8::try_from(key.id().len()).expect("key ids have at most 32 characters");
    let mut sealed = vec![VERSION, id_length];
    sealed.extend_from_slice(key.id().as_bytes());
    let aad = associated_data(&sealed, place);
    let mut nonce = [0; NONCE_BYTES];
    rand::rng().fill_bytes(&mut nonce);
    let ciphertext = cipher(key, place)
        .encrypt(&Nonce::from(nonce), Payload { msg: plain, aad: &aad })
        .expect("AES-GCM refuses only messages beyond 64 GiB");
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&ciphertext);
    sealed
}

pub(super) fn open(ring: &KeyRing, place: &Place<'_>, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let envelope = Envelope::parse(sealed)?;
    let key = ring.by_id(envelope.key_id).ok_or_else(|| VaultError::UnknownKey { id: envelope.key_id.to_owned() })?;
    let aad = associated_data(envelope.header, place);
    cipher(key, place)
        .decrypt(&Nonce::from(envelope.nonce), Payload { msg: envelope.ciphertext, aad: &aad })
        .map(Zeroizing::new)
        .map_err(|_| VaultError::NotOpened { place: place.to_string() })
}

fn cipher(key: &Key, place: &Place<'_>) -> Aes256Gcm {
    Aes256Gcm::new(&(*key.sealing_key(place.organization)).into())
}

/// Everything about the value that is not secret but must not change.
fn associated_data(header: &[u8], place: &Place<'_>) -> Vec<u8> {
    let mut aad = Vec::new();
    append(&mut aad, header);
    for part in [place.organization, place.table, place.column] {
        append(&mut aad, part.as_bytes());
    }
    append(&mut aad, place.row.as_bytes());
    aad
}
