//! Keyset pagination: an opaque cursor that says where the page before ended, and the page it belongs to.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use utoipa::IntoParams;

use super::problem::Problem;
use crate::store::Page;

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 200;

/// What is inside a cursor. The version lets its inside change; the list keeps a cursor of one list out of another.
#[derive(Serialize, Deserialize)]
struct Inside<K> {
    v: u8,
    list: String,
    after: K,
}

/// Writes the cursor of `list` for the page after `after`.
pub fn encode(list: &str, after: impl Serialize) -> String {
    let inside = Inside { v: 1, list: list.to_owned(), after };
    BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(&inside).expect("a cursor has a JSON form"))
}

/// Reads a cursor of `list`.
pub fn decode<K: DeserializeOwned>(list: &str, cursor: Option<&str>) -> Result<Option<K>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    BASE64_URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|json| serde_json::from_slice::<Inside<K>>(&json).ok())
        .filter(|inside| inside.v == 1 && inside.list == list)
        .map(|inside| Some(inside.after))
        .ok_or_else(|| {
            Problem::field(
                "cursor",
                "invalid",
                "is not a cursor of this list with this sort order; use `next_cursor` of the page before, unchanged",
            )
        })
}

/// How many entries a page has: 1 to 200, 50 when nothing is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(usize);

impl Default for Limit {
    fn default() -> Self {
        Self(DEFAULT_LIMIT)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.parse() {
            Ok(limit @ 1..=MAX_LIMIT) => Ok(Self(limit)),
            _ => Err(serde::de::Error::custom(format_args!("must be a number from 1 to {MAX_LIMIT}"))),
        }
    }
}

/// The query of a list that is asked for page by page and no otherwise.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// 1 to 200.
    #[serde(default)]
    #[param(value_type = u32, minimum = 1, maximum = 200, default = 50, required = false)]
    pub limit: Limit,
}

impl ListParams {
    pub fn newest_first(&self, list: &str) -> Result<Page, Problem> {
        Ok(Page { newest_first: true, ..self.oldest_first(list)? })
    }

    pub fn oldest_first(&self, list: &str) -> Result<Page, Problem> {
        let after = decode(list, self.cursor.as_deref())?;
        Ok(Page { after, limit: self.limit.probe(), newest_first: false })
    }
}

/// A query parameter that is `true` or `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flag(pub bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "true" => Ok(Self(true)),
            "false" => Ok(Self(false)),
            _ => Err(serde::de::Error::custom("must be `true` or `false`")),
        }
    }
}

impl Limit {
    pub fn count(self) -> usize {
        self.0
    }

    /// One more than the page holds, so that it shows whether there is a next page.
    pub fn probe(self) -> i64 {
        self.0 as i64 + 1
    }

    /// Cuts what [`Limit::probe`] fetched to a page and makes the next one's cursor.
    pub fn cut<T, K: Serialize>(self, list: &str, rows: &mut Vec<T>, key: impl FnOnce(&T) -> K) -> Option<String> {
        if rows.len() <= self.0 {
            return None;
        }
        rows.truncate(self.0);
        rows.last().map(|last| encode(list, key(last)))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    /// API-9
    #[test]
    fn a_cursor_comes_back_and_belongs_to_its_list() {
        let id = Uuid::now_v7();
        let cursor = encode("jobs", id);
        assert_eq!(decode::<Uuid>("jobs", Some(&cursor)).unwrap(), Some(id));
        assert!(decode::<Uuid>("companies", Some(&cursor)).is_err());
        assert!(decode::<Uuid>("jobs", Some("not a cursor")).is_err());
        assert!(decode::<Uuid>("jobs", Some("")).is_err());
        assert_eq!(decode::<Uuid>("jobs", None).unwrap(), None);
    }

    /// API-9
    #[test]
    fn a_limit_is_a_number_from_1_to_200() {
        let read = |text: &str| serde_json::from_value::<Limit>(text.into());
        assert_eq!(read("200").unwrap(), Limit(200));
        for bad in ["0", "201", "-1", "ten", "", "1.5"] {
            assert!(read(bad).is_err(), "{bad:?} was accepted");
        }
    }

    /// API-9
    #[test]
    fn the_last_page_has_no_next() {
        let mut rows = vec![1, 2, 3];
        assert!(Limit(3).cut("jobs", &mut rows, |row| *row).is_none());
        assert!(Limit(2).cut("jobs", &mut rows, |row| *row).is_some());
        assert_eq!(rows, [1, 2]);
    }
}
