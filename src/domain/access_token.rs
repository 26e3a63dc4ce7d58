//! Access tokens (AUTH-2): JSON Web Tokens (RFC 7519) signed with HMAC-SHA-256. A token names the key that signed it; the newest key
//! signs, every configured one is believed. Nothing else is: no other algorithm, no `none`, no key that a token brings along.

use std::sync::Once;

use chrono::{DateTime, Duration, Utc};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Signer, Verifier},
};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::Role;

/// The one purpose that opens the API. A token that was signed for another opens nothing here.
pub const ACCESS: &str = "access";

/// What a token says. Role and company are those of the moment in which it was made; what counts is what the database says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The person.
    pub sub: Uuid,
    pub organization: Uuid,
    pub role: Role,
    /// A customer's company.
    pub company: Option<Uuid>,
    /// [`ACCESS`].
    pub purpose: String,
    /// The token's own id.
    pub jti: Uuid,
    /// The sign-in that it came of.
    pub session: Uuid,
    /// Seconds since 1970.
    pub iat: i64,
    /// Seconds since 1970; from then on it is good for nothing.
    pub exp: i64,
}

/// Why a token is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token of ours: malformed, of another algorithm, by an unknown key, or with a wrong signature.
    #[error("the token is not one of ours")]
    Invalid,
    #[error("the token was made for another purpose")]
    WrongPurpose,
    #[error("the token has expired")]
    Expired,
}

struct TokenKey {
    id: String,
    signs: EncodingKey,
    verifies: DecodingKey,
}

/// The keys, newest first, never none.
pub struct TokenKeys(Vec<TokenKey>);

impl TokenKeys {
    /// Keys by their ids, newest first.
    ///
    /// # Panics
    /// Without a key.
    pub fn new(keys: Vec<(String, Zeroizing<[u8; 32]>)>) -> Self {
        assert!(!keys.is_empty(), "tokens are signed with a key");
        static INSTALLED: Once = Once::new();
        INSTALLED.call_once(|| {
            // Fails only if there is one already, and nothing else in the program installs one.
            let _there_is_one = PROVIDER.install_default();
        });
        Self(
            keys.into_iter()
                .map(|(id, key)| TokenKey {
                    id,
                    signs: EncodingKey::from_secret(key.as_ref()),
                    verifies: DecodingKey::from_secret(key.as_ref()),
                })
                .collect(),
        )
    }

    /// Signs with the newest key.
    ///
    /// # Panics
    /// Never: claims have a JSON form.
    pub fn sign(&self, claims: &Claims) -> String {
        let newest = &self.0[0];
        let header = Header { kid: Some(newest.id.clone()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(&header, claims, &newest.signs).expect("claims have a JSON form and HMAC takes any key")
    }

    /// What an access token says, if it is one of ours and still good at `now`.
    pub fn open(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        let key = self.0.iter().find(|key| Some(&key.id) == header.kid.as_ref()).ok_or(TokenError::Invalid)?;
        // The time is the product's clock, so it is looked at here and not by the library.
        let mut validation = Validation::new(Algorithm::HS256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let claims = jsonwebtoken::decode::<Claims>(token, &key.verifies, &validation);
        let claims = claims.map_err(|_| TokenError::Invalid)?.claims;
        if claims.purpose != ACCESS {
            return Err(TokenError::WrongPurpose);
        }
        if now.timestamp() >= claims.exp {
            return Err(TokenError::Expired);
        }
        Ok(claims)
    }
}

impl Claims {
    /// An access token's, good for `lasts` from `now`.
    pub fn access(
        (sub, organization, session): (Uuid, Uuid, Uuid),
        (role, company): (Role, Option<Uuid>),
        now: DateTime<Utc>,
        lasts: Duration,
    ) -> Self {
        let iat = now.timestamp();
        let (purpose, jti) = (ACCESS.to_owned(), Uuid::now_v7());
        Self { sub, organization, role, company, purpose, jti, session, iat, exp: iat + lasts.num_seconds() }
    }
}

/// HMAC-SHA-256 and nothing else, from the crates that the vault uses: the library's own providers bring RSA and curves along.
static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256::of(key.as_bytes()))),
        _ => Err(Error::from(ErrorKind::InvalidAlgorithm)),
    },
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256::of(key.try_get_as_bytes()?))),
        _ => Err(Error::from(ErrorKind::InvalidAlgorithm)),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

struct Hs256(Hmac<Sha256>);

impl Hs256 {
    fn of(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }
}

impl Signer<Vec<u8>> for Hs256 {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.clone().chain_update(message).finalize().into_bytes().to_vec())
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// In constant time.
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        self.0.clone().chain_update(message).verify_slice(signature).map_err(|_| signature::Error::new())
    }
}

impl JwtSigner for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}

#[cfg(test)]
mod tests {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use chrono::TimeZone;
    use serde_json::{Value, json};

    use super::*;

    fn key(id: &str, byte: u8) -> (String, Zeroizing<[u8; 32]>) {
        (id.to_owned(), Zeroizing::new([byte; 32]))
    }

    fn now() -> DateTime<Utc> {
        Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).unwrap()
    }

    fn claims() -> Claims {
        let ids = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
        Claims::access(ids, (Role::Customer, Some(Uuid::now_v7())), now(), Duration::hours(1))
    }

    /// AUTH-2
    #[test]
    fn a_token_says_what_it_was_made_to_say_for_an_hour() {
        let keys = TokenKeys::new(vec![key("k1", 1)]);
        let claims = claims();
        let token = keys.sign(&claims);
        assert_eq!(keys.open(&token, now()), Ok(claims.clone()));
        assert_eq!(keys.open(&token, now() + Duration::seconds(3_599)), Ok(claims));
        assert_eq!(keys.open(&token, now() + Duration::hours(1)), Err(TokenError::Expired));
    }

    /// AUTH-2: rotation. The new key signs, the old one is believed until it is taken out.
    #[test]
    fn a_token_of_an_older_key_is_good_as_long_as_the_key_is_configured() {
        let (old, both, new) = (
            TokenKeys::new(vec![key("k1", 1)]),
            TokenKeys::new(vec![key("k2", 2), key("k1", 1)]),
            TokenKeys::new(vec![key("k2", 2)]),
        );
        let before = old.sign(&claims());
        assert!(both.open(&before, now()).is_ok());
        assert_eq!(new.open(&before, now()), Err(TokenError::Invalid));
        let after = both.sign(&claims());
        assert!(new.open(&after, now()).is_ok());
        assert_eq!(old.open(&after, now()), Err(TokenError::Invalid));
        assert_eq!(
            TokenKeys::new(vec![key("k1", 9)]).open(&before, now()),
            Err(TokenError::Invalid),
            "the id alone is no key"
        );
    }

    /// A token of these parts, signed by key 1.
    fn forged(header: &Value, payload: &Value) -> String {
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let head = format!("{}.{}", encode(header), encode(payload));
        let signature = Hs256::of(&[1; 32]).try_sign(head.as_bytes()).unwrap();
        format!("{head}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// AUTH-2
    #[test]
    fn whatever_a_forger_writes_into_a_token_it_is_not_believed() {
        let keys = TokenKeys::new(vec![key("k1", 1)]);
        let good = serde_json::to_value(claims()).unwrap();
        assert!(keys.open(&forged(&json!({"alg": "HS256", "typ": "JWT", "kid": "k1"}), &good), now()).is_ok());
        for header in [
            json!({"alg": "none", "kid": "k1"}),
            json!({"alg": "None", "kid": "k1"}),
            json!({"alg": "HS512", "kid": "k1"}),
            json!({"alg": "RS256", "kid": "k1"}),
            json!({"alg": "HS256", "kid": "k2"}),
            json!({"alg": "HS256", "kid": "../../dev/null"}),
            json!({"alg": "HS256", "jwk": {"kty": "oct", "k": "AQEB"}}),
            json!({"alg": "HS256"}),
            json!({"kid": "k1"}),
            json!([]),
        ] {
            assert_eq!(keys.open(&forged(&header, &good), now()), Err(TokenError::Invalid), "{header}");
        }
        let header = json!({"alg": "HS256", "kid": "k1"});
        let mut other = good.clone();
        other["purpose"] = json!("invitation");
        assert_eq!(keys.open(&forged(&header, &other), now()), Err(TokenError::WrongPurpose));
        for missing in ["sub", "organization", "role", "purpose", "jti", "session", "exp"] {
            let mut without = good.clone();
            without.as_object_mut().unwrap().remove(missing);
            assert_eq!(keys.open(&forged(&header, &without), now()), Err(TokenError::Invalid), "without {missing}");
        }
        let token = keys.sign(&claims());
        let (head, _) = token.rsplit_once('.').unwrap();
        for cut in [
            "",
            ".",
            "..",
            "a.b.c",
            head,
            &format!("{head}."),
            &format!("{token}x"),
            &format!("{token}.x"),
            &token[1..],
        ] {
            assert_eq!(keys.open(cut, now()), Err(TokenError::Invalid), "{cut}");
        }
    }

    proptest::proptest! {
        /// AUTH-2
        #[test]
        fn no_changed_token_is_believed(at in 0_usize..600, to in "[A-Za-z0-9_.-]") {
            let keys = TokenKeys::new(vec![key("k1", 1)]);
            let token = keys.sign(&claims());
            let at = at % token.len();
            let mut changed = token.clone();
            changed.replace_range(at..=at, &to);
            // The last character of the signature carries two bits that belong to no byte.
            if changed != token && at + 1 < token.len() {
                proptest::prop_assert_eq!(keys.open(&changed, now()), Err(TokenError::Invalid));
            }
        }
    }
}
