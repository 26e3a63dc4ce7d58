//! `backroom demo`: the whole platform in one process, on made-up customers, telling what it does.
//!
//! `stage` starts everything, `cast` fills the database, each act is a file (`overdue`, `together`,
//! `connected`) that ends with checks of what it told, and `screen` is how it looks.

mod api;
mod cast;
mod checks;
mod connected;
mod overdue;
mod people;
mod screen;
mod stage;
mod together;
pub mod vendors;

use std::{fs::File, path::Path, process::ExitCode, sync::Mutex, time::Instant};

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use self::{api::Api, cast::Cast, screen::Screen, stage::Stage};
use crate::{domain::Scope, store::api_keys, telemetry, tenant};

/// Where the log goes: the screen is for the story.
const LOG: &str = ".backroom/demo.log";

/// Tells the story. With `once` it ends there: successfully, if everything came out as told. Otherwise the platform stays
/// up until Ctrl-C.
pub async fn run(once: bool) -> anyhow::Result<ExitCode> {
    let config = stage::config()?;
    let logged = log_to_file();
    telemetry::init_metrics();
    let screen = Screen::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopped = async {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
    };
    tokio::pin!(stopped);

    screen.title("Backroom", "the back office of B2B companies, as jobs on PostgreSQL");
    let mut stage = tokio::select! {
        stage = Stage::open(config) => stage?,
        () = &mut stopped => return Ok(ExitCode::from(130)),
    };
    let told = tokio::select! {
        told = story(&mut stage, screen, once) => told,
        () = &mut stopped => {
            stage.close().await;
            return Ok(ExitCode::from(130));
        }
    };
    let came_out = match told {
        Ok(came_out) => came_out,
        Err(error) => {
            stage.close().await;
            return Err(error.context(match logged {
                true => format!("the story broke off; {LOG} has the log"),
                false => "the story broke off".to_owned(),
            }));
        }
    };
    screen.gap();
    if logged {
        screen.say(&format!("The log of all this is in `{LOG}`."));
    }
    if !once {
        screen.say("Ctrl-C ends the demo.");
        tokio::select! {
            failure = stage.failure() => return Err(failure),
            () = &mut stopped => screen.gap(),
        }
    }
    stage.close().await;
    Ok(if came_out { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// All acts, and what to do next. Answers whether everything came out as told.
async fn story(stage: &mut Stage, screen: Screen, once: bool) -> anyhow::Result<bool> {
    let began = Instant::now();
    let cast = {
        let _waiting = screen.waiting("an organization, its customers and their invoices are made up");
        cast::assemble(&stage.app).await?
    };
    let queues = stage.work(&cast.organization)?;
    let api = key(stage, &cast).await?;
    set_the_scene(stage, screen, &cast, &api, &queues).await?;
    let act = overdue::Act { stage, cast: &cast, api: &api, screen };
    let came_out = overdue::play(&act).await? & together::play(&act).await?;
    let guests = connected::Guests::arrive(&act).await?;
    let came_out = came_out & connected::play(&act, &guests).await?;
    stage.guests = Some(guests);
    stage.let_the_clock_tick();
    screen.gap();
    screen.check(
        came_out,
        &match came_out {
            true => format!("Everything came out as told, in {:.1} seconds.", began.elapsed().as_secs_f32()),
            false => "Something did not come out as told; see the crosses above.".to_owned(),
        },
    );
    look_around(screen, &api, once);
    Ok(came_out)
}

async fn set_the_scene(stage: &Stage, screen: Screen, cast: &Cast, api: &Api, queues: &[String]) -> anyhow::Result<()> {
    screen.step("The stage");
    screen.fact("database", &format!("{}, migrated", stage.database));
    screen.fact("mail server", &format!("{}, keeps what it is given", stage.mailbox.url()));
    let moved = match stage.as_configured {
        true => String::new(),
        false => format!(" ({} is taken by another program)", stage.app.config.http.listen),
    };
    screen.fact("API", &format!("{}{moved}", api.url("")));
    screen.fact("worker", &format!("queues {}", queues.join(", ")));
    let organization = &cast.organization;
    screen.fact("scheduler", &format!("sweeps every day at 09:00, {}", organization.time_zone));
    screen.fact(
        "organization",
        &format!(
            "`{}` ({}), {}: {} companies, {} invoices",
            organization.slug.as_str(),
            organization.tier.as_str(),
            organization.name,
            cast.companies,
            cast.invoices
        ),
    );
    screen.fact("sealed", &sealed(stage, cast, api).await?);
    Ok(())
}

/// One company's phone as the table has it and as the API answers it.
async fn sealed(stage: &Stage, cast: &Cast, api: &Api) -> anyhow::Result<String> {
    let mut tx = tenant::begin(&stage.app.db, &cast.organization).await?;
    let stored: Vec<u8> =
        sqlx::query_scalar("select phone from companies where id = $1").bind(cast.sealed).fetch_one(&mut *tx).await?;
    tx.commit().await?;
    let company = api.get(&format!("/api/v1/companies/{}", cast.sealed)).await?;
    let opened = company["phone"].as_str().context("the API answered a company without its phone")?;
    let end: String = stored.iter().skip(stored.len().saturating_sub(4)).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("a phone is {} bytes in the table, …{end}; the API opens it: {opened}", stored.len()))
}

/// A key of the demo's organization, as `backroom api-key create` makes it.
async fn key(stage: &Stage, cast: &Cast) -> anyhow::Result<Api> {
    let scopes: Vec<String> = Scope::ALL.iter().map(|scope| scope.as_str().to_owned()).collect();
    let now = stage.app.clock.now();
    let mut db = stage.app.db.acquire().await?;
    let (_, key) = api_keys::create(&mut db, &cast.organization, "demo", &scopes, now).await?;
    Ok(Api { address: stage.address, key })
}

fn look_around(screen: Screen, api: &Api, once: bool) {
    screen.step(if once { "Without --once, this stays up to look around in" } else { "Look around" });
    screen.fact("the mailbox", &api.url("/dev/mailbox"));
    screen.fact("the API's page", &api.url("/docs"));
    screen.fact("metrics", &api.url("/metrics"));
    screen.gap();
    screen.say("Enqueue a job by hand (a GET of the same address lists jobs):");
    screen.code(&format!(
        "curl {} \\\n  -H 'Authorization: Bearer {}' \\\n  -H 'Content-Type: application/json' \\\n  \
         -d '{{\"kind\":\"billing.sweep_overdue\"}}'",
        api.url("/api/v1/jobs"),
        api.key.expose_secret()
    ));
}

/// Warnings and worse go to [`LOG`] below the working directory. False if that cannot be written; the demo goes on without.
fn log_to_file() -> bool {
    let open = || {
        std::fs::create_dir_all(Path::new(LOG).parent().unwrap_or(Path::new(".")))?;
        File::create(LOG)
    };
    let Ok(file) = open() else { return false };
    let log = tracing_subscriber::fmt().with_env_filter(EnvFilter::new("info,sqlx=warn,apalis=warn"));
    log.with_ansi(false).with_writer(Mutex::new(file)).try_init().is_ok()
}
