//! What an admin hears when an integration has stopped and waits for a person (SYNC-6), or gets nothing for hours (SYNC-13).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Letter, Rendered, Row, Tone, invitation::moment};
use crate::domain::language::Language;
use crate::mail::one_line;

/// An integration that brings nothing, told to an admin.
#[derive(Debug, Clone)]
pub struct AttentionMail {
    pub language: Language,
    pub organization_name: String,
    /// What people call it.
    pub integration_name: String,
    /// As the company writes itself: `QuickBooks`.
    pub provider: String,
    /// What is wrong, in a sentence; it holds no secret.
    pub problem: String,
    pub since: DateTime<Utc>,
    /// Whose clock that is told by.
    pub time_zone: Tz,
    /// It is tried again by itself; otherwise it waits for a person.
    pub goes_on: bool,
}

/// The notice in the organization's language.
pub fn render_attention(mail: &AttentionMail) -> Rendered {
    let mail = AttentionMail {
        organization_name: one_line(&mail.organization_name),
        integration_name: one_line(&mail.integration_name),
        problem: one_line(&mail.problem),
        ..mail.clone()
    };
    attention(&mail).render()
}

fn attention(mail: &AttentionMail) -> Letter {
    if mail.goes_on { stalled(mail) } else { stopped(mail) }
}

fn stopped(mail: &AttentionMail) -> Letter {
    let AttentionMail { organization_name, integration_name, provider, problem, .. } = mail;
    let since = moment(mail.language, mail.since, mail.time_zone);
    let values = [integration_name.clone(), provider.clone(), since];
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("{integration_name} behöver din hjälp"),
            preheader: format!("Inget hämtas från {provider} förrän någon har gjort något."),
            label: "Kräver åtgärd".to_owned(),
            heading: format!("Kopplingen till {provider} har stannat"),
            greeting: "Hej,".to_owned(),
            paragraphs: vec![
                format!("Kopplingen till {provider} fungerar inte, och att försöka igen hjälper inte."),
                format!("Orsak: {problem}"),
                "Inget hämtas eller skickas förrän någon har ordnat det. Det som redan är hämtat finns kvar."
                    .to_owned(),
            ],
            facts: rows(["Integration", "Leverantör", "Sedan"], values),
            payment_heading: "Så här gör du",
            payment_note: format!(
                "Ge integrationen nya uppgifter, eller rätta det som är fel hos {provider}, och testa sedan anslutningen. När \
                 testet går bra fortsätter allt där det slutade."
            ),
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades till administratörerna för {organization_name}."),
            ..bare(organization_name)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("{integration_name} needs your help"),
            preheader: format!("Nothing is read from {provider} until somebody has done something."),
            label: "Needs your attention".to_owned(),
            heading: format!("The connection to {provider} has stopped"),
            greeting: "Hello,".to_owned(),
            paragraphs: vec![
                format!("The connection to {provider} does not work, and trying again does not help."),
                format!("Reason: {problem}"),
                "Nothing is read or sent until somebody has seen to it. What was read before is still there."
                    .to_owned(),
            ],
            facts: rows(["Integration", "Provider", "Since"], values),
            payment_heading: "What you can do",
            payment_note: format!(
                "Give the integration new credentials, or mend what is wrong at {provider}, and then test the connection. When \
                 the test succeeds, everything goes on where it ended."
            ),
            regards: "Kind regards",
            footer: format!("Sent to the administrators of {organization_name}."),
            ..bare(organization_name)
        },
    }
}

fn stalled(mail: &AttentionMail) -> Letter {
    let AttentionMail { organization_name, integration_name, provider, problem, .. } = mail;
    let since = moment(mail.language, mail.since, mail.time_zone);
    let values = [integration_name.clone(), provider.clone(), since];
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("{integration_name} får inget från {provider}"),
            preheader: format!("{provider} har inte låtit något hämtas på flera timmar."),
            label: "Bör ses över".to_owned(),
            heading: format!("Inget kommer från {provider}"),
            greeting: "Hej,".to_owned(),
            paragraphs: vec![
                format!("På flera timmar har inget kunnat hämtas från {provider}. Nya försök görs av sig själva."),
                format!("Orsak: {problem}"),
                "Det som redan är hämtat finns kvar, men kan vara inaktuellt.".to_owned(),
            ],
            facts: rows(["Integration", "Leverantör", "Sedan"], values),
            payment_heading: "Så här gör du",
            payment_note: format!(
                "Se efter om {provider} har driftstörningar och om andra program använder upp kontots anrop. Du får inget \
                 nytt mejl om detta förrän kopplingen har fungerat igen."
            ),
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades till administratörerna för {organization_name}."),
            ..bare(organization_name)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("{integration_name} gets nothing from {provider}"),
            preheader: format!("{provider} has let nothing be read for hours."),
            label: "Worth a look".to_owned(),
            heading: format!("Nothing comes from {provider}"),
            greeting: "Hello,".to_owned(),
            paragraphs: vec![
                format!("For hours nothing could be read from {provider}. It is tried again by itself."),
                format!("Reason: {problem}"),
                "What was read before is still there, but may be out of date.".to_owned(),
            ],
            facts: rows(["Integration", "Provider", "Since"], values),
            payment_heading: "What you can do",
            payment_note: format!(
                "See whether {provider} reports a disturbance, and whether other programs use up the account's calls. There is no \
                 other mail about this until the connection has worked again."
            ),
            regards: "Kind regards",
            footer: format!("Sent to the administrators of {organization_name}."),
            ..bare(organization_name)
        },
    }
}

fn rows(labels: [&'static str; 3], values: [String; 3]) -> Vec<Row> {
    labels.into_iter().zip(values).map(|(label, value)| Row { label, value }).collect()
}

/// What is the same in every language.
fn bare(organization_name: &str) -> Letter {
    Letter {
        lang: "",
        tone: Tone::Notice,
        preheader: String::new(),
        subject: String::new(),
        organization: organization_name.to_owned(),
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
        signature: "Backroom".to_owned(),
        footer: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn mail(language: Language) -> AttentionMail {
        AttentionMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            integration_name: "Our QuickBooks".into(),
            provider: "QuickBooks".into(),
            problem: "QuickBooks has withdrawn our access; connect it again".into(),
            since: Utc.with_ymd_and_hms(2026, 3, 2, 8, 0, 0).single().expect("a time"),
            time_zone: chrono_tz::Europe::Stockholm,
            goes_on: false,
        }
    }

    /// SYNC-6
    #[test]
    fn both_parts_name_the_integration_the_reason_the_time_and_what_to_do() {
        for (language, since, remedy) in [
            (Language::Sv, "2 mars 2026 kl. 09:00", "testa sedan anslutningen"),
            (Language::En, "2 March 2026 at 09:00", "then test the connection"),
        ] {
            let rendered = render_attention(&mail(language));
            for part in [&rendered.text, &rendered.html] {
                let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
                let reason = "QuickBooks has withdrawn our access; connect it again";
                for fact in ["Our QuickBooks", "Nordlys Konsult AB", since, reason, remedy] {
                    assert!(part.contains(fact), "{fact} is missing from {part}");
                }
            }
            assert!(rendered.subject.contains("Our QuickBooks"), "{}", rendered.subject);
        }
    }

    /// SYNC-13: nobody is asked to mend what may pass by itself.
    #[test]
    fn what_goes_on_by_itself_is_told_as_such() {
        for (language, words) in [
            (Language::Sv, ["Nya försök görs av sig själva", "connect it again"]),
            (Language::En, ["tried again by itself", "connect it again"]),
        ] {
            let rendered = render_attention(&AttentionMail { goes_on: true, ..mail(language) });
            for part in [&rendered.text, &rendered.html] {
                let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(words.iter().all(|word| part.contains(word)), "{part}");
                assert!(!part.contains("has stopped") && !part.contains("har stannat"), "{part}");
            }
        }
    }

    /// SYNC-6: a name is typed by people, a reason may come from outside.
    #[test]
    fn names_with_line_breaks_and_tags_stay_names() {
        let evil = "Mine\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script>";
        let mail = AttentionMail { integration_name: evil.into(), problem: evil.into(), ..mail(Language::En) };
        let rendered = render_attention(&mail);
        assert!(!rendered.subject.contains(['\r', '\n']), "{}", rendered.subject);
        assert!(!rendered.text.lines().any(|line| line.starts_with("Bcc")), "{}", rendered.text);
        assert!(!rendered.html.contains("<script"), "{}", rendered.html);
    }
}
