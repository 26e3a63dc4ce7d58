//! The assertion by which a program proves who it is (RFC 7523): a JSON Web Token, signed with the key whose certificate the
//! account knows. ES256, ES384 and PS256 (RFC 7518, section 3); NetSuite takes no RS256.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, RSA_PSS_SHA256, RsaKeyPair,
    },
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use crate::domain::ParseError;

/// How long an assertion is good for, in seconds; NetSuite allows an hour.
const LASTS: i64 = 300;

/// A private key, in the form that signs.
pub enum SigningKey {
    Es256(EcdsaKeyPair),
    Es384(EcdsaKeyPair),
    Ps256(RsaKeyPair),
}

impl SigningKey {
    /// Reads PKCS #8 in PEM: `-----BEGIN PRIVATE KEY-----`.
    pub fn parse(pem: &SecretString) -> Result<Self, ParseError> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem.expose_secret().as_bytes()).map_err(|_| {
            ParseError::invalid(
                "is no PKCS #8 key in PEM (-----BEGIN PRIVATE KEY-----); openssl pkcs8 -topk8 -nocrypt makes one of other forms",
            )
        })?;
        let (der, random) = (der.secret_pkcs8_der(), SystemRandom::new());
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random) {
            return Ok(Self::Es256(key));
        }
        if let Ok(key) = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der, &random) {
            return Ok(Self::Es384(key));
        }
        let rsa = RsaKeyPair::from_pkcs8(der).map(Self::Ps256);
        rsa.map_err(|_| ParseError::invalid("is neither an EC key (P-256, P-384) nor an RSA key of 2048 to 4096 bits"))
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::Es384(_) => "ES384",
            Self::Ps256(_) => "PS256",
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        match self {
            Self::Es256(key) | Self::Es384(key) => Some(key.sign(&random, message).ok()?.as_ref().to_vec()),
            Self::Ps256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PSS_SHA256, &random, message, &mut signature).ok()?;
                Some(signature)
            }
        }
    }
}

/// Who asserts what to whom.
pub struct Assertion {
    pub key: SigningKey,
    pub client_id: String,
    /// Of the certificate, as the account's setup page shows it.
    pub certificate_id: String,
    /// The address of the token endpoint.
    pub audience: String,
}

impl Assertion {
    /// A token that begins now. `None`, if the machine gives no random numbers.
    pub fn at(&self, now: DateTime<Utc>) -> Option<String> {
        let header = json!({ "typ": "JWT", "alg": self.key.algorithm(), "kid": self.certificate_id });
        let iat = now.timestamp();
        let claims = json!({
            "iss": self.client_id, "scope": ["rest_webservices"], "aud": self.audience, "iat": iat, "exp": iat + LASTS,
        });
        let encode = |part: &serde_json::Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self.key.sign(message.as_bytes())?;
        Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{ECDSA_P256_SHA256_FIXED, KeyPair, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    const EC: &str = include_str!("../../../tests/fixtures/netsuite/ec-key-of-tests.pem");
    const RSA: &str = include_str!("../../../tests/fixtures/netsuite/rsa-key-of-tests.pem");

    fn assertion(pem: &str) -> Assertion {
        Assertion {
            key: SigningKey::parse(&pem.into()).unwrap(),
            client_id: "client".to_owned(),
            certificate_id: "cert-1".to_owned(),
            audience: "https://example.com/token".to_owned(),
        }
    }

    /// SYNC-9: what the token says, and that the public key believes it.
    #[test]
    fn an_assertion_is_signed_by_either_kind_of_key() {
        for (pem, algorithm) in [(EC, "ES256"), (RSA, "PS256")] {
            let assertion = assertion(pem);
            let token = assertion.at(DateTime::from_timestamp(1_700_000_000, 0).unwrap()).unwrap();
            let (message, signature) = token.rsplit_once('.').unwrap();
            let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
            let believed = match &assertion.key {
                SigningKey::Es256(key) | SigningKey::Es384(key) => {
                    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.public_key());
                    key.verify(message.as_bytes(), &signature)
                }
                SigningKey::Ps256(key) => {
                    let key = UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA256, key.public_key());
                    key.verify(message.as_bytes(), &signature)
                }
            };
            assert!(believed.is_ok(), "{algorithm}");
            let read = |part: &str| -> serde_json::Value {
                serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
            };
            let (header, claims) = message.split_once('.').unwrap();
            assert_eq!(read(header), json!({ "typ": "JWT", "alg": algorithm, "kid": "cert-1" }));
            assert_eq!(read(claims)["aud"], "https://example.com/token");
            assert_eq!((&read(claims)["iat"], &read(claims)["exp"]), (&json!(1_700_000_000), &json!(1_700_000_300)));
        }
    }

    /// SYNC-9, VAULT-4: a key that cannot be read is told without the key.
    #[test]
    fn a_key_of_another_form_is_refused_with_a_way_out() {
        let old = EC.replace("PRIVATE KEY", "EC PRIVATE KEY");
        let Err(error) = SigningKey::parse(&old.as_str().into()) else { panic!("it was read") };
        assert!(error.message.contains("openssl pkcs8") && !error.message.contains("MI"), "{error}");
        assert!(SigningKey::parse(&"key".into()).is_err());
    }
}
