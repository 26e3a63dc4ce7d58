//! The page behind the link in an invitation's mail (WORK-5). GET shows, POST accepts.

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
    domain::{Language, LinkToken, Password, user},
    jobs::workspaces::{self as doors, Accepted, Invited, NewPerson, Opened, Shut},
};

pub fn routes(state: &ApiState) -> Router<ApiState> {
    Router::new()
        .route("/invitations/{token}", get(show).post(accept))
        .layer(DefaultBodyLimit::max(person::MAX_FORM_BYTES))
        .layer(middleware::from_fn_with_state(state.clone(), person::limit_strangers))
}

#[derive(Template)]
#[template(path = "http/invitation.html")]
struct InvitationPage<'a> {
    frame: &'a Frame,
    words: &'a Words,
    workspace: &'a str,
    inviter: &'a str,
    email: &'a str,
    expires: String,
    /// For who chooses a password.
    form: Option<&'a Filled>,
}

/// What somebody who chooses a password typed.
#[derive(Default)]
struct Filled {
    /// There is no account, so there is a name to be given.
    new: bool,
    name: String,
    name_error: Option<&'static str>,
    password_error: Option<&'static str>,
}

impl Filled {
    fn empty(invited: &Invited) -> Self {
        Self { new: invited.account.is_none(), ..Self::default() }
    }
}

struct Words {
    heading: &'static str,
    lead: &'static str,
    workspace: &'static str,
    inviter: &'static str,
    address: &'static str,
    expires: &'static str,
    no_account: &'static str,
    no_password: &'static str,
    name: &'static str,
    password: &'static str,
    password_hint: &'static str,
    accept: &'static str,
}

const SV: Words = Words {
    heading: "Du är inbjuden",
    lead: "Tacka ja för att komma in i arbetsytan.",
    workspace: "Arbetsyta",
    inviter: "Inbjuden av",
    address: "Din adress",
    expires: "Gäller till",
    no_account: "Du har inget konto än. Ange ditt namn och välj ett lösenord, så skapas det.",
    no_password: "Ditt konto behöver ett lösenord som bara du känner till. Välj ett. Det ersätter ett som någon annan kan ha satt.",
    name: "Namn",
    password: "Lösenord",
    password_hint: "Minst 12 tecken. En mening går bra.",
    accept: "Tacka ja",
};

const EN: Words = Words {
    heading: "You are invited",
    lead: "Accept to get into the workspace.",
    workspace: "Workspace",
    inviter: "Invited by",
    address: "Your address",
    expires: "Valid until",
    no_account: "You have no account yet. Give your name and choose a password, and you get one.",
    no_password: "Your account needs a password that only you know. Choose one. It replaces any that somebody else may have set.",
    name: "Name",
    password: "Password",
    password_hint: "At least 12 characters. A sentence is fine.",
    accept: "Accept",
};

async fn show(State(state): State<ApiState>, Path(token): Path<String>, visitor: Visitor) -> Response {
    match look(&state, &token).await {
        Ok(Opened::Invited(invited)) => form(StatusCode::OK, visitor, &invited, &Filled::empty(&invited)),
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

async fn accept(
    State(state): State<ApiState>,
    Path(token): Path<String>,
    visitor: Visitor,
    sent: Result<Form, Problem>,
) -> Response {
    let accepted = match sent {
        Ok(sent) => try_accept(&state, &token, visitor, &sent).await,
        Err(problem) => Err(problem),
    };
    accepted.unwrap_or_else(|problem| sorry(visitor, &problem))
}

async fn try_accept(state: &ApiState, token: &str, visitor: Visitor, sent: &Form) -> Result<Response, Problem> {
    let invited = match look(state, token).await? {
        Opened::Invited(invited) => invited,
        Opened::Shut(why, known) => return Ok(shut(visitor, why, known)),
    };
    let Ok(token) = LinkToken::parse(token) else { return Ok(shut(visitor, Shut::Unknown, None)) };
    // A password is hashed for a good token only, so that nobody else can make us work.
    let person = match invited.needs_password {
        false => None,
        true => match new_person(state, sent, &invited, visitor).await? {
            Ok(person) => Some(person),
            Err(filled) => return Ok(form(StatusCode::UNPROCESSABLE_ENTITY, visitor, &invited, &filled)),
        },
    };
    let accepted = doors::accept(&state.app, &token, person).await?;
    // Sign-ins of whoever set a password before have ended.
    if let Accepted::Joined(invited) | Accepted::WasMember(invited) = &accepted
        && let Some(account) = &invited.account
    {
        state.keys.forget_person(account.id);
    }
    Ok(match accepted {
        Accepted::Joined(invited) => welcome(visitor, &invited, false),
        Accepted::WasMember(invited) => welcome(visitor, &invited, true),
        // The account changed between the look and the deed.
        Accepted::NeedsPassword(invited) => form(StatusCode::OK, visitor, &invited, &Filled::empty(&invited)),
        Accepted::Shut(why, known) => shut(visitor, why, known),
    })
}

/// What is typed into the form, checked, its password hashed; or the form with what is wrong.
async fn new_person(
    state: &ApiState,
    sent: &Form,
    invited: &Invited,
    visitor: Visitor,
) -> Result<Result<NewPerson, Filled>, Problem> {
    let language = visitor.language(Some(invited.invitation.language));
    let (name, name_error) = match &invited.account {
        Some(account) => (account.name.clone(), None),
        None => {
            let name = sent.field("name").trim().to_owned();
            let error = user::check_name(&name).err();
            (name, error)
        }
    };
    match (Password::parse(sent.field("password")), name_error) {
        (Ok(password), None) => {
            let password = state.app.hash_password(password).await.map_err(Problem::internal)?;
            Ok(Ok(NewPerson { name, password }))
        }
        (password, name_error) => Ok(Err(Filled {
            new: invited.account.is_none(),
            name_error: name_error.map(|error| told(language, &error)),
            password_error: password.err().map(|error| told(language, &error)),
            name,
        })),
    }
}

fn form(status: StatusCode, visitor: Visitor, invited: &Invited, filled: &Filled) -> Response {
    let Invited { organization, workspace, invitation, inviter, needs_password, .. } = invited;
    let language = visitor.language(Some(invitation.language));
    let frame = Frame { language, sender: organization.name.clone() };
    let local = invitation.expires_at.with_timezone(&organization.time_zone);
    let page = InvitationPage {
        frame: &frame,
        words: if language == Language::Sv { &SV } else { &EN },
        workspace: workspace.name.as_str(),
        inviter: inviter.as_ref().map_or(organization.name.as_str(), |inviter| inviter.name.as_str()),
        email: invitation.email.as_str(),
        expires: local.format("%Y-%m-%d %H:%M").to_string(),
        form: needs_password.then_some(filled),
    };
    person::page(status, &page)
}

fn welcome(visitor: Visitor, invited: &Invited, was_member: bool) -> Response {
    let language = visitor.language(Some(invited.invitation.language));
    let frame = Frame { language, sender: invited.organization.name.clone() };
    let (workspace, email) = (&invited.workspace.name.as_str(), &invited.invitation.email);
    let (heading, paragraphs) = match (language, was_member) {
        (Language::Sv, false) => (
            format!("Välkommen till {workspace}"),
            vec![format!("Du är med nu. Logga in som {email} för att komma dit."), close(language)],
        ),
        (Language::En, false) => (
            format!("Welcome to {workspace}"),
            vec![format!("You are in. Sign in as {email} to get there."), close(language)],
        ),
        (Language::Sv, true) => (
            format!("Du är redan med i {workspace}"),
            vec![format!("{email} var medlem sedan tidigare, så inget har ändrats."), close(language)],
        ),
        (Language::En, true) => (
            format!("You are in {workspace} already"),
            vec![format!("{email} was a member before, so nothing has changed."), close(language)],
        ),
    };
    person::notice(StatusCode::OK, &frame, &Notice { heading, paragraphs, good: true })
}

fn close(language: Language) -> String {
    match language {
        Language::Sv => "Du kan stänga den här sidan.".to_owned(),
        Language::En => "You can close this page.".to_owned(),
    }
}

/// Why the link opens nothing, each reason in its own words.
fn shut(visitor: Visitor, why: Shut, known: Option<(String, Language)>) -> Response {
    let language = visitor.language(known.as_ref().map(|(_, language)| *language));
    let (status, heading, paragraph) = match (why, language) {
        (Shut::Unknown, Language::Sv) => (
            StatusCode::NOT_FOUND,
            "Länken gäller inte",
            "Kontrollera att hela adressen kom med. Har du fått flera mejl är det länken i det senaste som gäller.",
        ),
        (Shut::Unknown, Language::En) => (
            StatusCode::NOT_FOUND,
            "This link is not valid",
            "Check that you have the whole address. If you got several mails, the link in the latest one is valid.",
        ),
        (Shut::Accepted, Language::Sv) => (
            StatusCode::GONE,
            "Inbjudan är redan använd",
            "Någon har tackat ja med den här länken. Var det du är du redan med: logga in som vanligt.",
        ),
        (Shut::Accepted, Language::En) => (
            StatusCode::GONE,
            "The invitation was used already",
            "Somebody has accepted with this link. If it was you, you are in: sign in as usual.",
        ),
        (Shut::Revoked, Language::Sv) => (
            StatusCode::GONE,
            "Inbjudan har dragits tillbaka",
            "Fråga den som bjöd in dig om du tror att det är ett misstag.",
        ),
        (Shut::Revoked, Language::En) => (
            StatusCode::GONE,
            "The invitation was withdrawn",
            "Ask the person who invited you if you think that this is a mistake.",
        ),
        (Shut::Expired, Language::Sv) => (
            StatusCode::GONE,
            "Inbjudan har gått ut",
            "Den gällde i sju dagar. Be den som bjöd in dig att skicka den igen.",
        ),
        (Shut::Expired, Language::En) => (
            StatusCode::GONE,
            "The invitation has expired",
            "It was valid for seven days. Ask the person who invited you to send it again.",
        ),
        (Shut::Held, Language::Sv) => (
            StatusCode::FORBIDDEN,
            "Det går inte just nu",
            "Organisationens konto är vilande. Fråga den som bjöd in dig, eller försök igen senare.",
        ),
        (Shut::Held, Language::En) => (
            StatusCode::FORBIDDEN,
            "Not at the moment",
            "The organization's account is suspended. Ask the person who invited you, or try again later.",
        ),
        (Shut::Removed, Language::Sv) => (
            StatusCode::FORBIDDEN,
            "Du behöver en administratör",
            "Din plats i organisationen har avslutats. Be en av dess administratörer att släppa in dig igen.",
        ),
        (Shut::Removed, Language::En) => (
            StatusCode::FORBIDDEN,
            "You need an administrator",
            "Your place in the organization was ended. Ask one of its administrators to let you in again.",
        ),
    };
    let sender = known.map_or_else(|| "Backroom".to_owned(), |(name, _)| name);
    let notice = Notice { heading: heading.to_owned(), paragraphs: vec![paragraph.to_owned()], good: false };
    person::notice(status, &Frame { language, sender }, &notice)
}
