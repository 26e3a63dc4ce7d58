//! What a conversation is called when nobody has named it (WORK-8): a model's words made harmless, or the conversation's own
//! words picked by counting.

use std::collections::HashMap;

use super::{Language, conversation::Title};

/// As many words as a title that the program gives has at most.
pub const MAX_WORDS: usize = 6;
/// Its longest, in characters.
const MAX_CHARS: usize = 80;
/// As many keywords as a title is made of.
const KEYWORDS: usize = 5;

/// A model's answer as a title: its first line that says something, without markup, addresses, and characters that nobody sees
/// or that turn the text around; at most six words and 80 characters. `None` if nothing is left.
///
/// The text is untrusted. Who shows a title escapes it all the same.
pub fn clean(text: &str) -> Option<Title> {
    let visible: String = text.chars().filter(|c| c.is_whitespace() || !is_invisible(*c)).collect();
    let line = visible
        .split(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'])
        .filter(|line| !line.trim_start().starts_with("```"))
        .map(without_markup)
        .find(|line| line.chars().any(char::is_alphanumeric))?;
    let mut words: Vec<&str> = line.split_whitespace().map(bare).filter(|word| !is_address(word)).collect();
    if words.len() > 1 && is_label(words[0]) {
        words.remove(0);
    }
    let mut title = String::new();
    for word in words.into_iter().filter(|word| !word.is_empty()).take(MAX_WORDS) {
        let blank = usize::from(!title.is_empty());
        if title.chars().count() + blank + word.chars().count() > MAX_CHARS {
            break;
        }
        if blank > 0 {
            title.push(' ');
        }
        title.push_str(word);
    }
    if title.is_empty() {
        // Its first word is longer than a title.
        title = line.split_whitespace().map(bare).find(|word| !word.is_empty() && !is_address(word))?.to_owned();
        title = title.chars().take(MAX_CHARS).collect();
    }
    let title = title.trim_start_matches(BEFORE).trim_end_matches(AFTER);
    if !title.chars().any(char::is_alphanumeric) {
        return None;
    }
    Title::parse(title).ok()
}

/// What a title does not begin with, and does not end with.
const BEFORE: &[char] = &[
    ' ', '"', '\'', '“', '”', '„', '«', '»', '‘', '’', '#', '-', '–', '—', '•', '+', '=', '.', ',', ';', ':', '!', '/',
];
const AFTER: &[char] = &[
    ' ', '"', '\'', '“', '”', '„', '«', '»', '‘', '’', '-', '–', '—', '•', '=', '.', ',', ';', ':', '!', '…', '/', '(',
];

/// Control characters, and those of Unicode's category "format" with what else has no form of its own: signs that change the
/// direction of writing, joiners, fillers, tags, variation selectors, private use.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}'..='\u{891}'
            | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
            | '\u{e000}'..='\u{f8ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffd}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{10ffff}')
}

/// Without tags, links' targets, and the signs of HTML and Markdown. A `#` or `_` within a word stays: `C#`, `snake_case`.
fn without_markup(line: &str) -> String {
    let mut left = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        match c {
            '<' if rest.starts_with(|c: char| c.is_ascii_alphabetic() || "/!?".contains(c)) => {
                if let Some(end) = rest.find('>') {
                    rest = &rest[end + 1..];
                }
                left.push(' ');
            }
            ']' if rest.starts_with('(') => {
                if let Some(end) = rest.find(')') {
                    rest = &rest[end + 1..];
                }
            }
            '<' | '>' | '[' | ']' | '{' | '}' | '|' | '~' | '^' | '\\' => left.push(' '),
            '*' | '`' => {}
            c => left.push(c),
        }
    }
    left
}

/// A word without the signs of emphasis around it.
fn bare(word: &str) -> &str {
    word.trim_matches('_')
}

/// Whether it leads somewhere: an address in a title that nobody wrote is a trap.
fn is_address(word: &str) -> bool {
    let word = word.to_lowercase();
    word.contains("://") || word.contains("www.") || word.contains('@') || word.contains("javascript:")
}

/// Models like to say what they are about to say.
fn is_label(word: &str) -> bool {
    ["title:", "titel:", "rubrik:", "name:", "namn:"].contains(&word.trim_matches('"').to_lowercase().as_str())
}

/// A title made of the conversation's own words: those that are said most, first and by name, in the order in which they are
/// said. Words that follow each other in the text stay together, others are set apart by commas. Nothing but a count, so it
/// works without a model, and always gives something.
pub fn by_keywords<'a>(messages: impl IntoIterator<Item = &'a str>, otherwise: Language) -> Title {
    let words = words_of(messages);
    let language = language_of(&words, otherwise);
    let candidates: Vec<&Word> = words.iter().filter(|word| word.may_be_said(language)).collect();
    let mut scores: HashMap<&str, (f32, usize)> = HashMap::new();
    for (at, word) in candidates.iter().enumerate() {
        let score = scores.entry(&word.key).or_insert((0.0, at));
        score.0 += word.weight();
    }
    let mut ranked: Vec<(&str, f32, usize)> = scores.into_iter().map(|(key, (score, at))| (key, score, at)).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.2.cmp(&b.2)));
    let mut chosen: Vec<&Word> = ranked.iter().take(KEYWORDS).map(|(.., at)| candidates[*at]).collect();
    chosen.sort_by_key(|word| word.at);
    let mut title = String::new();
    let mut before: Option<&Word> = None;
    for word in chosen {
        title += match before {
            None => "",
            Some(before) if before.at + 1 == word.at && !before.ends_phrase => " ",
            Some(_) => ", ",
        };
        title += &word.text;
        before = Some(word);
    }
    let mut letters = title.chars();
    let title: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    clean(&title).unwrap_or_else(|| {
        let nothing = if language == Language::Sv { "Samtal" } else { "Conversation" };
        Title::parse(nothing).expect("a title")
    })
}

/// A word of a conversation.
struct Word {
    text: String,
    /// In small letters.
    key: String,
    /// Where it stands, counted over all messages.
    at: usize,
    first_message: bool,
    begins_sentence: bool,
    ends_phrase: bool,
}

impl Word {
    /// A keyword is neither too common, nor a lone letter, nor a number alone.
    fn may_be_said(&self, language: Language) -> bool {
        self.text.chars().count() > 1
            && self.text.chars().any(char::is_alphabetic)
            && !stop_words(language).any(|stop| stop == self.key)
    }

    /// What is said at first counts double, a name half as much again, and long words say more than short ones.
    fn weight(&self) -> f32 {
        let place = if self.first_message { 2.0 } else { 1.0 };
        let name = !self.begins_sentence && self.text.starts_with(char::is_uppercase);
        #[expect(clippy::cast_precision_loss, reason = "a word's length is small")]
        let length = self.text.chars().count().min(12) as f32 / 12.0;
        place * (1.0 + length + if name { 0.75 } else { 0.0 })
    }
}

fn words_of<'a>(messages: impl IntoIterator<Item = &'a str>) -> Vec<Word> {
    let mut words: Vec<Word> = Vec::new();
    for (number, message) in messages.into_iter().enumerate() {
        let mut begins_sentence = true;
        for token in message.split_whitespace().filter(|token| !is_address(token)) {
            let text = token.trim_matches(|c: char| !c.is_alphanumeric());
            let ends_phrase = !token.ends_with(char::is_alphanumeric);
            if text.is_empty() {
                if let Some(last) = words.last_mut() {
                    last.ends_phrase = true;
                }
                continue;
            }
            let (key, at) = (text.to_lowercase(), words.len());
            let text = text.to_owned();
            words.push(Word { text, key, at, first_message: number == 0, begins_sentence, ends_phrase });
            begins_sentence = token.ends_with(['.', '!', '?', ':']);
        }
        if let Some(last) = words.last_mut() {
            last.ends_phrase = true;
        }
    }
    words
}

/// The language whose common words there are more of.
fn language_of(words: &[Word], otherwise: Language) -> Language {
    let common = |language| words.iter().filter(|word| stop_words(language).any(|stop| stop == word.key)).count();
    let (swedish, english) = (common(Language::Sv), common(Language::En));
    match swedish.cmp(&english) {
        std::cmp::Ordering::Greater => Language::Sv,
        std::cmp::Ordering::Less => Language::En,
        std::cmp::Ordering::Equal => otherwise,
    }
}

/// Words that say nothing of a conversation's subject: the common ones of the language, greetings, and asking for help.
fn stop_words(language: Language) -> std::str::SplitAsciiWhitespace<'static> {
    match language {
        Language::Sv => SWEDISH.split_ascii_whitespace(),
        Language::En => ENGLISH.split_ascii_whitespace(),
    }
}

const SWEDISH: &str = "
    alla allt alltså andra annan annars att av behöver ber bli blir blev bra bara både började börja dag de deg dem den denna
    deras dess dessa det detta dig din dina ditt du där därför då efter eftersom ej eller en er era ert ett fast fick finns fler
    fler flera fram från får få för före först förstår ge genom ger gick god gott gör göra går gå gärna ha hade hallå han hans har
    hej hejsan henne hennes hittar hittade hjälp hjälpa hon honom hos hur här i idag igen imorgon in inga ingen inget innan inne
    inte ja jag jo ju just kan kanske kom komma kommer kunde kunna köra lite länge man med mellan men mer mest mig min mina mitt
    morgon mot mycket måste många ned ner nu nej ni nog någon något några när nästa och också ok okej om oss på redan samma se sedan
    ser sig sin sina sitt ska skall skulle snälla som så såg sådan säger ta tack tar till tills toppen tror tycker under upp ut utan
    va vad var vara varför varit varje vart vem verkar vet veta vi via vid vidare vilja vilka vilken vilket vill vore vår våra vårt
    väl vänligen är åt än även över undrar någonting fungerar absolut visst precis fixar ordnar kolla kollar titta tittar sant
    hälsningar mvh";

const ENGLISH: &str = "
    a about after again all also am an and another any anybody anyone are as ask at back be because been before being between both
    but by can cannot come could did do does doing done down each even every everyone fine for from further get gets getting give
    go goes going good got great had has have having he hello help her here hers hey hi him his how i i'd i'll i'm i've if in into
    is isn't it it's its just know let let's like look looking looks made make many may maybe me might more morning most much must
    my need needs new no nor not now of off ok okay on once one only or other our out over own perhaps please put really right
    same say see seem seems shall she should since so some somebody someone something soon still such sure take tell than thank
    thanks that that's the their them then there these they thing things think this those through to today tomorrow too try under
    until up us use very want wants was we we'll were what when where which while who whom whose why will with without won't
    wonder wondering would yes yet you you're your yours regards absolutely works work";

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> Option<String> {
        clean(text).map(|title| title.as_str().to_owned())
    }

    /// WORK-8: model output is untrusted.
    #[test]
    fn a_model_s_words_become_one_harmless_line() {
        for (given, title) in [
            ("Dubbel faktura från Telia", "Dubbel faktura från Telia"),
            ("  \"Double invoice from Telia.\"  \n\nI chose this because …", "Double invoice from Telia"),
            ("**Title:** Coffee machine, second floor", "Coffee machine, second floor"),
            ("Titel: Ny kaffemaskin", "Ny kaffemaskin"),
            ("# Ny kaffemaskin", "Ny kaffemaskin"),
            ("```text\nNy kaffemaskin\n```", "Ny kaffemaskin"),
            ("one two three four five six seven eight", "one two three four five six"),
            ("<script>alert(1)</script>Paid", "alert(1) Paid"),
            ("<b>Bold</b> <img src=x onerror=alert(1)> plan", "Bold plan"),
            ("Pay [here](https://evil.example/x) now", "Pay here now"),
            ("Pay at https://evil.example now", "Pay at now"),
            ("Ring javascript:alert(1) idag", "Ring idag"),
            ("Mail anna@example.se idag", "Mail idag"),
            ("abc\u{202e}fdp.exe", "abcfdp.exe"),
            ("a\u{200b}b\u{feff}c \u{1b}[31mred", "abc 31mred"),
            ("Name\r\nBcc: all@example.se", "Name"),
            ("_Budget_ for snake_case and C#", "Budget for snake_case and C#"),
            ("5 < 6 && 7 > 6", "5 6 && 7 6"),
            ("Ärende 42?", "Ärende 42?"),
        ] {
            assert_eq!(cleaned(given).as_deref(), Some(title), "{given:?}");
        }
    }

    /// WORK-8
    #[test]
    fn an_answer_that_says_nothing_is_no_title() {
        for nothing in
            ["", " \n\t", "…", "***", "\u{202e}\u{200b}", "<br>", "https://evil.example", "```\n```", "\u{e000}"]
        {
            assert_eq!(cleaned(nothing), None, "{nothing:?}");
        }
        assert_eq!(cleaned(&"x".repeat(500)).unwrap().len(), 80);
    }

    fn named(messages: &[&str]) -> String {
        by_keywords(messages.iter().copied(), Language::Sv).as_str().to_owned()
    }

    /// WORK-8: offline, in both languages.
    #[test]
    fn keywords_name_a_conversation_in_its_own_language() {
        let swedish = [
            "Hej! Kaffemaskinen på andra våningen är trasig igen, vem ringer reparatören?",
            "Jag ringer reparatören. Kaffemaskinen har garanti till mars.",
        ];
        assert_eq!(named(&swedish), "Kaffemaskinen, våningen, trasig, ringer reparatören");
        let english = [
            "Hi, could somebody look at the invoice from Harrow & Finch? The amount seems wrong.",
            "Sure, I will ask Priya about the invoice tomorrow.",
        ];
        assert_eq!(named(&english), "Invoice, Harrow, Finch, amount, wrong");
        assert_eq!(language_of(&words_of(english), Language::Sv), Language::En);
    }

    /// WORK-8: the feature never fails.
    #[test]
    fn where_there_are_no_keywords_there_is_a_name_all_the_same() {
        assert_eq!(named(&["?!", "🎉"]), "Samtal");
        assert_eq!(named(&["What is it?", "Nothing, thanks"]), "Nothing");
        assert_eq!(named(&["who are you", "what do you want"]), "Conversation");
        assert_eq!(named(&["4711", "https://x.example anna@example.se"]), "Samtal");
        assert_eq!(named(&[]), "Samtal");
    }

    /// What every title that the program gives has in common.
    fn is_harmless(title: &Title) -> bool {
        let title = title.as_str();
        let words = title.split_whitespace().count();
        (1..=MAX_WORDS).contains(&words)
            && title.chars().count() <= MAX_CHARS
            && title.chars().any(char::is_alphanumeric)
            && !title.chars().any(|c| is_invisible(c) || "<>[]{}|`*\\".contains(c))
            && !title.contains("://")
            && title.trim() == title
            && title.lines().count() == 1
    }

    proptest::proptest! {
        /// WORK-8
        #[test]
        fn whatever_a_model_says_the_title_is_harmless(text in "\\PC{0,200}|(?s).{0,200}|[<>a/\\[\\]() *`_\n\u{202e}]{0,60}") {
            if let Some(title) = clean(&text) {
                proptest::prop_assert!(is_harmless(&title), "{:?}", title);
            }
        }

        /// WORK-8
        #[test]
        fn whatever_is_said_keywords_make_a_harmless_title(a in "(?s).{0,300}", b in "[a-zåäö ,.!?]{0,300}") {
            let title = by_keywords([a.as_str(), b.as_str()], Language::En);
            proptest::prop_assert!(is_harmless(&title), "{:?}", title);
        }
    }
}
