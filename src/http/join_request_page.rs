//! The page behind the links in an applicant's mails (JOIN-4): it confirms a request, and a new member chooses a password on it. GET
//! shows, POST acts.

use askama::Template;
use axum::{
    Router,
    extract::{DefaultBodyLimit, Path, State},
    http::StatusCode,
    middleware,
    response::Response,
    routing::get,
};

use super::{
    ApiState,
    person::{self, Form, Frame, Notice, Visitor, sorry, told},
    problem::Problem,
};
use crate::{
    domain::{JoinRequest, Language, LinkToken, Organization, Password},
    jobs::membership::{self as doors, Opened, Shut},
};

pub fn routes(state: &ApiState) -> Router<ApiState> {
    Router::new()
        .route("/join-requests/{token}", get(show).post(act))
        .layer(DefaultBodyLimit::max(person::MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(state.clone(), person::limit_strangers))
}

/// Who it is about, and one step to take.
#[derive(Template)]
#[template(path = "http/step.html")]
pub struct StepPage<'a> {
    pub frame: &'a Frame,
    pub words: &'a Words,
    pub name: String,
    pub email: &'a str,
    /// For who chooses a password.
    pub form: Option<Filled>,
}

/// What is wrong with the password that was typed.
#[derive(Default)]
pub struct Filled {
    pub error: Option<&'static str>,
}

pub struct Words {
    pub heading: &'static str,
    pub lead: &'static str,
    pub organization: &'static str,
    pub name: &'static str,
    pub address: &'static str,
    pub password: &'static str,
    pub password_hint: &'static str,
    pub act: &'static str,
}

const CONFIRM_SV: Words = Words {
    heading: "Bekräfta din ansökan",
    lead: "Är det du som vill bli medlem? Bekräfta, så går ansökan vidare till någon som bestämmer.",
    organization: "Organisation",
    name: "Namn",
    address: "Din adress",
    password: "Lösenord",
    password_hint: "Minst 12 tecken. En mening går bra.",
    act: "Bekräfta",
};

const CONFIRM_EN: Words = Words {
    heading: "Confirm your request",
    lead: "Is it you who wants to join? Confirm, and the request goes to somebody who decides.",
    organization: "Organization",
    name: "Name",
    address: "Your address",
    password: "Password",
    password_hint: "At least 12 characters. A sentence is fine.",
    act: "Confirm",
};

pub const CHOOSE_SV: Words = Words {
    heading: "Välj ett lösenord",
    lead: "Du är medlem. Välj ett lösenord, så kan du logga in.",
    act: "Spara lösenordet",
    ..CONFIRM_SV
};

pub const CHOOSE_EN: Words = Words {
    heading: "Choose a password",
    lead: "You are a member. Choose a password, and you can sign in.",
    act: "Save the password",
    ..CONFIRM_EN
};

async fn show(State(state): State<ApiState>, Path(token): Path<String>, visitor: Visitor) -> Response {
    match look(&state, &token).await {
        Ok(Opened::Request { organization, request }) => confirm_form(visitor, &organization, &request),
        Ok(Opened::Password { organization, request }) => {
            password_form(StatusCode::OK, visitor, (&organization, &request), Filled::default())
        }
        Ok(Opened::Shut(why, known)) => shut(visitor, why, known),
        Err(problem) => sorry(visitor, &problem),
    }
}

async fn look(state: &ApiState, token: &str) -> Result<Opened, Problem> {
    match LinkToken::parse(token) {
        Ok(token) => Ok(doors::open(&state.app.db, &token, state.app.clock.now()).await?),
        Err(_) => Ok(Opened::Shut(Shut::Unknown, None)),
    }
}

async fn act(
    State(state): State<ApiState>,
    Path(token): Path<String>,
    visitor: Visitor,
    sent: Result<Form, Problem>,
) -> Response {
    let done = match sent {
        Ok(sent) => try_act(&state, &token, visitor, &sent).await,
        Err(problem) => Err(problem),
    };
    done.unwrap_or_else(|problem| sorry(visitor, &problem))
}

async fn try_act(state: &ApiState, token: &str, visitor: Visitor, sent: &Form) -> Result<Response, Problem> {
    let opened = look(state, token).await?;
    let Ok(token) = LinkToken::parse(token) else { return Ok(shut(visitor, Shut::Unknown, None)) };
    Ok(match opened {
        Opened::Shut(why, known) => shut(visitor, why, known),
        Opened::Request { .. } => match doors::confirm(&state.app, &token).await? {
            Opened::Shut(why, known) => shut(visitor, why, known),
            Opened::Request { organization, request } | Opened::Password { organization, request } => {
                confirmed(visitor, &organization, &request)
            }
        },
        Opened::Password { organization, request } => {
            let language = visitor.language(Some(request.language));
            let password = match Password::parse(sent.field("password")) {
                Ok(password) => password,
                Err(error) => {
                    let filled = Filled { error: Some(told(language, &error)) };
                    let about = (&*organization, &*request);
                    return Ok(password_form(StatusCode::UNPROCESSABLE_ENTITY, visitor, about, filled));
                }
            };
            let password = state.app.hash_password(password).await.map_err(Problem::internal)?;
            match doors::choose_password(&state.app, &token, &password).await? {
                Opened::Shut(why, known) => shut(visitor, why, known),
                _ => person::password_saved(language, &organization, &request.email),
            }
        }
    })
}

fn confirm_form(visitor: Visitor, organization: &Organization, request: &JoinRequest) -> Response {
    let language = visitor.language(Some(request.language));
    let words = if language == Language::Sv { &CONFIRM_SV } else { &CONFIRM_EN };
    form(StatusCode::OK, (language, words), (organization, request), None)
}

fn password_form(
    status: StatusCode,
    visitor: Visitor,
    about: (&Organization, &JoinRequest),
    filled: Filled,
) -> Response {
    let language = visitor.language(Some(about.1.language));
    let words = if language == Language::Sv { &CHOOSE_SV } else { &CHOOSE_EN };
    form(status, (language, words), about, Some(filled))
}

fn form(
    status: StatusCode,
    (language, words): (Language, &Words),
    (organization, request): (&Organization, &JoinRequest),
    form: Option<Filled>,
) -> Response {
    let frame = Frame { language, sender: organization.name.clone() };
    let page = StepPage { frame: &frame, words, name: request.name(), email: request.email.as_str(), form };
    person::page(status, &page)
}

fn confirmed(visitor: Visitor, organization: &Organization, request: &JoinRequest) -> Response {
    let language = visitor.language(Some(request.language));
    let (heading, said, close) = match language {
        Language::Sv => (
            "Tack, din ansökan är bekräftad",
            format!("Den ligger nu hos {}. Du får ett mejl när någon har bestämt.", organization.name),
            "Du kan stänga den här sidan.",
        ),
        Language::En => (
            "Thank you, your request is confirmed",
            format!("It is with {} now. You get a mail when somebody has decided.", organization.name),
            "You can close this page.",
        ),
    };
    let frame = Frame { language, sender: organization.name.clone() };
    let paragraphs = vec![said, close.to_owned()];
    person::notice(StatusCode::OK, &frame, &Notice { heading: heading.to_owned(), paragraphs, good: true })
}

/// Why the link opens nothing, each reason in its own words, and nothing beyond it.
fn shut(visitor: Visitor, why: Shut, known: Option<(String, Language)>) -> Response {
    let language = visitor.language(known.as_ref().map(|(_, language)| *language));
    let (status, heading, paragraph) = match (why, language) {
        (Shut::Unknown, Language::Sv) => (
            StatusCode::NOT_FOUND,
            "Länken gäller inte",
            "Kontrollera att hela adressen kom med. Har du fått flera mejl är det länken i det senaste som gäller, och en \
             länk kan bara användas en gång.",
        ),
        (Shut::Unknown, Language::En) => (
            StatusCode::NOT_FOUND,
            "This link is not valid",
            "Check that you have the whole address. If you got several mails, the link in the latest one is valid, and a \
             link can be used once only.",
        ),
        (Shut::Used, Language::Sv) => (
            StatusCode::GONE,
            "Ansökan är redan bekräftad",
            "Den här länken har använts. Du behöver inte göra något mer.",
        ),
        (Shut::Used, Language::En) => (
            StatusCode::GONE,
            "The request is confirmed already",
            "This link was used. There is nothing more for you to do.",
        ),
        (Shut::HasPassword, Language::Sv) => (
            StatusCode::GONE,
            "Du har redan ett lösenord",
            "Inget har ändrats. Logga in med lösenordet som du valde tidigare.",
        ),
        (Shut::HasPassword, Language::En) => (
            StatusCode::GONE,
            "You have a password already",
            "Nothing was changed. Sign in with the password that you chose before.",
        ),
        (Shut::Expired, Language::Sv) => {
            (StatusCode::GONE, "Länken har gått ut", "Ansök igen, så får du en ny, eller fråga organisationen.")
        }
        (Shut::Expired, Language::En) => {
            (StatusCode::GONE, "The link has expired", "Ask to join again to get a new one, or ask the organization.")
        }
        (Shut::Held, Language::Sv) => {
            (StatusCode::FORBIDDEN, "Det går inte just nu", "Organisationens konto är vilande. Försök igen senare.")
        }
        (Shut::Held, Language::En) => {
            (StatusCode::FORBIDDEN, "Not at the moment", "The organization's account is suspended. Try again later.")
        }
    };
    let sender = known.map_or_else(|| "Backroom".to_owned(), |(name, _)| name);
    let notice = Notice { heading: heading.to_owned(), paragraphs: vec![paragraph.to_owned()], good: false };
    person::notice(status, &Frame { language, sender }, &notice)
}
