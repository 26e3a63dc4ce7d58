//! Reads configuration and credentials of an integration, and notes all that is wrong with them.

use std::{collections::BTreeMap, ops::RangeInclusive};

use secrecy::SecretString;
use serde_json::{Map, Value};

use crate::{
    clients::{connector::Credentials, http::Endpoint},
    domain::{FieldErrors, ParseError},
};

pub(in crate::clients) struct Settings<'a> {
    config: Map<String, Value>,
    credentials: &'a Credentials,
    errors: FieldErrors,
}

impl<'a> Settings<'a> {
    /// Only these keys may stand in the configuration.
    pub fn new(config: &Value, credentials: &'a Credentials, known: &[&str]) -> Self {
        let mut settings = Self { config: Map::new(), credentials, errors: FieldErrors::default() };
        match config {
            Value::Object(config) => settings.config.clone_from(config),
            _ => settings.wrong("", "invalid", "must be an object"),
        }
        let unknown: Vec<String> =
            settings.config.keys().filter(|key| !known.contains(&key.as_str())).cloned().collect();
        for key in unknown {
            settings.wrong(&key, "unknown", &format!("is not known here; there are: {}", known.join(" ")));
        }
        settings
    }

    pub fn text(&mut self, name: &str) -> Option<String> {
        match self.config.get(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.trim().is_empty() => None,
            Some(Value::String(text)) => Some(text.trim().to_owned()),
            Some(_) => self.wrong_none(name, "must be text"),
        }
    }

    /// A name that becomes part of an address.
    pub fn name(&mut self, name: &str) -> Option<String> {
        let text = self.text(name);
        let Some(text) = text else {
            self.wrong(name, "required", "must not be empty");
            return None;
        };
        let is_dots = text.chars().all(|c| c == '.');
        if !is_dots && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
            return Some(text);
        }
        self.wrong_none(name, "must consist of letters, digits, `-`, `_` and `.`")
    }

    /// One of these words; the first where nothing is said.
    pub fn choice(&mut self, name: &str, words: &[&'static str]) -> &'static str {
        let text = self.text(name);
        let first = words.first().copied().unwrap_or_default();
        let Some(text) = text else { return first };
        words.iter().copied().find(|word| *word == text).unwrap_or_else(|| {
            self.wrong(name, "invalid", &format!("must be one of: {}", words.join(" ")));
            first
        })
    }

    pub fn number(&mut self, name: &str, range: RangeInclusive<u64>, otherwise: u64) -> u64 {
        match self.config.get(name) {
            None | Some(Value::Null) => otherwise,
            Some(value) => value.as_u64().filter(|number| range.contains(number)).unwrap_or_else(|| {
                let (least, most) = (range.start(), range.end());
                self.wrong(name, "out_of_range", &format!("must be a number from {least} to {most}"));
                otherwise
            }),
        }
    }

    pub fn list(&mut self, name: &str) -> Vec<String> {
        match self.config.get(name).cloned() {
            None | Some(Value::Null) => Vec::new(),
            Some(value) => serde_json::from_value(value).unwrap_or_else(|_| {
                self.wrong(name, "invalid", "must be a list of texts");
                Vec::new()
            }),
        }
    }

    /// Texts by these names.
    pub fn map(&mut self, name: &str, keys: &[&str]) -> BTreeMap<String, String> {
        let map = self.texts(name);
        for key in map.keys().filter(|key| !keys.contains(&key.as_str())) {
            let message = format!("is not known here; there are: {}", keys.join(" "));
            self.wrong(&format!("{name}.{key}"), "unknown", &message);
        }
        map
    }

    /// Texts by any names.
    pub fn texts(&mut self, name: &str) -> BTreeMap<String, String> {
        match self.config.get(name).cloned() {
            None | Some(Value::Null) => BTreeMap::new(),
            Some(value) => serde_json::from_value::<BTreeMap<String, String>>(value).unwrap_or_else(|_| {
                self.wrong(name, "invalid", "must be an object of texts");
                BTreeMap::new()
            }),
        }
    }

    /// The address under `name`, or this one.
    pub fn endpoint(&mut self, name: &str, otherwise: &str) -> Option<Endpoint> {
        let text = self.text(name).unwrap_or_else(|| otherwise.to_owned());
        match Endpoint::parse(&text) {
            Ok(endpoint) => Some(endpoint),
            Err(message) => self.wrong_none(name, &message),
        }
    }

    pub fn secret(&self, name: &str) -> Option<SecretString> {
        self.credentials.get(name)
    }

    /// The secret, or an error.
    pub fn required_secret(&mut self, name: &str) -> SecretString {
        self.credentials.get(name).unwrap_or_else(|| {
            let error = ParseError::new("required", "must not be empty");
            self.errors.0.push(error.at(format!("credentials.{name}")));
            SecretString::from("")
        })
    }

    pub fn wrong(&mut self, name: &str, code: &'static str, message: &str) {
        let field = if name.is_empty() { "config".to_owned() } else { format!("config.{name}") };
        self.errors.0.push(ParseError::new(code, message).at(field));
    }

    fn wrong_none<T>(&mut self, name: &str, message: &str) -> Option<T> {
        self.wrong(name, "invalid", message);
        None
    }

    /// What was read, if nothing was wrong; `None` is something that was noted.
    pub fn done<T>(self, value: Option<T>) -> Result<T, FieldErrors> {
        self.errors.into_result()?;
        value.ok_or_else(|| ParseError::invalid("cannot be read").at("config").into())
    }
}
