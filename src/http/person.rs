//! Pages that people reach by a link in a mail, without a key: their frame, their language, and what protects them.
//!
//! GET shows and POST acts, so that a program that follows links (a mail scanner, a preview) changes nothing. They need no
//! JavaScript, fit a phone, load nothing from elsewhere, and tell nobody their address: it holds a secret. A form is taken from
//! its own page only.

use askama::Template;
use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, request::Parts},
    middleware::Next,
    response::{Html, IntoResponse, Response},
};
use url::{Url, form_urlencoded};

use super::{
    ApiState,
    network::Network,
    problem::{ForPeople, Problem, ProblemType},
};
use crate::domain::{EmailAddress, Language, Organization, ParseError};

/// A form of a name, a password and the like.
pub const MAX_FORM_BYTES: usize = 16 * 1024;

/// What every page shows around its own content.
#[derive(Clone, Debug)]
pub struct Frame {
    pub language: Language,
    /// In whose name it speaks: the organization's, as far as it is known.
    pub sender: String,
}

/// A page that says one thing.
pub struct Notice {
    pub heading: String,
    pub paragraphs: Vec<String>,
    /// It went well.
    pub good: bool,
}

#[derive(Template)]
#[template(path = "http/notice.html")]
struct NoticePage<'a> {
    frame: &'a Frame,
    notice: &'a Notice,
}

/// Answers with a page that says one thing.
pub fn notice(status: StatusCode, frame: &Frame, notice: &Notice) -> Response {
    page(status, &NoticePage { frame, notice })
}

/// Answers with a page. It stays a page also where the status is an error's.
pub fn page(status: StatusCode, template: &impl Template) -> Response {
    let html = match template.render() {
        Ok(html) => html,
        Err(error) => return Problem::internal(error).into_response(),
    };
    // Nothing but its own inline style; `same-origin`, because with `no-referrer` a browser hides the form's origin from us too.
    const CSP: &str =
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CSP),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("x-robots-tag"), "noindex, nofollow"),
    ];
    let mut response = (status, headers, Html(html)).into_response();
    response.extensions_mut().insert(ForPeople);
    response
}

/// A problem as a person may read it; what it is about in detail is for the log.
pub fn sorry(visitor: Visitor, problem: &Problem) -> Response {
    let frame = Frame { language: visitor.language(None), sender: "Backroom".to_owned() };
    let (heading, paragraph) = match (frame.language, problem.kind) {
        (Language::Sv, ProblemType::RateLimited) => ("För många försök", "Vänta en minut och ladda sedan om sidan."),
        (Language::En, ProblemType::RateLimited) => ("Too many attempts", "Wait a minute, then load the page again."),
        (Language::Sv, ProblemType::Forbidden) => {
            ("Formuläret kom inte härifrån", "Öppna länken i mejlet och försök igen därifrån.")
        }
        (Language::En, ProblemType::Forbidden) => {
            ("The form did not come from here", "Open the link in the mail and try again from there.")
        }
        (Language::Sv, kind) if kind.status().is_client_error() => {
            ("Formuläret gick inte att läsa", "Öppna länken i mejlet och försök igen därifrån.")
        }
        (Language::En, kind) if kind.status().is_client_error() => {
            ("The form could not be read", "Open the link in the mail and try again from there.")
        }
        (Language::Sv, _) => ("Något gick fel hos oss", "Inget har ändrats. Försök igen om en stund."),
        (Language::En, _) => ("Something went wrong on our side", "Nothing was changed. Try again in a while."),
    };
    let said = Notice { heading: heading.to_owned(), paragraphs: vec![paragraph.to_owned()], good: false };
    let mut response = notice(problem.kind.status(), &frame, &said);
    if problem.kind.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
    }
    response
}

/// Says that the password somebody chose is theirs now.
pub fn password_saved(language: Language, organization: &Organization, email: &EmailAddress) -> Response {
    let (heading, said, close) = match language {
        Language::Sv => {
            ("Lösenordet är sparat", format!("Nu kan du logga in som {email}."), "Du kan stänga den här sidan.")
        }
        Language::En => {
            ("The password is saved", format!("You can sign in as {email} now."), "You can close this page.")
        }
    };
    let frame = Frame { language, sender: organization.name.clone() };
    let paragraphs = vec![said, close.to_owned()];
    notice(StatusCode::OK, &frame, &Notice { heading: heading.to_owned(), paragraphs, good: true })
}

/// What is wrong with a field that was typed, in the page's language.
pub fn told(language: Language, error: &ParseError) -> &'static str {
    match (language, error.code) {
        (Language::Sv, "required") => "Fyll i det här fältet.",
        (Language::En, "required") => "Fill in this field.",
        (Language::Sv, "too_short") => "För kort: minst 12 tecken.",
        (Language::En, "too_short") => "Too short: at least 12 characters.",
        (Language::Sv, "too_long") => "För långt: högst 200 tecken.",
        (Language::En, "too_long") => "Too long: at most 200 characters.",
        (Language::Sv, _) => "Det här går inte att använda; välj något annat.",
        (Language::En, _) => "This cannot be used; choose something else.",
    }
}

/// Which language a visitor wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visitor {
    /// Asked for with `?lang=`.
    chosen: Option<Language>,
    /// What the browser likes best.
    accepted: Option<Language>,
}

impl Visitor {
    /// What was asked for; else the language of what the page is about; else the browser's.
    pub fn language(self, of_content: Option<Language>) -> Language {
        self.chosen.or(of_content).or(self.accepted).unwrap_or_default()
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Visitor {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let query = parts.uri.query().unwrap_or_default();
        let chosen = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "lang");
        Ok(Self {
            chosen: chosen.and_then(|(_, value)| value.parse().ok()),
            accepted: parts.headers.get(header::ACCEPT_LANGUAGE).and_then(|value| accepted(value.to_str().ok()?)),
        })
    }
}

/// The first of the browser's languages by weight (RFC 9110, 12.5.4) that the product speaks.
fn accepted(header: &str) -> Option<Language> {
    let mut best: Option<(f32, Language)> = None;
    for range in header.split(',') {
        let (tag, weight) = range.split_once(';').unwrap_or((range, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let Ok(language) = primary.parse() else { continue };
        if weight > 0.0 && best.is_none_or(|(most, _)| weight > most) {
            best = Some((weight, language));
        }
    }
    best.map(|(_, language)| language)
}

/// The fields of a form that came from its own page.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

impl Form {
    /// The field's text; empty where it was not sent.
    pub fn field(&self, name: &str) -> &str {
        self.0.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value)
    }
}

impl FromRequest<ApiState> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &ApiState) -> Result<Self, Problem> {
        if !is_own_page(request.headers(), &state.app.config.http.public_url) {
            return Err(Problem::new(ProblemType::Forbidden, "the form was not sent from its own page"));
        }
        let essence = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = essence.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        // A form without fields may come without a type.
        if !(essence.is_empty() || essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")) {
            return Err(Problem::of_status(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| Problem::of_status(rejection.status()))?;
        let fields: Vec<_> = form_urlencoded::parse(&bytes).into_owned().collect();
        // PostgreSQL's text has no NUL.
        if fields.iter().any(|(_, value)| value.contains('\0')) {
            return Err(Problem::of_status(StatusCode::BAD_REQUEST));
        }
        Ok(Self(fields))
    }
}

/// Whether a browser says that the form was sent from this installation's own page: `Sec-Fetch-Site` (Fetch Metadata), or else
/// `Origin` (RFC 6454). What says neither is no browser of this decade, and carries nobody's rights along.
fn is_own_page(headers: &HeaderMap, public_url: &str) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin";
    }
    let Some(origin) = text("origin") else { return true };
    let own = Url::parse(public_url).map(|url| url.origin().ascii_serialization());
    let at_host = text("host").is_some_and(|host| origin.split_once("://").is_some_and(|(_, of)| of == host));
    at_host || own.is_ok_and(|own| own == origin)
}

/// Turns a network away that comes too often. The tokens are beyond guessing; this keeps the noise down.
pub async fn limit_strangers(
    State(state): State<ApiState>,
    network: Network,
    visitor: Visitor,
    request: Request,
    next: Next,
) -> Response {
    match state.strangers.take(&network) {
        Ok(()) => next.run(request).await,
        Err(problem) => sorry(visitor, &problem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// WORK-5
    #[test]
    fn a_page_speaks_the_language_that_was_asked_for_then_its_own_then_the_browser_s() {
        let (sv, en) = (Some(Language::Sv), Some(Language::En));
        let visitor = |chosen, accepted| Visitor { chosen, accepted };
        assert_eq!(visitor(en, sv).language(sv), Language::En);
        assert_eq!(visitor(None, sv).language(en), Language::En);
        assert_eq!(visitor(None, en).language(None), Language::En);
        assert_eq!(visitor(None, None).language(None), Language::Sv);
    }

    #[test]
    fn the_browser_s_languages_are_read_by_weight() {
        assert_eq!(accepted("sv-SE,sv;q=0.9,en;q=0.8"), Some(Language::Sv));
        assert_eq!(accepted("de, en;q=0.7, sv;q=0.9"), Some(Language::Sv));
        assert_eq!(accepted("EN-gb"), Some(Language::En));
        for none in ["", "de,fr", "*", "sv;q=0", "en;q=x"] {
            assert_eq!(accepted(none), None, "{none}");
        }
    }

    #[test]
    fn a_form_from_another_site_is_told_apart() {
        let own = |pairs: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            is_own_page(&headers, "https://backroom.example/")
        };
        assert!(own(&[("sec-fetch-site", "same-origin"), ("origin", "null")]));
        assert!(own(&[("origin", "https://backroom.example"), ("host", "inner:4000")]));
        assert!(own(&[("origin", "http://127.0.0.1:4000"), ("host", "127.0.0.1:4000")]));
        assert!(own(&[]), "no browser");
        for foreign in [
            &[("sec-fetch-site", "cross-site")][..],
            &[("sec-fetch-site", "same-site")],
            &[("sec-fetch-site", "none")],
            &[("origin", "null")],
            &[("origin", "https://evil.example"), ("host", "backroom.example")],
            &[("origin", "https://backroom.example.evil.example"), ("host", "backroom.example")],
        ] {
            assert!(!own(foreign), "{foreign:?}");
        }
    }
}
