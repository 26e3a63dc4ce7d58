//! What a message is made of: text in Slack's mrkdwn that no data can turn into a mention or a link, within the limits of Block Kit.

use serde_json::{Value, json};

/// Slack's limit is 3,000 characters of a section.
const SECTION_LIMIT: usize = 3_000;
/// Slack's limit is 2,000 characters of a context's element.
const CONTEXT_LIMIT: usize = 2_000;
/// Of one value that comes from data.
const VALUE_LIMIT: usize = 120;

/// Text in mrkdwn. Made of our own words, of escaped data and of ids that Slack gave, and of nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mrkdwn(String);

impl Mrkdwn {
    /// Our own words.
    pub fn words(text: &'static str) -> Self {
        Self(text.to_owned())
    }

    /// Data on one line, shortened, with what Slack reads as its own escaped: `&`, `<` and `>`.
    pub fn data(text: &str) -> Self {
        let line = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty());
        let line = line.collect::<Vec<_>>().join(" ");
        let mut escaped = String::with_capacity(line.len());
        for (n, letter) in line.chars().enumerate() {
            if n == VALUE_LIMIT {
                escaped.push('…');
                break;
            }
            match letter {
                '&' => escaped.push_str("&amp;"),
                '<' => escaped.push_str("&lt;"),
                '>' => escaped.push_str("&gt;"),
                _ => escaped.push(letter),
            }
        }
        Self(escaped)
    }

    /// Mentions a user by the id that Slack gave; any other text is data.
    pub fn mention(user: &str) -> Self {
        let shaped =
            (2..=30).contains(&user.len()) && user.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
        if shaped { Self(format!("<@{user}>")) } else { Self::data(user) }
    }

    /// Our own words with values in the places that are named by them, `{who}`. A place without a value is left empty.
    pub fn fill(template: &'static str, values: &[(&str, Self)]) -> Self {
        let mut text = String::with_capacity(template.len() + 40);
        let mut rest = template;
        while let Some((before, after)) = rest.split_once('{') {
            text.push_str(before);
            let (name, after) = after.split_once('}').unwrap_or((after, ""));
            let value = values.iter().find(|(known, _)| *known == name);
            text.push_str(value.map_or("", |(_, value)| &value.0));
            rest = after;
        }
        text.push_str(rest);
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// At most so many characters; an entity, a mention or a link at the end is left out rather than cut.
    fn cut(&self, limit: usize) -> String {
        if self.0.chars().nth(limit).is_none() {
            return self.0.clone();
        }
        let end = self.0.char_indices().nth(limit.saturating_sub(1)).map_or(0, |(end, _)| end);
        let cut = &self.0[..end];
        let open = |opens: char, closes: char| cut.rfind(opens).filter(|at| !cut[*at..].contains(closes));
        let end = [open('&', ';'), open('<', '>')].into_iter().flatten().min().unwrap_or(end);
        format!("{}…", &cut[..end])
    }
}

/// A message: a sentence, and below it in small letters where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub sentence: Mrkdwn,
    pub origin: Mrkdwn,
}

impl Message {
    /// For notifications, and where blocks are not shown.
    pub(super) fn text(&self) -> String {
        self.sentence.cut(SECTION_LIMIT)
    }

    /// `verbatim`: Slack links no names and no addresses by itself.
    pub(super) fn blocks(&self) -> Value {
        let text = |text: String| json!({"type": "mrkdwn", "text": text, "verbatim": true});
        json!([
            {"type": "section", "text": text(self.sentence.cut(SECTION_LIMIT))},
            {"type": "context", "elements": [text(self.origin.cut(CONTEXT_LIMIT))]},
        ])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// SYNC-11
    #[test]
    fn data_mentions_nobody_and_links_nowhere() {
        for (data, escaped) in [
            ("<!channel> <@U1> & co", "&lt;!channel&gt; &lt;@U1&gt; &amp; co"),
            ("<https://evil.example|Click>", "&lt;https://evil.example|Click&gt;"),
            ("one\ntwo\u{0}\t three", "one two three"),
            ("&lt;", "&amp;lt;"),
        ] {
            assert_eq!(Mrkdwn::data(data).as_str(), escaped);
        }
        assert_eq!(Mrkdwn::mention("U0123").as_str(), "<@U0123>");
        assert_eq!(Mrkdwn::mention("U1><!here").as_str(), "U1&gt;&lt;!here");
    }

    /// SYNC-11: a value that looks like a place is not filled in turn.
    #[test]
    fn values_stand_in_their_places() {
        let values = [("what", Mrkdwn::data("{who}")), ("who", Mrkdwn::mention("U1"))];
        assert_eq!(Mrkdwn::fill("*{what}* to {who}{nobody}.", &values).as_str(), "*{who}* to <@U1>.");
    }

    /// SYNC-11
    #[test]
    fn a_long_text_ends_before_what_cannot_be_cut() {
        let text = Mrkdwn(format!("{}&amp;<@U1>", "a".repeat(5)));
        for (limit, cut) in [(20, "aaaaa&amp;<@U1>"), (12, "aaaaa&amp;…"), (7, "aaaaa…"), (5, "aaaa…")] {
            assert_eq!(text.cut(limit), cut, "{limit}");
        }
    }

    proptest! {
        /// SYNC-11
        #[test]
        fn no_data_breaks_the_limits_or_leaves_its_place(data in ".{0,400}", limit in 1usize..200) {
            let value = Mrkdwn::data(&data);
            prop_assert!(!value.as_str().contains(['<', '>', '\n']));
            let cut = Mrkdwn(value.as_str().repeat(3)).cut(limit);
            prop_assert!(cut.chars().count() <= limit);
            if let Some(at) = cut.rfind('&') {
                prop_assert!(cut[at..].contains(';'), "{cut}");
            }
        }
    }
}
