//! What of a page is worth a write. A source says most of what it says again and again.

use std::collections::HashMap;

use crate::store::{StoreError, from_source::Outcome};

/// A record that says something new.
pub struct Wanted<'a, F, K> {
    pub external_id: &'a str,
    pub facts: &'a F,
    pub print: Vec<u8>,
    /// What it is about, as far as that is here. Whoever keeps the records finds out.
    pub before: Option<K>,
}

/// A page's records, sorted out.
pub struct Sieved<'a, F, K> {
    /// What has become of each; `None`: it says something new.
    pub outcomes: Vec<Option<Outcome>>,
    /// Those that say something new, with their places in the page.
    pub news: Vec<(usize, Wanted<'a, F, K>)>,
}

/// New is what `check` does not refuse and `prints`, the fingerprints that are stored, do not know. Of what a page says twice the last
/// word counts.
pub fn sieve<'a, F, K>(
    records: &'a [(String, F)],
    prints: &HashMap<String, Vec<u8>>,
    check: impl Fn(&str, &F) -> Result<(), String>,
    print: impl Fn(&F) -> Result<Vec<u8>, StoreError>,
) -> Result<Sieved<'a, F, K>, StoreError> {
    let last: HashMap<&str, usize> = records.iter().enumerate().map(|(n, (id, _))| (id.as_str(), n)).collect();
    let (mut outcomes, mut news) = (Vec::with_capacity(records.len()), Vec::new());
    for (n, (external_id, facts)) in records.iter().enumerate() {
        if last.get(external_id.as_str()) != Some(&n) {
            outcomes.push(Some(Outcome::Unchanged));
            continue;
        }
        if let Err(reason) = check(external_id, facts) {
            outcomes.push(Some(Outcome::Refused(reason)));
            continue;
        }
        let print = print(facts)?;
        if prints.get(external_id) == Some(&print) {
            outcomes.push(Some(Outcome::Unchanged));
            continue;
        }
        outcomes.push(None);
        news.push((n, Wanted { external_id, facts, print, before: None }));
    }
    Ok(Sieved { outcomes, news })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SYNC-4: a record that says what it said before, or that could not be stored, costs no write.
    #[test]
    fn only_the_last_word_of_a_page_that_is_right_and_new_is_left() {
        let said = |id: &str, word: &str| (id.to_owned(), word.to_owned());
        let records = [said("1", "old"), said("2", "known"), said("3", "wrong"), said("1", "new"), said("4", "other")];
        let stored = |id: &str, word: &str| (id.to_owned(), word.as_bytes().to_vec());
        let prints = HashMap::from([stored("1", "old"), stored("2", "known"), stored("4", "known")]);
        let check = |_: &str, word: &String| if word == "wrong" { Err("is wrong".to_owned()) } else { Ok(()) };

        let Sieved { outcomes, news } =
            sieve::<_, ()>(&records, &prints, check, |word| Ok(word.as_bytes().to_vec())).unwrap();

        let (same, refused) = (Some(Outcome::Unchanged), Some(Outcome::Refused("is wrong".to_owned())));
        assert_eq!(outcomes, [same.clone(), same, refused, None, None]);
        let left: Vec<_> = news.iter().map(|(n, wanted)| (*n, wanted.external_id, wanted.facts.as_str())).collect();
        assert_eq!(left, [(3, "1", "new"), (4, "4", "other")]);
        assert_eq!(news[0].1.print, b"new");
    }
}
