//! The page behind the link that is mailed to who has forgotten their password (AUTH-5). GET shows, POST sets another.

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
    join_request_page::{CHOOSE_EN, CHOOSE_SV, Filled, StepPage, Words},
    person::{self, Form, Frame, Notice, Visitor, sorry, told},
    problem::Problem,
};
use crate::{
    domain::{Language, LinkToken, Organization, Password, User},
    jobs::membership::{self as doors, Reset, ResetShut},
};

pub fn routes(state: &ApiState) -> Router<ApiState> {
    Router::new()
        .route("/password-resets/{token}", get(show).post(act))
        .layer(DefaultBodyLimit::max(person::MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(state.clone(), person::limit_strangers))
}

const SV: Words = Words {
    heading: "Välj ett nytt lösenord",
    lead: "Det ersätter det gamla. Du loggas ut överallt där du är inloggad.",
    ..CHOOSE_SV
};

const EN: Words = Words {
    heading: "Choose a new password",
    lead: "It replaces the old one. You are signed out wherever you are signed in.",
    ..CHOOSE_EN
};

async fn show(State(state): State<ApiState>, Path(token): Path<String>, visitor: Visitor) -> Response {
    match look(&state, &token).await {
        Ok(Reset::Open { organization, user }) => {
            form(StatusCode::OK, visitor, (&organization, &user), Filled::default())
        }
        Ok(Reset::Shut(why, known)) => shut(visitor, why, known),
        Err(problem) => sorry(visitor, &problem),
    }
}

async fn look(state: &ApiState, token: &str) -> Result<Reset, Problem> {
    match LinkToken::parse(token) {
        Ok(token) => Ok(doors::open_reset(&state.app.db, &token, state.app.clock.now()).await?),
        Err(_) => Ok(Reset::Shut(ResetShut::Unknown, None)),
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
    let (organization, user) = match look(state, token).await? {
        Reset::Open { organization, user } => (organization, user),
        Reset::Shut(why, known) => return Ok(shut(visitor, why, known)),
    };
    let Ok(token) = LinkToken::parse(token) else { return Ok(shut(visitor, ResetShut::Unknown, None)) };
    let password = match Password::parse(sent.field("password")) {
        Ok(password) => password,
        Err(error) => {
            let filled = Filled { error: Some(told(visitor.language(Some(user.language)), &error)) };
            return Ok(form(StatusCode::UNPROCESSABLE_ENTITY, visitor, (&organization, &user), filled));
        }
    };
    // A password is hashed for a good token only, so that nobody else can make us work.
    let password = state.app.hash_password(password).await.map_err(Problem::internal)?;
    Ok(match doors::reset_password(&state.app, &token, &password).await? {
        Reset::Open { organization, user } => {
            state.keys.forget_person(user.id);
            person::password_saved(visitor.language(Some(user.language)), &organization, &user.email)
        }
        Reset::Shut(why, known) => shut(visitor, why, known),
    })
}

fn form(
    status: StatusCode,
    visitor: Visitor,
    (organization, user): (&Organization, &User),
    filled: Filled,
) -> Response {
    let language = visitor.language(Some(user.language));
    let frame = Frame { language, sender: organization.name.clone() };
    let page = StepPage {
        frame: &frame,
        words: if language == Language::Sv { &SV } else { &EN },
        name: user.name.clone(),
        email: user.email.as_str(),
        form: Some(filled),
    };
    person::page(status, &page)
}

/// Why the link sets no password, each reason in its own words, and nothing beyond it.
fn shut(visitor: Visitor, why: ResetShut, known: Option<(String, Language)>) -> Response {
    let language = visitor.language(known.as_ref().map(|(_, language)| *language));
    let (status, heading, paragraph) = match (why, language) {
        (ResetShut::Unknown, Language::Sv) => (
            StatusCode::NOT_FOUND,
            "Länken gäller inte",
            "Kontrollera att hela adressen kom med. Har du fått flera mejl är det länken i det senaste som gäller.",
        ),
        (ResetShut::Unknown, Language::En) => (
            StatusCode::NOT_FOUND,
            "This link is not valid",
            "Check that you have the whole address. If you got several mails, the link in the latest one is valid.",
        ),
        (ResetShut::Used, Language::Sv) => (
            StatusCode::GONE,
            "Länken har använts",
            "Logga in med lösenordet som valdes då. Var det inte du, eller har du glömt det: begär en ny länk.",
        ),
        (ResetShut::Used, Language::En) => (
            StatusCode::GONE,
            "The link was used",
            "Sign in with the password that was chosen then. If it was not you, or you forgot it, ask for a new link.",
        ),
        (ResetShut::Expired, Language::Sv) => {
            (StatusCode::GONE, "Länken har gått ut", "Den gällde i en timme. Begär en ny.")
        }
        (ResetShut::Expired, Language::En) => {
            (StatusCode::GONE, "The link has expired", "It was valid for an hour. Ask for a new one.")
        }
    };
    let sender = known.map_or_else(|| "Backroom".to_owned(), |(name, _)| name);
    let notice = Notice { heading: heading.to_owned(), paragraphs: vec![paragraph.to_owned()], good: false };
    person::notice(status, &Frame { language, sender }, &notice)
}
