use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use rust_decimal::dec;
use serde::Deserialize;

use super::*;

const OLD: &str = "k2025:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
const NEW: &str = "k2026:Hx4dHBsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA";
const INDEX: &str = "_______________________________________wAwQ";

/// "+46701234567" for the phone of row 1, sealed with the key above.
const SEALED_BEFORE: &str = "AQVrMjAyNukrgV1TtVz06MuhlCg3W--pmkOCehuKzwQ1-qj3otNR-2bPwQGBhjg";

fn vault(keys: &[&str]) -> Vault {
    let keys: Vec<SecretString> = keys.iter().map(|key| SecretString::from(*key)).collect();
    Vault::from_keys(&keys, Some(&SecretString::from(INDEX))).unwrap()
}

fn refused(keys: &[&str], index_key: Option<&str>) -> VaultError {
    let keys: Vec<SecretString> = keys.iter().map(|key| SecretString::from(*key)).collect();
    Vault::from_keys(&keys, index_key.map(SecretString::from).as_ref()).unwrap_err()
}

fn phone_of(row: u128) -> Place<'static> {
    Place { organization: "acme", table: "companies", column: "phone", row: Uuid::from_u128(row) }
}

/// VAULT-1
#[test]
fn text_decimals_and_json_come_back_as_they_were() {
    let (vault, place) = (vault(&[NEW]), phone_of(1));
    let sealed = vault.seal_text(&place, "+46701234567");
    assert!(!sealed.windows(4).any(|part| part == b"4670"));
    assert_eq!(vault.open_text(&place, &sealed).unwrap().expose_secret(), "+46701234567");
    assert_ne!(sealed, vault.seal_text(&place, "+46701234567"), "equal values look different");

    let sealed = vault.seal_decimal(&place, dec!(-1250.50));
    assert_eq!(vault.open_decimal(&place, &sealed).unwrap().to_string(), "-1250.50");

    let sealed = vault.seal_json(&place, &vec![Some("Anna"), None]).unwrap();
    assert_eq!(vault.open_json::<Vec<Option<String>>>(&place, &sealed).unwrap(), [Some("Anna".to_owned()), None]);
}

/// VAULT-1
#[test]
fn a_value_that_was_moved_does_not_open() {
    let (vault, place) = (vault(&[NEW]), phone_of(1));
    let sealed = vault.seal_text(&place, "+46701234567");
    for elsewhere in [
        phone_of(2),
        Place { organization: "other", ..place },
        Place { table: "users", ..place },
        Place { column: "contact", ..place },
        // The same letters, split differently.
        Place { table: "companiesp", column: "hone", ..place },
    ] {
        let error = vault.open_text(&elsewhere, &sealed).unwrap_err();
        assert_eq!(error, VaultError::NotOpened { place: elsewhere.to_string() });
    }
}

/// VAULT-2
#[test]
fn the_newest_key_seals_and_every_key_opens() {
    let place = phone_of(1);
    let before = vault(&[OLD]).seal_text(&place, "secret");
    let rotating = vault(&[NEW, OLD]);
    let after = rotating.seal_text(&place, "secret");
    assert_eq!(rotating.newest_key_id(), "k2026");
    assert_eq!((Vault::key_id(&before).unwrap(), Vault::key_id(&after).unwrap()), ("k2025", "k2026"));
    assert_eq!(rotating.open_text(&place, &before).unwrap().expose_secret(), "secret");
    assert_eq!(rotating.open_text(&place, &after).unwrap().expose_secret(), "secret");

    let error = vault(&[NEW]).open_text(&place, &before).unwrap_err();
    assert_eq!(error, VaultError::UnknownKey { id: "k2025".to_owned() });
}

/// VAULT-2
#[test]
fn a_key_under_another_keys_id_opens_nothing() {
    let sealed = vault(&[OLD]).seal_text(&phone_of(1), "secret");
    let swapped = NEW.replace("k2026", "k2025");
    let error = vault(&[&swapped]).open_text(&phone_of(1), &sealed).unwrap_err();
    assert!(matches!(error, VaultError::NotOpened { .. }));
}

/// VAULT-3
#[test]
fn a_blind_index_is_equal_for_equal_values_of_one_column_only() {
    let vault_a = vault(&[NEW]);
    let index = vault_a.blind_index("acme", "companies", "phone", "+46701234567");
    assert_eq!(index.len(), 32);
    // Rotating the sealing keys leaves it as it is.
    assert_eq!(index, vault(&[OLD]).blind_index("acme", "companies", "phone", "+46701234567"));
    for other in [
        vault_a.blind_index("acme", "companies", "phone", "+46701234568"),
        vault_a.blind_index("other", "companies", "phone", "+46701234567"),
        vault_a.blind_index("acme", "users", "phone", "+46701234567"),
        vault_a.blind_index("acme", "companies", "fax", "+46701234567"),
        vault_a.blind_index("acme", "companiesp", "hone", "+46701234567"),
    ] {
        assert_ne!(index, other);
    }
    let other_key = SecretString::from(generate_index_key());
    let other = Vault::from_keys(&[SecretString::from(NEW)], Some(&other_key)).unwrap();
    assert_ne!(index, other.blind_index("acme", "companies", "phone", "+46701234567"));
}

/// VAULT-4
#[test]
fn neither_keys_nor_plaintexts_are_in_what_is_printed() {
    #[derive(Debug, Deserialize)]
    struct Expected {
        #[serde(rename = "n")]
        _n: u8,
    }
    let planted = "planted-secret-4711";
    let (vault, place) = (vault(&[NEW, OLD]), phone_of(1));
    let text = vault.seal_text(&place, planted);
    let json = vault.seal_json(&place, &serde_json::json!({ "n": planted })).unwrap();
    let mut bytes = text.clone();
    *bytes.last_mut().unwrap() ^= 1;
    let errors = [
        vault.open_text(&phone_of(2), &text).unwrap_err(),
        vault.open_text(&place, &bytes).unwrap_err(),
        vault.open_decimal(&place, &text).unwrap_err(),
        vault.open_json::<Expected>(&place, &text).unwrap_err(),
        vault.open_json::<Expected>(&place, &json).unwrap_err(),
        refused(&["id:planted-secret-4711"], Some(INDEX)),
        refused(&["planted-secret-4711"], Some(INDEX)),
        refused(&["planted secret-4711:AAAA"], Some(INDEX)),
        refused(&[NEW], Some(planted)),
        refused(&[NEW, NEW], Some(INDEX)),
    ];
    let mut printed = format!("{vault:?} {:?}", vault.open_text(&place, &text).unwrap());
    for error in &errors {
        assert!(std::error::Error::source(error).is_none());
        printed += &format!(" {error} {error:?}");
    }
    let key_material = [NEW, OLD].map(|key| key.split_once(':').unwrap().1);
    for secret in [planted, "4711", INDEX, key_material[0], key_material[1]] {
        assert!(!printed.contains(secret), "{secret} is in: {printed}");
    }
    assert!(printed.contains(r#"Vault { key_ids: ["k2026", "k2025"], .. }"#), "{printed}");
}

/// VAULT-6
#[test]
fn without_a_key_the_error_says_how_to_make_one() {
    let error = refused(&[], Some(INDEX));
    assert_eq!(
        error.to_string(),
        "there is no vault key: set BACKROOM__VAULT__KEYS; make one with `backroom key generate`"
    );
    for (error, variant) in [
        (refused(&[], None), VaultError::NoKey),
        (refused(&["", " "], Some(INDEX)), VaultError::NoKey),
        (refused(&[NEW], None), VaultError::NoIndexKey),
        (refused(&[NEW], Some(" ")), VaultError::NoIndexKey),
    ] {
        assert!(error.to_string().contains("`backroom key generate`"), "{error}");
        assert_eq!(error, variant);
    }
}

/// VAULT-6
#[test]
fn an_unusable_key_is_named_by_its_position() {
    for (key, problem) in [
        ("nocolon", "has no id; write it as id:key"),
        (":AAAA", "has an id that is not 1 to 32 letters, digits, hyphens and underscores"),
        ("k1:AAAA", "does not have 32 bytes"),
        ("k1:!!!!", "is not base64url"),
    ] {
        assert_eq!(refused(&[NEW, key], Some(INDEX)), VaultError::MalformedKey { position: 2, problem });
    }
    assert_eq!(refused(&[NEW, NEW], Some(INDEX)), VaultError::RepeatedKey { id: "k2026".to_owned() });
    let error = refused(&[NEW], Some("AAAA"));
    assert_eq!(error, VaultError::MalformedIndexKey { problem: "does not have 32 bytes" });
}

#[test]
fn generated_keys_are_usable_and_differ() {
    let (first, second) = (generate_key(), generate_key());
    assert_ne!(first, second);
    let keys = [SecretString::from(first), SecretString::from(second)];
    let padded = SecretString::from(format!("{}=", generate_index_key()));
    let vault = Vault::from_keys(&keys, Some(&padded)).unwrap();
    let sealed = vault.seal_text(&phone_of(1), "");
    assert_eq!(vault.open_text(&phone_of(1), &sealed).unwrap().expose_secret(), "");
}

/// A value written by this version opens for ever: changing the format means a new version byte.
#[test]
fn the_format_is_the_documented_one() {
    let sealed = vault(&[NEW]).seal_text(&phone_of(1), "abc");
    assert_eq!(sealed[..7], *b"\x01\x05k2026");
    assert_eq!(sealed.len(), 2 + 5 + 12 + 3 + 16);
    let kept = URL_SAFE_NO_PAD.decode(SEALED_BEFORE).unwrap();
    assert_eq!(vault(&[OLD, NEW]).open_text(&phone_of(1), &kept).unwrap().expose_secret(), "+46701234567");
}

proptest! {
    /// VAULT-1
    #[test]
    fn every_text_survives_the_round_trip(text in ".{0,200}", row in any::<u128>()) {
        let (vault, place) = (vault(&[NEW]), phone_of(row));
        let sealed = vault.seal_text(&place, &text);
        let opened = vault.open_text(&place, &sealed).unwrap();
        prop_assert_eq!(opened.expose_secret(), text);
    }

    #[test]
    fn every_decimal_survives_the_round_trip(mantissa in any::<i64>(), scale in 0u32..28) {
        let (vault, place, value) = (vault(&[NEW]), phone_of(1), Decimal::new(mantissa, scale));
        let opened = vault.open_decimal(&place, &vault.seal_decimal(&place, value)).unwrap();
        prop_assert_eq!((opened, opened.scale()), (value, value.scale()));
    }

    /// VAULT-1
    #[test]
    fn a_changed_or_cut_value_does_not_open(
        text in ".{0,40}", position in any::<prop::sample::Index>(), flip in 1u8..=255,
    ) {
        let (vault, place) = (vault(&[NEW, OLD]), phone_of(1));
        let sealed = vault.seal_text(&place, &text);
        let mut changed = sealed.clone();
        changed[position.index(sealed.len())] ^= flip;
        prop_assert!(vault.open_text(&place, &changed).is_err());
        prop_assert!(vault.open_text(&place, &sealed[..position.index(sealed.len())]).is_err());
    }

    #[test]
    fn no_bytes_make_the_vault_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        prop_assert!(vault(&[NEW]).open_text(&phone_of(1), &bytes).is_err());
    }
}
