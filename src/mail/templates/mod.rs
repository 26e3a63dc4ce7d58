//! The letters: what they say, and the one layout that shows it as text and as HTML.
//!
//! A letter's sentences are written once, in `words.rs`, as a `Letter`; `letter.txt` and `letter.html` arrange them.
//! So the two parts of a message can never disagree, and a new language is one more arm in each `match`.

mod attention;
mod invitation;
mod join_request;
mod overdue_work;
mod password_reset;
mod words;

use askama::Template;
use chrono::NaiveDate;

use super::one_line;
use crate::domain::language::Language;
use crate::domain::money::Money;
use crate::domain::organization::PaymentDetails;

pub use attention::{AttentionMail, render_attention};
pub use invitation::{InvitationMail, render_invitation};
pub use join_request::{ConfirmationMail, DecisionMail, render_confirmation, render_decision};
pub use overdue_work::{LateWork, OverdueWorkMail, render_overdue_work};
pub use password_reset::{PasswordResetMail, render_password_reset};

/// A letter as the mail carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub subject: String,
    pub text: String,
    pub html: String,
}

/// An unpaid invoice, told to the company that owes it (BILL-5).
#[derive(Debug, Clone)]
pub struct ReminderMail {
    pub language: Language,
    /// Who is owed.
    pub organization_name: String,
    /// Who owes.
    pub company_name: String,
    pub invoice_number: String,
    pub amount: Money,
    pub due_date: NaiveDate,
    pub days_overdue: i64,
    /// 1 is friendly, 2 firmer, 3 and more the final notice.
    pub stage: u32,
    pub payment: PaymentDetails,
}

/// An invoice that stayed unpaid after the last reminder, told to the organization's admins.
#[derive(Debug, Clone)]
pub struct EscalationMail {
    pub language: Language,
    pub organization_name: String,
    pub company_name: String,
    pub invoice_number: String,
    pub amount: Money,
    pub due_date: NaiveDate,
    pub days_overdue: i64,
    /// How many reminders went out.
    pub reminders: u32,
}

/// The reminder in the company's language, with the tone of its stage.
pub fn render_reminder(mail: &ReminderMail) -> Rendered {
    let mail = ReminderMail {
        organization_name: one_line(&mail.organization_name),
        company_name: one_line(&mail.company_name),
        invoice_number: one_line(&mail.invoice_number),
        payment: PaymentDetails {
            bankgiro: filled(&mail.payment.bankgiro),
            iban: filled(&mail.payment.iban),
            payee: filled(&mail.payment.payee),
        },
        ..mail.clone()
    };
    words::reminder(&mail).render()
}

/// The notice to an admin that reminders did not help.
pub fn render_escalation(mail: &EscalationMail) -> Rendered {
    let mail = EscalationMail {
        organization_name: one_line(&mail.organization_name),
        company_name: one_line(&mail.company_name),
        invoice_number: one_line(&mail.invoice_number),
        ..mail.clone()
    };
    words::escalation(&mail).render()
}

fn filled(text: &Option<String>) -> Option<String> {
    text.as_deref().map(one_line).filter(|text| !text.is_empty())
}

/// The parts of a letter, in the order in which they are read.
struct Letter {
    /// BCP 47 tag.
    lang: &'static str,
    tone: Tone,
    /// Shown by mail programs after the subject; hidden in the letter.
    preheader: String,
    subject: String,
    /// In whose name it is written.
    organization: String,
    /// The few words above the heading.
    label: String,
    heading: String,
    greeting: String,
    paragraphs: Vec<String>,
    /// Below the paragraphs: the one thing to do, by a link.
    action: Option<Action>,
    amount_label: &'static str,
    /// Empty: there is nothing to pay.
    amount: String,
    facts: Vec<Row>,
    /// Empty: nothing is said about payment.
    payment_heading: &'static str,
    payment: Vec<Row>,
    /// Stands after, or instead of, the payment rows.
    payment_note: String,
    closing: Vec<String>,
    regards: &'static str,
    signature: String,
    footer: String,
}

/// A button; in the text part the address alone.
struct Action {
    label: &'static str,
    url: String,
}

/// A label and its value, such as "Due date" and "2 March 2026".
struct Row {
    label: &'static str,
    value: String,
}

/// The colour of a letter: how urgent it is.
#[derive(Clone, Copy)]
enum Tone {
    Friendly,
    Firm,
    Final,
    Notice,
}

impl Tone {
    /// The strong colour (with white text on it, at least 4.5:1).
    fn strong(self) -> &'static str {
        match self {
            Self::Friendly => "#0f766e",
            Self::Firm => "#b45309",
            Self::Final => "#b91c1c",
            Self::Notice => "#4338ca",
        }
    }

    /// The pale background that goes with it.
    fn pale(self) -> &'static str {
        match self {
            Self::Friendly => "#edf7f5",
            Self::Firm => "#fdf5e4",
            Self::Final => "#fdf0ef",
            Self::Notice => "#f0f1fd",
        }
    }

    /// The strong colour on a dark background.
    fn on_dark(self) -> &'static str {
        match self {
            Self::Friendly => "#5eead4",
            Self::Firm => "#fcd34d",
            Self::Final => "#fca5a5",
            Self::Notice => "#a5b4fc",
        }
    }
}

#[derive(Template)]
#[template(path = "mail/templates/letter.html")]
struct Html<'a> {
    letter: &'a Letter,
    strong: &'static str,
    pale: &'static str,
    on_dark: &'static str,
}

#[derive(Template)]
#[template(path = "mail/templates/letter.txt", escape = "none")]
struct Text<'a> {
    letter: &'a Letter,
}

impl Letter {
    fn render(self) -> Rendered {
        let tone = self.tone;
        let html = Html { letter: &self, strong: tone.strong(), pale: tone.pale(), on_dark: tone.on_dark() }.render();
        let text = Text { letter: &self }.render();
        let complete = "rendering writes to memory and formats only text, so it cannot fail";
        Rendered { text: text.expect(complete), html: html.expect(complete), subject: shortened(self.subject) }
    }
}

/// A subject that a mail program may still show: at most 200 characters.
fn shortened(subject: String) -> String {
    match subject.char_indices().nth(200) {
        Some((at, _)) => format!("{}…", subject[..at].trim_end()),
        None => subject,
    }
}

/// `text` broken into lines of at most 72 characters (a longer word stands alone), as plain text mail is read.
fn wrapped(text: &str) -> String {
    let (mut out, mut column) = (String::with_capacity(text.len()), 0);
    for word in text.split_whitespace() {
        let width = word.chars().count();
        if column > 0 && column + 1 + width > 72 {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += width;
    }
    out
}

/// Rows with their values in one column.
fn aligned(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.label.chars().count()).max().unwrap_or(0) + 1;
    let lines: Vec<String> =
        rows.iter().map(|row| format!("  {:<width$}  {}", format!("{}:", row.label), row.value)).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::money::Currency;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    fn reminder(language: Language, stage: u32) -> ReminderMail {
        ReminderMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            company_name: "Brf Solgläntan".into(),
            invoice_number: "2026-0142".into(),
            amount: Money { amount: "12500".parse().expect("a number"), currency: Currency::SEK },
            due_date: date("2026-01-15"),
            days_overdue: [1, 8, 15][stage as usize - 1],
            stage,
            payment: PaymentDetails {
                bankgiro: Some("5050-1055".into()),
                iban: Some("SE4550000000058398257466".into()),
                payee: Some("Nordlys Konsult AB".into()),
            },
        }
    }

    fn escalation(language: Language) -> EscalationMail {
        EscalationMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            company_name: "Brf Solgläntan".into(),
            invoice_number: "2026-0142".into(),
            amount: Money { amount: "12500".parse().expect("a number"), currency: Currency::SEK },
            due_date: date("2026-01-15"),
            days_overdue: 22,
            reminders: 3,
        }
    }

    fn readable(rendered: &Rendered) -> String {
        format!("Subject: {}\n\n{}", rendered.subject, rendered.text)
    }

    /// MAIL-1, BILL-5
    #[test]
    fn every_stage_in_both_languages() {
        for (language, name) in [(Language::Sv, "sv"), (Language::En, "en")] {
            for stage in 1..=3 {
                let rendered = render_reminder(&reminder(language, stage));
                insta::assert_snapshot!(format!("reminder_{name}_{stage}"), readable(&rendered));
            }
            let rendered = render_escalation(&escalation(language));
            insta::assert_snapshot!(format!("escalation_{name}"), readable(&rendered));
        }
    }

    /// BILL-5
    #[test]
    fn both_parts_name_amount_number_due_date_days_and_how_to_pay() {
        for stage in 1..=3 {
            let rendered = render_reminder(&reminder(Language::En, stage));
            for part in [&rendered.text, &rendered.html] {
                let days = ["1 day", "8 days", "15 days"][stage as usize - 1];
                for fact in ["SEK 12,500.00", "2026-0142", "15 January 2026", days, "5050-1055", "SE45 5000 0000"] {
                    assert!(part.contains(fact), "stage {stage} lacks {fact}");
                }
            }
        }
    }

    #[test]
    fn an_organization_without_payment_details_asks_for_a_reply() {
        for (language, sentence) in [(Language::Sv, "Svara på det här mejlet"), (Language::En, "Reply to this mail")]
        {
            let mail = ReminderMail { payment: PaymentDetails::default(), ..reminder(language, 1) };
            let rendered = render_reminder(&mail);
            assert!(rendered.text.contains(sentence) && rendered.html.contains(sentence), "{}", rendered.text);
            assert!(!rendered.text.contains("IBAN"), "{}", rendered.text);
        }
    }

    #[test]
    fn names_are_escaped_in_html_and_plain_in_text() {
        let mail = ReminderMail {
            company_name: "<b>Evil & Co".into(),
            organization_name: "\"><script>alert(1)</script>".into(),
            invoice_number: "<img src=x>".into(),
            ..reminder(Language::En, 1)
        };
        let rendered = render_reminder(&mail);
        for tag in ["<b>Evil", "<script", "<img"] {
            assert!(!rendered.html.contains(tag), "{tag}");
        }
        assert!(rendered.html.contains("&#60;b&#62;Evil &#38; Co"), "{}", rendered.html);
        assert!(rendered.text.contains("<b>Evil & Co"), "{}", rendered.text);
    }

    #[test]
    fn line_breaks_in_names_reach_neither_subject_nor_text() {
        let evil = |name: &str| format!("{name}\r\nBcc: victim@example.com\r\n\r\nPay to 123-4567");
        let mail = ReminderMail {
            company_name: evil("Acme"),
            organization_name: evil("Org"),
            invoice_number: evil("1"),
            payment: PaymentDetails { payee: Some(evil("P")), bankgiro: Some(evil("B")), iban: Some(evil("I")) },
            ..reminder(Language::Sv, 2)
        };
        let notice = EscalationMail { company_name: evil("Acme"), ..escalation(Language::En) };
        for rendered in [render_reminder(&mail), render_escalation(&notice)] {
            assert!(!rendered.subject.contains(['\r', '\n']), "{}", rendered.subject);
            assert!(
                !rendered.text.lines().any(|line| line.starts_with("Bcc") || line.starts_with("Pay")),
                "{}",
                rendered.text
            );
        }
    }

    #[test]
    fn a_subject_stays_short_enough_to_show() {
        let mail = ReminderMail { invoice_number: "å".repeat(5000), ..reminder(Language::Sv, 1) };
        assert_eq!(render_reminder(&mail).subject.chars().count(), 201);
    }

    #[test]
    fn a_policy_with_more_stages_stays_at_the_final_notice() {
        let third = render_reminder(&reminder(Language::En, 3));
        let ninth = render_reminder(&ReminderMail { stage: 9, ..reminder(Language::En, 3) });
        assert_eq!(ninth, third);
    }

    #[test]
    fn plain_text_lines_stay_within_72_characters() {
        for language in [Language::Sv, Language::En] {
            for line in render_reminder(&reminder(language, 3)).text.lines() {
                assert!(line.chars().count() <= 72, "{line}");
            }
        }
    }
}
