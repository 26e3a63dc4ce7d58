//! What somebody hears who asks to become a member (JOIN-2, JOIN-5).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{Action, Letter, Rendered, Row, Tone, invitation::moment};
use crate::domain::language::Language;
use crate::mail::one_line;

/// The link that proves an address, told to who gave it.
#[derive(Clone)]
pub struct ConfirmationMail {
    pub language: Language,
    pub organization_name: String,
    /// As somebody typed it, maybe not the reader.
    pub applicant_name: String,
    /// The page that confirms; holds the token.
    pub link: String,
    pub expires_at: DateTime<Utc>,
    /// Whose clock the expiry is told by.
    pub time_zone: Tz,
}

/// What was decided, told to the applicant.
#[derive(Clone)]
pub struct DecisionMail {
    pub language: Language,
    pub organization_name: String,
    pub applicant_name: String,
    /// What the new member signs in with.
    pub email: String,
    pub approved: bool,
    /// The page on which a new member chooses a password; holds a token. `None`: there is one already.
    pub password_link: Option<String>,
}

/// The confirmation mail in the applicant's language.
pub fn render_confirmation(mail: &ConfirmationMail) -> Rendered {
    let mail = ConfirmationMail {
        organization_name: one_line(&mail.organization_name),
        applicant_name: one_line(&mail.applicant_name),
        ..mail.clone()
    };
    confirmation(&mail).render()
}

/// The decision in the applicant's language.
pub fn render_decision(mail: &DecisionMail) -> Rendered {
    let mail = DecisionMail {
        organization_name: one_line(&mail.organization_name),
        applicant_name: one_line(&mail.applicant_name),
        email: one_line(&mail.email),
        ..mail.clone()
    };
    match mail.approved {
        true => approved(&mail).render(),
        false => rejected(&mail).render(),
    }
}

fn confirmation(mail: &ConfirmationMail) -> Letter {
    let ConfirmationMail { organization_name, applicant_name, .. } = mail;
    let expires = moment(mail.language, mail.expires_at, mail.time_zone);
    let values = [organization_name.clone(), applicant_name.clone(), expires.clone()];
    let action = |label| Some(Action { label, url: mail.link.clone() });
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("Bekräfta din ansökan till {organization_name}"),
            preheader: format!("Öppna länken senast {expires}."),
            label: "Bekräfta din adress".to_owned(),
            heading: "Är det du som vill bli medlem?".to_owned(),
            greeting: "Hej,".to_owned(),
            paragraphs: vec![format!(
                "Någon har ansökt om att bli medlem hos {organization_name} med den här adressen. Var det du? Öppna länken \
                 och bekräfta, så går ansökan vidare."
            )],
            action: action("Bekräfta ansökan"),
            facts: rows(["Organisation", "Namn", "Gäller till"], values),
            closing: vec!["Var det inte du? Då kan du bortse från det här mejlet, så händer ingenting.".to_owned()],
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades av {organization_name} för att någon angav din adress i en ansökan."),
            ..bare(organization_name, Tone::Notice)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("Confirm your request to join {organization_name}"),
            preheader: format!("Open the link by {expires}."),
            label: "Confirm your address".to_owned(),
            heading: "Is it you who wants to join?".to_owned(),
            greeting: "Hello,".to_owned(),
            paragraphs: vec![format!(
                "Somebody has asked to join {organization_name} with this address. Was it you? Open the link and confirm, \
                 and the request goes on its way."
            )],
            action: action("Confirm the request"),
            facts: rows(["Organization", "Name", "Valid until"], values),
            closing: vec!["It was not you? Then disregard this mail, and nothing happens.".to_owned()],
            regards: "Kind regards",
            footer: format!(
                "This mail was sent by {organization_name} because somebody gave your address in a request."
            ),
            ..bare(organization_name, Tone::Notice)
        },
    }
}

fn approved(mail: &DecisionMail) -> Letter {
    let DecisionMail { organization_name, applicant_name, email, .. } = mail;
    let values = [organization_name.clone(), applicant_name.clone(), email.clone()];
    let action = |label| mail.password_link.clone().map(|url| Action { label, url });
    let new = mail.password_link.is_some();
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("Välkommen till {organization_name}"),
            preheader: "Din ansökan är godkänd.".to_owned(),
            label: "Godkänd".to_owned(),
            heading: format!("Välkommen till {organization_name}"),
            greeting: format!("Hej {applicant_name},"),
            paragraphs: vec![
                format!("Din ansökan är godkänd, och du är nu medlem hos {organization_name}."),
                match new {
                    true => "Välj ett lösenord genom länken, så kan du logga in. Länken gäller i sju dagar.".to_owned(),
                    false => format!("Logga in som vanligt med {email}."),
                },
            ],
            action: action("Välj lösenord"),
            facts: rows(["Organisation", "Namn", "Du loggar in som"], values),
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades av {organization_name} med anledning av din ansökan."),
            ..bare(organization_name, Tone::Friendly)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("Welcome to {organization_name}"),
            preheader: "Your request was approved.".to_owned(),
            label: "Approved".to_owned(),
            heading: format!("Welcome to {organization_name}"),
            greeting: format!("Hello {applicant_name},"),
            paragraphs: vec![
                format!("Your request was approved, and you are now a member of {organization_name}."),
                match new {
                    true => "Choose a password by the link, and you can sign in. The link is valid for seven days."
                        .to_owned(),
                    false => format!("Sign in as usual with {email}."),
                },
            ],
            action: action("Choose a password"),
            facts: rows(["Organization", "Name", "You sign in as"], values),
            regards: "Kind regards",
            footer: format!("This mail was sent by {organization_name} about your request."),
            ..bare(organization_name, Tone::Friendly)
        },
    }
}

fn rejected(mail: &DecisionMail) -> Letter {
    let DecisionMail { organization_name, applicant_name, email, .. } = mail;
    let values = [organization_name.clone(), applicant_name.clone(), email.clone()];
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: format!("Din ansökan till {organization_name}"),
            preheader: "Din ansökan godkändes inte den här gången.".to_owned(),
            label: "Besked".to_owned(),
            heading: "Din ansökan godkändes inte".to_owned(),
            greeting: format!("Hej {applicant_name},"),
            paragraphs: vec![format!(
                "Tack för din ansökan till {organization_name}. Den godkändes tyvärr inte den här gången."
            )],
            facts: rows(["Organisation", "Namn", "Adress"], values),
            closing: vec!["Har du frågor? Svara på det här mejlet.".to_owned()],
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades av {organization_name} med anledning av din ansökan."),
            ..bare(organization_name, Tone::Notice)
        },
        Language::En => Letter {
            lang: "en",
            subject: format!("Your request to join {organization_name}"),
            preheader: "Your request was not approved this time.".to_owned(),
            label: "Decision".to_owned(),
            heading: "Your request was not approved".to_owned(),
            greeting: format!("Hello {applicant_name},"),
            paragraphs: vec![format!(
                "Thank you for your request to join {organization_name}. Unfortunately it was not approved this time."
            )],
            facts: rows(["Organization", "Name", "Address"], values),
            closing: vec!["Do you have questions? Reply to this mail.".to_owned()],
            regards: "Kind regards",
            footer: format!("This mail was sent by {organization_name} about your request."),
            ..bare(organization_name, Tone::Notice)
        },
    }
}

pub(super) fn rows(labels: [&'static str; 3], values: [String; 3]) -> Vec<Row> {
    labels.into_iter().zip(values).map(|(label, value)| Row { label, value }).collect()
}

/// What is the same in every letter to somebody about themselves.
pub(super) fn bare(organization_name: &str, tone: Tone) -> Letter {
    Letter {
        lang: "",
        tone,
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
        signature: organization_name.to_owned(),
        footer: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn confirmation_mail(language: Language) -> ConfirmationMail {
        ConfirmationMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            applicant_name: "Anna Ek".into(),
            link: "https://backroom.example/join-requests/nordlys.AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCde".into(),
            expires_at: Utc.with_ymd_and_hms(2026, 3, 3, 8, 0, 0).single().expect("a time"),
            time_zone: chrono_tz::Europe::Stockholm,
        }
    }

    fn decision_mail(language: Language, approved: bool, new: bool) -> DecisionMail {
        DecisionMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            applicant_name: "Anna Ek".into(),
            email: "anna@example.se".into(),
            approved,
            password_link: new.then(|| confirmation_mail(language).link),
        }
    }

    fn readable(rendered: &Rendered) -> String {
        format!("Subject: {}\n\n{}", rendered.subject, rendered.text)
    }

    /// JOIN-2, JOIN-5
    #[test]
    fn every_letter_in_both_languages() {
        for (language, name) in [(Language::Sv, "sv"), (Language::En, "en")] {
            let rendered = render_confirmation(&confirmation_mail(language));
            insta::assert_snapshot!(format!("confirmation_{name}"), readable(&rendered));
            for (decision, approved, new) in
                [("approved_new", true, true), ("approved", true, false), ("rejected", false, false)]
            {
                let rendered = render_decision(&decision_mail(language, approved, new));
                insta::assert_snapshot!(format!("{decision}_{name}"), readable(&rendered));
            }
        }
    }

    /// JOIN-2
    #[test]
    fn both_parts_name_organization_applicant_link_and_expiry() {
        for (language, expiry) in [(Language::Sv, "3 mars 2026 kl. 09:00"), (Language::En, "3 March 2026 at 09:00")] {
            let mail = confirmation_mail(language);
            let rendered = render_confirmation(&mail);
            for part in [&rendered.text, &rendered.html] {
                for fact in ["Nordlys Konsult AB", "Anna Ek", mail.link.as_str(), expiry] {
                    assert!(part.contains(fact), "{fact} is missing from {part}");
                }
            }
        }
    }

    /// JOIN-2: a stranger chooses the name.
    #[test]
    fn names_with_line_breaks_and_tags_stay_names() {
        let evil = "Anna\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script>";
        let confirmation = ConfirmationMail {
            organization_name: evil.into(),
            applicant_name: evil.into(),
            ..confirmation_mail(Language::En)
        };
        let decision = DecisionMail {
            organization_name: evil.into(),
            applicant_name: evil.into(),
            email: evil.into(),
            ..decision_mail(Language::Sv, true, true)
        };
        for rendered in [render_confirmation(&confirmation), render_decision(&decision)] {
            assert!(!rendered.subject.contains(['\r', '\n']), "{}", rendered.subject);
            assert!(!rendered.text.lines().any(|line| line.starts_with("Bcc")), "{}", rendered.text);
            assert!(!rendered.html.contains("<script"), "{}", rendered.html);
        }
    }
}
