//! Passwords (AUTH-2, AUTH-5): Argon2id (RFC 9106), kept in PHC form, so that each hash says what it cost. Hashing takes tens of
//! milliseconds of a core: never on a runtime's thread; [`crate::context::App`] does it aside.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{self, PasswordHasher, PasswordVerifier, phc},
};
use secrecy::{ExposeSecret, SecretString};
use unicode_normalization::UnicodeNormalization;

use super::ParseError;

/// NIST SP 800-63B asks for 8 characters and more where a second factor is missing.
pub const MIN_LENGTH: usize = 12;
/// In characters. Longer ones gain nothing and cost time.
pub const MAX_LENGTH: usize = 200;

/// A password in clear, in NFC (RFC 8265), so that `å` is one password on every keyboard.
#[derive(Clone)]
pub struct Password(SecretString);

impl Password {
    /// A password that is to be set: 12 to 200 characters, whichever they are, at least four of them different.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let length = text.chars().count();
        if length == 0 {
            return Err(ParseError::new("required", "must not be empty"));
        }
        if length < MIN_LENGTH {
            return Err(ParseError::new("too_short", format!("must have at least {MIN_LENGTH} characters")));
        }
        let mut different: Vec<char> = text.chars().collect();
        different.sort_unstable();
        different.dedup();
        if different.len() < 4 {
            return Err(ParseError::invalid("must have at least four different characters"));
        }
        Self::typed(text)
    }

    /// A password that somebody signs in with; whether it could be set today does not matter.
    pub fn typed(text: &str) -> Result<Self, ParseError> {
        if text.chars().count() > MAX_LENGTH {
            return Err(ParseError::new("too_long", format!("must have at most {MAX_LENGTH} characters")));
        }
        Ok(Self(SecretString::from(text.nfc().collect::<String>())))
    }

    fn bytes(&self) -> &[u8] {
        self.0.expose_secret().as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// A hash as it is stored: `$argon2id$v=19$m=…,t=…,p=…$salt$hash`.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(String);

impl PasswordHash {
    /// As the database has it.
    pub fn stored(phc: String) -> Self {
        Self(phc)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(hidden)")
    }
}

/// Whether a password is the one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Right,
    /// Right, but hashed at another cost than today's: hash it again.
    RightAtAnotherCost,
    Wrong,
}

/// Hashes and verifies at the configured cost.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// Nobody's hash, at the same cost: what there is to verify where nobody has the address.
    nobodys: PasswordHash,
}

impl Passwords {
    /// Memory in KiB, at least 8, and passes over it, at least 1. One lane.
    ///
    /// # Errors
    /// Says which setting Argon2 does not take.
    pub fn new(memory_kib: u32, passes: u32) -> Result<Self, PasswordError> {
        let params = Params::new(memory_kib, passes, 1, None).map_err(PasswordError::Cost)?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let nobodys = hash_with(&argon2, &rand::random::<[u8; 32]>())?;
        Ok(Self { argon2, nobodys })
    }

    /// Under a new salt of 16 bytes.
    pub fn hash(&self, password: &Password) -> Result<PasswordHash, PasswordError> {
        hash_with(&self.argon2, password.bytes())
    }

    /// Takes as long whether there is a hash or not, as long as stored hashes have today's cost.
    pub fn verify(&self, password: &Password, stored: Option<&PasswordHash>) -> Verdict {
        let parsed = stored.and_then(|stored| phc::PasswordHash::new(stored.as_str()).ok());
        let Some(parsed) = parsed else {
            if let Ok(nobodys) = phc::PasswordHash::new(self.nobodys.as_str()) {
                let _nobody = self.argon2.verify_password(password.bytes(), &nobodys);
            }
            return Verdict::Wrong;
        };
        // Verifies with the parameters of the hash.
        if self.argon2.verify_password(password.bytes(), &parsed).is_err() {
            return Verdict::Wrong;
        }
        let cost = Params::try_from(&parsed).map(|cost| (cost.m_cost(), cost.t_cost(), cost.p_cost()));
        let today = self.argon2.params();
        if cost == Ok((today.m_cost(), today.t_cost(), today.p_cost())) {
            Verdict::Right
        } else {
            Verdict::RightAtAnotherCost
        }
    }
}

fn hash_with(argon2: &Argon2<'_>, password: &[u8]) -> Result<PasswordHash, PasswordError> {
    let salt = rand::random::<[u8; 16]>();
    let hash = argon2.hash_password_with_salt(password, &salt).map_err(PasswordError::Hash)?;
    Ok(PasswordHash(hash.to_string()))
}

/// Why a password could not be hashed. Holds nothing of it.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    #[error("Argon2id does not take this cost (sign_in.argon2_memory_kib, sign_in.argon2_passes)")]
    Cost(#[source] argon2::Error),
    #[error("could not hash a password")]
    Hash(#[source] password_hash::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Passwords {
        Passwords::new(64, 1).unwrap()
    }

    fn password(text: &str) -> Password {
        Password::typed(text).unwrap()
    }

    /// AUTH-1, AUTH-2
    #[test]
    fn only_the_password_itself_is_right_and_it_is_not_in_its_hash() {
        let passwords = cheap();
        let (right, wrong) = (password("correct horse battery"), password("correct horse batterY"));
        let (one, two) = (passwords.hash(&right).unwrap(), passwords.hash(&right).unwrap());
        assert!(one.as_str().starts_with("$argon2id$v=19$m=64,t=1,p=1$"), "{}", one.as_str());
        assert_ne!(one, two, "each hash has a salt of its own");
        assert_eq!(passwords.verify(&right, Some(&one)), Verdict::Right);
        assert_eq!(passwords.verify(&wrong, Some(&one)), Verdict::Wrong);
        assert_eq!(passwords.verify(&right, None), Verdict::Wrong);
        assert_eq!(passwords.verify(&right, Some(&PasswordHash::stored("x".to_owned()))), Verdict::Wrong);
        assert!(!format!("{right:?} {one:?}").contains("horse") && !format!("{one:?}").contains("argon2"));
    }

    /// AUTH-2
    #[test]
    fn a_hash_of_another_cost_is_right_and_to_be_made_anew() {
        let right = password("correct horse battery");
        let old = cheap().hash(&right).unwrap();
        let today = Passwords::new(128, 2).unwrap();
        assert_eq!(today.verify(&right, Some(&old)), Verdict::RightAtAnotherCost);
        assert_eq!(today.verify(&password("wrong"), Some(&old)), Verdict::Wrong);
    }

    /// AUTH-2
    #[test]
    fn one_password_in_two_unicode_forms_is_one_password() {
        let hash = cheap().hash(&password("smörgåsbord på ö")).unwrap();
        let decomposed = password("smo\u{308}rga\u{30a}sbord pa\u{30a} o\u{308}");
        assert_eq!(cheap().verify(&decomposed, Some(&hash)), Verdict::Right);
    }

    /// AUTH-5
    #[test]
    fn a_password_that_is_easily_guessed_is_not_taken() {
        let code = |text: &str| Password::parse(text).err().map(|error| error.code);
        assert_eq!(code(""), Some("required"));
        assert_eq!(code("elevenchars"), Some("too_short"));
        assert_eq!(code("twelve chars"), None);
        assert_eq!(code("åäöåäöåäöåä "), None, "characters count, not bytes");
        assert_eq!(code("aaaaaaaaaaaaa"), Some("invalid"));
        assert_eq!(code(&"abcd".repeat(50)), None);
        assert_eq!(code(&"abcd".repeat(51)), Some("too_long"));
        assert!(Password::typed("short").is_ok(), "what was set before counts");
    }

    #[test]
    fn a_cost_that_argon2_does_not_take_says_which_settings() {
        let error = Passwords::new(1, 0).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("sign_in.argon2_memory_kib"), "{error}");
    }
}
