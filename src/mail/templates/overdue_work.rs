//! What is late at somebody's hands, told to them once a day (ASSET-5).

use chrono::NaiveDate;

use super::{
    Letter, Rendered, Row, Tone,
    words::{days, long_date},
};
use crate::domain::language::Language;
use crate::mail::one_line;

/// Workflows and steps that should be done by now, told to whose they are.
#[derive(Clone)]
pub struct OverdueWorkMail {
    pub language: Language,
    pub organization_name: String,
    /// `None`: an address of the organization, whoever reads it.
    pub recipient_name: Option<String>,
    pub today: NaiveDate,
    /// Longest late first.
    pub work: Vec<LateWork>,
    /// How much is late in all; the mail names the first of it.
    pub all: u64,
}

/// A workflow, or a step of it.
#[derive(Clone)]
pub struct LateWork {
    pub workflow: String,
    /// `None`: the workflow itself.
    pub step: Option<String>,
    pub due_on: NaiveDate,
}

/// The mail in the recipient's language.
pub fn render_overdue_work(mail: &OverdueWorkMail) -> Rendered {
    let clean = |work: &LateWork| LateWork {
        workflow: one_line(&work.workflow),
        step: work.step.as_deref().map(one_line),
        due_on: work.due_on,
    };
    let mail = OverdueWorkMail {
        organization_name: one_line(&mail.organization_name),
        recipient_name: mail.recipient_name.as_deref().map(one_line).filter(|name| !name.is_empty()),
        work: mail.work.iter().map(clean).collect(),
        ..mail.clone()
    };
    letter(&mail).render()
}

fn letter(mail: &OverdueWorkMail) -> Letter {
    let organization = &mail.organization_name;
    let oldest = mail.work.first().map_or(mail.today, |work| work.due_on);
    let facts = |labels: [&'static str; 2]| {
        let values = [mail.all.to_string(), long_date(mail.language, oldest)];
        labels.into_iter().zip(values).map(|(label, value)| Row { label, value }).collect()
    };
    let more = mail.all.saturating_sub(mail.work.len() as u64);
    let mut lines: Vec<String> = mail.work.iter().map(|work| line(mail, work)).collect();
    match mail.language {
        Language::Sv => {
            lines.insert(0, format!("Det här skulle ha varit klart hos {organization}:"));
            lines.extend((more > 0).then(|| format!("… och {more} till.")));
            let count = if mail.all == 1 {
                "En sak är försenad".to_owned()
            } else {
                format!("{} saker är försenade", mail.all)
            };
            Letter {
                lang: "sv",
                subject: format!("{count} hos {organization}"),
                preheader: "Det äldsta står först.".to_owned(),
                label: "Försenat".to_owned(),
                heading: count,
                greeting: mail.recipient_name.as_ref().map_or("Hej,".to_owned(), |name| format!("Hej {name},")),
                paragraphs: lines,
                facts: facts(["Försenat", "Sedan"]),
                closing: vec![
                    "Markera stegen som klara när de är det. Är något inte längre aktuellt? Avbryt arbetsflödet, så hör vi inte av \
                     oss om det igen."
                        .to_owned(),
                ],
                regards: "Vänliga hälsningar",
                footer: format!("Skickat av {organization}, högst en gång om dagen, så länge något är försenat."),
                ..bare(organization)
            }
        }
        Language::En => {
            lines.insert(0, format!("This should have been done at {organization}:"));
            lines.extend((more > 0).then(|| format!("… and {more} more.")));
            let count = if mail.all == 1 {
                "One thing is overdue".to_owned()
            } else {
                format!("{} things are overdue", mail.all)
            };
            Letter {
                lang: "en",
                subject: format!("{count} at {organization}"),
                preheader: "The oldest comes first.".to_owned(),
                label: "Overdue".to_owned(),
                heading: count,
                greeting: mail.recipient_name.as_ref().map_or("Hello,".to_owned(), |name| format!("Hello {name},")),
                paragraphs: lines,
                facts: facts(["Overdue", "Since"]),
                closing: vec![
                    "Advance the steps when they are done. Is something not needed any more? Cancel the workflow, and you will not \
                     hear of it again."
                        .to_owned(),
                ],
                regards: "Kind regards",
                footer: format!("Sent by {organization}, at most once a day, for as long as something is overdue."),
                ..bare(organization)
            }
        }
    }
}

/// `• Onboarding: anna@acme.example – Order equipment, due on 2 March 2026 (3 days ago)`
fn line(mail: &OverdueWorkMail, work: &LateWork) -> String {
    let what = match &work.step {
        Some(step) => format!("{} – {step}", work.workflow),
        None => work.workflow.clone(),
    };
    let due = long_date(mail.language, work.due_on);
    let late = days(mail.language, (mail.today - work.due_on).num_days());
    match mail.language {
        Language::Sv => format!("• {what}, skulle vara klart {due} (för {late} sedan)"),
        Language::En => format!("• {what}, due on {due} ({late} ago)"),
    }
}

/// What is the same in every language.
fn bare(organization: &str) -> Letter {
    Letter {
        lang: "",
        tone: Tone::Firm,
        preheader: String::new(),
        subject: String::new(),
        organization: organization.to_owned(),
        label: String::new(),
        heading: String::new(),
        greeting: String::new(),
        paragraphs: Vec::new(),
        action: None,
        amount_label: "",
        amount: String::new(),
        facts: Vec::new(),
        payment_heading: "",
        payment: Vec::new(),
        payment_note: String::new(),
        closing: Vec::new(),
        regards: "",
        signature: organization.to_owned(),
        footer: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    fn mail(language: Language) -> OverdueWorkMail {
        let workflow = || "Onboarding: bo@nordlys.example".to_owned();
        OverdueWorkMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            recipient_name: Some("Anna Ek".into()),
            today: date("2026-03-02"),
            work: vec![
                LateWork { workflow: workflow(), step: Some("Order equipment".into()), due_on: date("2026-02-20") },
                LateWork { workflow: workflow(), step: None, due_on: date("2026-03-01") },
            ],
            all: 5,
        }
    }

    /// ASSET-5
    #[test]
    fn the_mail_in_both_languages_names_what_is_late_and_since_when() {
        for (language, facts) in [
            (
                Language::Sv,
                [
                    "5 saker är försenade",
                    "Order equipment",
                    "20 februari 2026",
                    "10 dagar",
                    "1 dag",
                    "och 3 till",
                    "Hej Anna Ek,",
                ],
            ),
            (
                Language::En,
                [
                    "5 things are overdue",
                    "Order equipment",
                    "20 February 2026",
                    "10 days",
                    "1 day",
                    "and 3 more",
                    "Hello Anna Ek,",
                ],
            ),
        ] {
            let rendered = render_overdue_work(&mail(language));
            let text = rendered.text.split_whitespace().collect::<Vec<_>>().join(" ");
            for fact in facts {
                assert!(
                    text.contains(fact) && rendered.html.contains(fact),
                    "{fact} is missing from {}",
                    rendered.text
                );
            }
            assert!(rendered.subject.starts_with(facts[0]), "{}", rendered.subject);
        }
    }

    /// ASSET-5
    #[test]
    fn one_thing_is_told_as_one() {
        let mut one = mail(Language::En);
        one.work.truncate(1);
        (one.all, one.recipient_name) = (1, None);
        let rendered = render_overdue_work(&one);
        assert_eq!(rendered.subject, "One thing is overdue at Nordlys Konsult AB");
        assert!(rendered.text.contains("Hello,") && !rendered.text.contains("more."), "{}", rendered.text);
    }

    /// ASSET-5: people write titles.
    #[test]
    fn titles_with_line_breaks_and_tags_stay_titles() {
        let evil = "Step\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script>";
        let mut mail = mail(Language::En);
        (mail.organization_name, mail.recipient_name) = (evil.into(), Some(evil.into()));
        (mail.work[0].workflow, mail.work[0].step) = (evil.into(), Some(evil.into()));
        let rendered = render_overdue_work(&mail);
        assert!(!rendered.subject.contains(['\r', '\n']), "{}", rendered.subject);
        assert!(!rendered.text.lines().any(|line| line.starts_with("Bcc")), "{}", rendered.text);
        assert!(!rendered.html.contains("<script"), "{}", rendered.html);
    }
}
