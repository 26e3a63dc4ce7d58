//! What a person sees in a browser besides the API's page: the welcome page, what a problem type means, and the
//! development mailbox (MAIL-4).

use std::net::SocketAddr;

use askama::Template;
use axum::{
    Extension, Router,
    extract::{ConnectInfo, Path, Request, State},
    middleware::{self, Next},
    response::{Html, Response},
    routing::get,
};

use super::{
    ApiState,
    problem::{Problem, ProblemType},
};
use crate::mail::mailbox::{Mailbox, pages};

/// The mailbox shows this many messages, newest first.
const MAILBOX_PAGE: usize = 500;

pub fn routes(mailbox: Option<Mailbox>, state: &ApiState) -> Router<ApiState> {
    let router = Router::new().route("/", get(welcome)).route("/problems/{name}", get(problem_type));
    match mailbox {
        Some(mailbox) => router.merge(
            mailbox_routes(mailbox).layer(middleware::from_fn_with_state(state.clone(), only_from_this_machine)),
        ),
        None => router,
    }
}

#[derive(Template)]
#[template(path = "http/welcome.html")]
struct Welcome {
    environment: String,
    public_url: String,
    mailbox: bool,
}

async fn welcome(State(state): State<ApiState>) -> Result<Html<String>, Problem> {
    let config = &state.app.config;
    let page = Welcome {
        environment: config.environment.to_string(),
        public_url: config.http.public_url.clone(),
        mailbox: state.has_mailbox,
    };
    page.render().map(Html).map_err(Problem::internal)
}

#[derive(Template)]
#[template(path = "http/problem.html")]
struct ProblemPage {
    kind: ProblemType,
}

async fn problem_type(Path(name): Path<String>) -> Result<Html<String>, Problem> {
    let kind = ProblemType::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = kind.ok_or_else(|| Problem::new(ProblemType::NotFound, "there is no problem type of this name"))?;
    ProblemPage { kind }.render().map(Html).map_err(Problem::internal)
}

/// The mailbox shows everybody's mail. Where the API can be reached from elsewhere, it is for this machine only.
async fn only_from_this_machine(
    State(state): State<ApiState>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let is_local = |address: SocketAddr| address.ip().to_canonical().is_loopback();
    if is_local(state.app.config.http.listen) || peer.is_some_and(|Extension(ConnectInfo(peer))| is_local(peer)) {
        return Ok(next.run(request).await);
    }
    let detail = "the mailbox shows everybody's mail, so it answers to the machine it runs on only";
    Err(Problem::new(ProblemType::Forbidden, detail))
}

fn mailbox_routes(mailbox: Mailbox) -> Router<ApiState> {
    let list = {
        let mailbox = mailbox.clone();
        move || async move { Html(pages::list(mailbox.len(), &mailbox.list(MAILBOX_PAGE))) }
    };
    let message = move |Path(id): Path<String>| async move {
        let message = id.parse().ok().and_then(|id| mailbox.get(id));
        message
            .map(|message| Html(pages::message(&message)))
            .ok_or_else(|| Problem::new(ProblemType::NotFound, "the mailbox has no message with this number"))
    };
    Router::new().route("/dev/mailbox", get(list)).route("/dev/mailbox/{id}", get(message))
}
