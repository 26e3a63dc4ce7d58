//! An invitation into a workspace (WORK-4).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Action, Letter, Rendered, Row, Tone, words::long_date};
use crate::domain::language::Language;
use crate::mail::one_line;

/// An invitation, told to the person who is invited.
#[derive(Clone)]
pub struct InvitationMail {
    pub language: Language,
    pub organization_name: String,
    pub workspace_name: String,
    /// Who invites.
    pub inviter_name: String,
    /// The page that accepts; holds the token.
    pub link: String,
    pub expires_at: DateTime<Utc>,
    /// Whose clock the expiry is told by.
    pub time_zone: Tz,
}

/// The invitation in the invitee's language.
pub fn render_invitation(mail: &InvitationMail) -> Rendered {
    let mail = InvitationMail {
        organization_name: one_line(&mail.organization_name),
        workspace_name: one_line(&mail.workspace_name),
        inviter_name: one_line(&mail.inviter_name),
        ..mail.clone()
    };
    letter(&mail).render()
}

fn letter(mail: &InvitationMail) -> Letter {
    let InvitationMail { organization_name, workspace_name, inviter_name, .. } = mail;
    let expires = moment(mail.language, mail.expires_at, mail.time_zone);
    let values = [workspace_name.clone(), inviter_name.clone(), expires.clone()];
    let rows =
        |labels: [&'static str; 3]| labels.into_iter().zip(values).map(|(label, value)| Row { label, value }).collect();
    let action = |label| Some(Action { label, url: mail.link.clone() });
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("{inviter_name} bjuder in dig till {workspace_name}"),
            preheader: format!("Tacka ja senast {expires}."),
            label: "Inbjudan".to_owned(),
            heading: format!("Välkommen till {workspace_name}"),
            greeting: "Hej,".to_owned(),
            paragraphs: vec![format!(
                "{inviter_name} bjuder in dig till arbetsytan {workspace_name} hos {organization_name}. Öppna länken och \
                 tacka ja, så är du med. Har du inget konto får du ett på samma sida."
            )],
            action: action("Öppna inbjudan"),
            facts: rows(["Arbetsyta", "Inbjuden av", "Gäller till"]),
            closing: vec![
                "Länken är bara din: skicka den inte vidare. Väntade du ingen inbjudan? Då kan du bortse från det här \
                 mejlet, så händer ingenting."
                    .to_owned(),
            ],
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades av {organization_name} för att {inviter_name} angav din adress."),
            ..bare(mail)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("{inviter_name} invites you to {workspace_name}"),
            preheader: format!("Accept by {expires}."),
            label: "Invitation".to_owned(),
            heading: format!("Welcome to {workspace_name}"),
            greeting: "Hello,".to_owned(),
            paragraphs: vec![format!(
                "{inviter_name} invites you to the workspace {workspace_name} at {organization_name}. Open the link and \
                 accept, and you are in. If you have no account, you get one on the same page."
            )],
            action: action("Open the invitation"),
            facts: rows(["Workspace", "Invited by", "Valid until"]),
            closing: vec![
                "The link is yours alone: do not pass it on. You were expecting no invitation? Then disregard this mail, \
                 and nothing happens."
                    .to_owned(),
            ],
            regards: "Kind regards",
            footer: format!("This mail was sent by {organization_name} because {inviter_name} gave your address."),
            ..bare(mail)
        },
    }
}

/// What is the same in every language.
fn bare(mail: &InvitationMail) -> Letter {
    Letter {
        lang: "",
        tone: Tone::Notice,
        preheader: String::new(),
        subject: String::new(),
        organization: mail.organization_name.clone(),
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
        signature: mail.organization_name.clone(),
        footer: String::new(),
    }
}

/// `9 mars 2026 kl. 09:00`, `9 March 2026 at 09:00`, by the clock of the zone.
pub(super) fn moment(language: Language, at: DateTime<Utc>, zone: Tz) -> String {
    let local = at.with_timezone(&zone);
    let date = long_date(language, local.date_naive());
    match language {
        Language::Sv => format!("{date} kl. {}", local.format("%H:%M")),
        Language::En => format!("{date} at {}", local.format("%H:%M")),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn mail(language: Language) -> InvitationMail {
        InvitationMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            workspace_name: "Bokslut 2026".into(),
            inviter_name: "Anna Ek".into(),
            link: "https://backroom.example/invitations/nordlys.AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCde".into(),
            expires_at: Utc.with_ymd_and_hms(2026, 3, 9, 8, 0, 0).single().expect("a time"),
            time_zone: chrono_tz::Europe::Stockholm,
        }
    }

    /// WORK-4
    #[test]
    fn the_invitation_in_both_languages() {
        for (language, name) in [(Language::Sv, "sv"), (Language::En, "en")] {
            let rendered = render_invitation(&mail(language));
            let readable = format!("Subject: {}\n\n{}", rendered.subject, rendered.text);
            insta::assert_snapshot!(format!("invitation_{name}"), readable);
        }
    }

    /// WORK-4
    #[test]
    fn both_parts_name_workspace_inviter_link_and_expiry() {
        for (language, expiry) in [(Language::Sv, "9 mars 2026 kl. 09:00"), (Language::En, "9 March 2026 at 09:00")] {
            let mail = mail(language);
            let rendered = render_invitation(&mail);
            for part in [&rendered.text, &rendered.html] {
                for fact in ["Bokslut 2026", "Anna Ek", "Nordlys Konsult AB", mail.link.as_str(), expiry] {
                    assert!(part.contains(fact), "{fact} is missing from {part}");
                }
            }
            assert!(!rendered.html.contains("SEK") && !rendered.text.contains("\n\n\n"), "{}", rendered.text);
        }
    }

    /// WORK-4
    #[test]
    fn names_with_line_breaks_and_tags_stay_names() {
        let evil = "Anna\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script>";
        let mail = InvitationMail {
            organization_name: evil.into(),
            workspace_name: evil.into(),
            inviter_name: evil.into(),
            ..mail(Language::En)
        };
        let rendered = render_invitation(&mail);
        assert!(!rendered.subject.contains(['\r', '\n']), "{}", rendered.subject);
        assert!(!rendered.text.lines().any(|line| line.starts_with("Bcc")), "{}", rendered.text);
        assert!(!rendered.html.contains("<script"), "{}", rendered.html);
    }
}
