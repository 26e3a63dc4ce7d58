//! `backroom user …`: people who sign in (AUTH-1).

use std::{io::Read, process::ExitCode};

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Subcommand;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use super::{
    exit::{not_found, usage},
    output::{Output, cell, maybe, more, next_cursor, page, time},
    session::Session,
};
use crate::{
    domain::{EmailAddress, Language, NewUser, Password, PasswordHash, Role, User as Person, user::check_name},
    store::{
        memberships::{self, Membership},
        users,
    },
    tenant,
};

#[derive(Subcommand)]
pub enum User {
    /// Give a person an account and a role; a generated password is shown this once
    #[command(
        after_help = "Who has an account already keeps it, with its name and password, and is added with the role. If nobody has\n\
        shown so far that the address is theirs, it gets the new password all the same; who is a member then keeps role and company.\n\n\
        Example:\n  backroom user create anna@acme.example --org acme --name 'Anna Ek' --role admin"
    )]
    Create(Create),
    /// Give somebody who cannot get in another password, shown this once; their sign-ins end
    #[command(after_help = "Whoever runs this vouches that the address is the person's.\n\n\
        Example:\n  backroom user password anna@acme.example")]
    Password {
        /// Address that the person signs in with
        email: EmailAddress,
    },
    /// List an organization's people, in the order of their ids
    #[command(after_help = "Example:\n  backroom user list --org acme --role admin")]
    List {
        /// Slug of the organization
        #[arg(long)]
        org: String,
        /// Only those with this role
        #[arg(long)]
        role: Option<Role>,
        /// Rows at most
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=1000))]
        limit: i64,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<Uuid>,
    },
}

#[derive(clap::Args)]
pub struct Create {
    /// Address that the person signs in with
    email: EmailAddress,
    /// Slug of the organization
    #[arg(long)]
    org: String,
    /// Name as people write it
    #[arg(long)]
    name: String,
    /// admin, developer, user or customer
    #[arg(long, default_value = "user")]
    role: Role,
    /// Id of a customer's company, from `company list`
    #[arg(long, value_name = "ID")]
    company: Option<Uuid>,
    /// sv or en; the organization's if left out
    #[arg(long)]
    language: Option<Language>,
    /// Read the password from standard input instead of making one up
    #[arg(long)]
    password_stdin: bool,
}

pub async fn run(session: &Session, command: User, output: Output) -> anyhow::Result<ExitCode> {
    match command {
        User::Create(new) => create(session, new, output).await?,
        User::Password { email } => password(session, &email, output).await?,
        User::List { org, role, limit, cursor } => {
            let organization = session.organization(&org).await?;
            let mut db = session.connection().await?;
            let rows = memberships::page(&mut db, organization.id, role, cursor, limit).await?;
            let next = next_cursor(&rows, limit, |(member, _)| member.user_id);
            let documents: Vec<_> = rows.iter().map(|(member, person)| document(member, person)).collect();
            output.answer(&page("users", &documents, next), || {
                let table = rows.iter().map(|(member, person)| {
                    [
                        cell(person.id),
                        cell(&person.email),
                        cell(&person.name),
                        cell(member.role),
                        maybe(member.company_id),
                        cell(time(member.created_at)),
                    ]
                });
                let header = ["id", "e-mail", "name", "role", "company", "since"];
                output.table(
                    header,
                    table.collect(),
                    &format!("{org} has no such people; add one with `backroom user create`"),
                ) + &more(next)
            })?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn document(member: &Membership, person: &Person) -> serde_json::Value {
    serde_json::json!({
        "id": person.id, "email": person.email, "name": person.name, "language": person.language, "role": member.role,
        "company_id": member.company_id, "joined_at": member.created_at,
    })
}

async fn create(session: &Session, new: Create, output: Output) -> anyhow::Result<()> {
    check_name(&new.name).map_err(|error| usage(format!("the name {error}")))?;
    let organization = session.organization(&new.org).await?;
    let generated = !new.password_stdin;
    let password = if generated { made_up() } else { from_stdin()? };
    let hash = hashed(session, &password).await?;
    let now = session.clock.now();
    let mut tx = session.db.begin().await?;
    let found = users::by_email(&mut tx, &new.email).await?;
    let known = found.is_some();
    // Whoever runs this vouches for the address. If nobody did so before, the account's password may be anybody's.
    let place = (new.role, new.company);
    let (tx, person, membership, has_new_password) = match found {
        Some(person) => {
            let (account, told) = ((person.id, &hash), ("operator", now));
            let (tx, membership, first) = tenant::vouch(tx, &organization, account, place, told).await?;
            (tx, person, membership, first)
        }
        None => {
            let language = new.language.unwrap_or(organization.locale);
            let (email, name) = (new.email, new.name);
            let account = NewUser { email, name, language, password: Some(hash), confirmed_at: Some(now) };
            let person = users::create(&mut tx, &account, now).await?;
            let tx = tenant::join(tx, &organization, person.id, place, ("operator", now)).await?;
            let (organization_id, user_id) = (organization.id, person.id);
            let (role, company_id) = place;
            let membership = Membership { organization_id, user_id, role, company_id, created_at: now };
            (tx, person, membership, true)
        }
    };
    tx.commit().await?;

    let mut answer = document(&membership, &person);
    answer["created"] = (!known).into();
    let shown = generated && has_new_password;
    if shown {
        answer["password"] = password.expose_secret().into();
    }
    output.answer(&answer, || {
        let who = format!("{} is {} of {}.", person.email, membership.role, new.org);
        if shown {
            format!("{}\n{who} This is the password; it is not shown again.", password.expose_secret())
        } else if !has_new_password {
            format!("{who} The account was there already, with its own password.")
        } else {
            who
        }
    })
}

async fn password(session: &Session, email: &EmailAddress, output: Output) -> anyhow::Result<()> {
    let unknown =
        || not_found(format!("nobody has the address {email}; `backroom user list` shows an organization's people"));
    let person = users::by_email(&mut *session.connection().await?, email).await?.ok_or_else(unknown)?;
    let password = made_up();
    let hash = hashed(session, &password).await?;
    let mut tx = session.db.begin().await?;
    let ended = tenant::reset_password(&mut tx, person.id, &hash, session.clock.now()).await?;
    tx.commit().await?;
    let answer = serde_json::json!({
        "id": person.id, "email": person.email, "password": password.expose_secret(), "sessions_ended": ended,
    });
    output.answer(&answer, || {
        let told = format!("This is the password of {}; it is not shown again.", person.email);
        format!("{}\n{told} Sign-ins ended: {ended}.", password.expose_secret())
    })
}

async fn hashed(session: &Session, password: &SecretString) -> anyhow::Result<PasswordHash> {
    let password = Password::parse(password.expose_secret()).map_err(|error| usage(format!("the password {error}")))?;
    session.app()?.hash_password(password).await
}

/// 144 random bits.
fn made_up() -> SecretString {
    SecretString::from(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>()))
}

fn from_stdin() -> anyhow::Result<SecretString> {
    let mut text = String::new();
    std::io::stdin()
        .take(4_096)
        .read_to_string(&mut text)
        .context("could not read the password from standard input")?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}
