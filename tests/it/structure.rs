//! What the folders promise each other: who may use whom, and that every feature is named by a test.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below the folders, with its path from the root.
fn sources(folders: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(&path).expect("a readable folder").map(|entry| entry.expect("an entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("a readable file");
            let name = path.strip_prefix(root()).unwrap_or(Path::new("")).to_string_lossy().into_owned();
            found.push((name, text));
        }
    }
    assert!(!found.is_empty(), "no Rust files below {folders:?}");
    found
}

/// The code of a file without comments and without its tests, which may use what they like.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Whether the code names `module` of this crate, in a path or in a `use crate::{…}` list.
fn uses(code: &str, module: &str) -> bool {
    let in_list = code.split("use crate::{").skip(1).any(|list| {
        let list = list.split(';').next().unwrap_or_default();
        // Only the first level of the braces: `use crate::{domain::{http, x}}` does not use http.
        let mut depth = 0;
        let mut item = String::new();
        for letter in list.chars() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ if depth == 0 => item.push(letter),
                _ => {}
            }
        }
        item.split(',').any(|item| item.trim().split("::").next() == Some(module))
    });
    in_list
        || code.contains(&format!("crate::{module}::"))
        || code.contains(&format!("crate::{module};"))
        || code.contains(&format!("backroom::{module}::"))
}

#[test]
fn no_folder_reaches_where_it_may_not() {
    // folder, what it must not use
    let rules: [(&str, &[&str]); 11] = [
        ("src/domain", &["cli", "http", "jobs", "store", "tenant", "mail", "vault", "context", "config"]),
        ("src/vault", &["cli", "http", "jobs", "store", "tenant", "mail", "context"]),
        ("src/mail", &["cli", "http", "jobs", "store", "tenant", "vault", "context"]),
        ("src/clients", &["cli", "http", "jobs", "store", "tenant", "mail", "vault", "context", "config"]),
        ("src/store", &["cli", "http", "jobs", "mail", "clients", "sync", "context"]),
        ("src/sync", &["cli", "http", "jobs", "mail", "context", "config", "demo", "bench"]),
        ("src/tenant", &["cli", "http", "jobs", "mail", "clients", "context"]),
        ("src/events", &["cli", "http", "jobs", "mail", "vault", "context"]),
        ("jobs", &["cli", "http", "demo", "bench"]),
        ("src/http", &["cli", "clients", "demo", "bench"]),
        ("src/cli", &["clients"]),
    ];
    let mut broken = Vec::new();
    for (folder, forbidden) in rules {
        // A file of tests uses what it likes.
        let is_test =
            |file: &str| file.contains("/tests/") || file.ends_with("tests.rs") || file.ends_with("/testing.rs");
        for (file, text) in sources(&[folder]).into_iter().filter(|(file, _)| !is_test(file)) {
            let code = code(&text);
            broken.extend(
                forbidden.iter().filter(|module| uses(&code, module)).map(|module| format!("{file} uses {module}")),
            );
        }
    }
    // The intake shows the development mailbox, and sends nothing.
    for (file, text) in sources(&["src/http"]) {
        let code = code(&text).replace("mail::mailbox", "").replace("mail::{mailbox", "");
        if uses(&code, "mail") {
            broken.push(format!("{file} uses mail beyond the development mailbox"));
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn foreign_crates_stay_in_their_rooms() {
    for (krate, room) in [
        ("apalis", "crates/queue/"),
        ("lettre", "src/mail/"),
        ("aes_gcm", "src/vault/"),
        ("argon2", "src/domain/password.rs"),
        ("jsonwebtoken", "src/domain/access_token.rs"),
        ("reqwest", "src/clients/"),
    ] {
        let elsewhere: Vec<String> = sources(&["src", "jobs", "crates/queue/src"])
            .into_iter()
            .filter(|(file, text)| {
                let code = code(text);
                let named = [format!("{krate}::"), format!("{krate}_core::"), format!("{krate}_cron::")];
                !file.starts_with(room) && named.iter().any(|name| code.contains(name))
            })
            .map(|(file, _)| file)
            .collect();
        assert!(elsewhere.is_empty(), "{krate} belongs to {room} and is named in {elsewhere:?}");
    }
}

#[test]
fn the_queue_knows_nothing_of_the_product() {
    let words = ["invoice", "organization", "backroom::", "company", "reminder"];
    for (file, text) in sources(&["crates/queue/src"]) {
        let code = code(&text).to_lowercase();
        for word in words {
            assert!(!code.contains(word), "{file} speaks of {word}");
        }
    }
}

#[test]
fn every_feature_is_named_by_a_test() {
    let series: [(&str, &[u32]); 15] = [
        ("PLAT", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24]),
        ("CRON", &[1, 2, 3, 4, 5, 6]),
        ("AUTH", &[1, 2, 3, 4, 5]),
        ("API", &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("CLI", &[1, 2, 3, 4, 5]),
        ("VAULT", &[1, 2, 3, 4, 6]),
        ("MAIL", &[1, 2, 3, 4]),
        ("TEN", &[1, 2, 3, 4, 5, 6]),
        ("BILL", &[1, 3, 4, 5, 6, 7, 8, 10]),
        ("WORK", &[1, 2, 3, 4, 5, 6, 7, 8, 9]),
        ("JOIN", &[1, 2, 3, 4, 5, 6]),
        ("EVT", &[1, 2, 3]),
        ("ASSET", &[1, 2, 3, 4, 5, 6]),
        ("OPS", &[1, 3, 4]),
        ("SYNC", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]),
    ];
    let mut named = BTreeSet::new();
    for (_, text) in sources(&["src", "jobs", "crates/queue/src", "crates/queue/tests", "tests"]) {
        // What stands before the first test of a file is code, and its comments may name ids that no test proves.
        let Some(at) =
            text.find("#[cfg(test)]").or_else(|| text.find("#[tokio::test")).or_else(|| text.find("#[test]"))
        else {
            continue;
        };
        let from = if text[..at].contains("#[cfg(test)]") { at } else { at.saturating_sub(400) };
        let tests = &text[text.floor_char_boundary(from)..];
        for word in tests.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')) {
            named.insert(word.to_owned());
        }
    }
    let missing: Vec<String> = series
        .iter()
        .flat_map(|(name, numbers)| numbers.iter().map(move |number| format!("{name}-{number}")))
        .filter(|id| !named.contains(id))
        .collect();
    assert!(missing.is_empty(), "no test names {missing:?}");
}
