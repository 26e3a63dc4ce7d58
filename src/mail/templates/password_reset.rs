//! What somebody gets who has forgotten their password (AUTH-5).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use super::{
    Action, Letter, Rendered, Tone,
    invitation::moment,
    join_request::{bare, rows},
};
use crate::domain::language::Language;
use crate::mail::one_line;

/// The link that sets another password, told to the account's own address.
#[derive(Clone)]
pub struct PasswordResetMail {
    pub language: Language,
    pub organization_name: String,
    /// What the person signs in with.
    pub email: String,
    /// The page that sets the password; holds the token.
    pub link: String,
    pub expires_at: DateTime<Utc>,
    /// Whose clock the expiry is told by.
    pub time_zone: Tz,
}

/// The mail in the person's language.
pub fn render_password_reset(mail: &PasswordResetMail) -> Rendered {
    let mail = PasswordResetMail {
        organization_name: one_line(&mail.organization_name),
        email: one_line(&mail.email),
        ..mail.clone()
    };
    letter(&mail).render()
}

fn letter(mail: &PasswordResetMail) -> Letter {
    let PasswordResetMail { organization_name, email, .. } = mail;
    let expires = moment(mail.language, mail.expires_at, mail.time_zone);
    let values = [organization_name.clone(), email.clone(), expires.clone()];
    let action = |label| Some(Action { label, url: mail.link.clone() });
    match mail.language {
        Language::Sv => Letter {
            lang: "sv",
            subject: "Välj ett nytt lösenord".to_owned(),
            preheader: format!("Öppna länken senast {expires}."),
            label: "Glömt lösenord".to_owned(),
            heading: "Välj ett nytt lösenord".to_owned(),
            greeting: "Hej,".to_owned(),
            paragraphs: vec![
                "Någon har bett om ett nytt lösenord till ditt konto. Var det du? Öppna länken och välj ett. Länken gäller i \
                 en timme och kan användas en gång."
                    .to_owned(),
            ],
            action: action("Välj lösenord"),
            facts: rows(["Organisation", "Du loggar in som", "Gäller till"], values),
            closing: vec![
                "Var det inte du? Då kan du bortse från det här mejlet, så gäller ditt lösenord som förut. Länken är bara din: \
                 skicka den inte vidare."
                    .to_owned(),
            ],
            regards: "Vänliga hälsningar",
            footer: format!("Mejlet skickades av {organization_name} för att någon angav din adress."),
            ..bare(organization_name, Tone::Notice)
        },
        Language::En => Letter {
            lang: "en",
            subject: "Choose a new password".to_owned(),
            preheader: format!("Open the link by {expires}."),
            label: "Forgotten password".to_owned(),
            heading: "Choose a new password".to_owned(),
            greeting: "Hello,".to_owned(),
            paragraphs: vec![
                "Somebody has asked for a new password to your account. Was it you? Open the link and choose one. The link is \
                 valid for an hour and can be used once."
                    .to_owned(),
            ],
            action: action("Choose a password"),
            facts: rows(["Organization", "You sign in as", "Valid until"], values),
            closing: vec![
                "It was not you? Then disregard this mail, and your password stays as it is. The link is yours alone: do not \
                 pass it on."
                    .to_owned(),
            ],
            regards: "Kind regards",
            footer: format!("This mail was sent by {organization_name} because somebody gave your address."),
            ..bare(organization_name, Tone::Notice)
        },
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn mail(language: Language) -> PasswordResetMail {
        PasswordResetMail {
            language,
            organization_name: "Nordlys Konsult AB".into(),
            email: "anna@example.se".into(),
            link: "https://backroom.example/password-resets/nordlys.AbCdEfGhIjKlMnOpQrStUvWxYz0123456789-_AbCde".into(),
            expires_at: Utc.with_ymd_and_hms(2026, 3, 3, 8, 0, 0).single().expect("a time"),
            time_zone: chrono_tz::Europe::Stockholm,
        }
    }

    /// AUTH-5
    #[test]
    fn the_letter_in_both_languages() {
        for (language, name) in [(Language::Sv, "sv"), (Language::En, "en")] {
            let rendered = render_password_reset(&mail(language));
            assert!(rendered.html.contains(&mail(language).link), "{}", rendered.html);
            let readable = format!("Subject: {}\n\n{}", rendered.subject, rendered.text);
            insta::assert_snapshot!(format!("password_reset_{name}"), readable);
        }
    }

    /// MAIL-1
    #[test]
    fn a_name_with_line_breaks_and_tags_stays_a_name() {
        let evil = "Acme\r\nBcc: victim@example.com\r\n\r\n<script>alert(1)</script>";
        let rendered =
            render_password_reset(&PasswordResetMail { organization_name: evil.into(), ..mail(Language::En) });
        assert!(!rendered.text.lines().any(|line| line.starts_with("Bcc")), "{}", rendered.text);
        assert!(!rendered.html.contains("<script"), "{}", rendered.html);
    }
}
