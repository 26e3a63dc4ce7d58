//! Who is calling: a program by its organization's API key (AUTH-3), a person by an access token (AUTH-2), or the operator by the
//! token of the configuration. What they may do says [`crate::domain::policy`]; a handler names the action by the extractor it takes:
//!
//! | extractor | who gets through |
//! | --- | --- |
//! | [`May<P>`] | a key with the scope, or a person whom the policy gives all of the organization's records |
//! | [`OfCompany<P>`] | the same, and a customer; the handler keeps to [`OfCompany::company`] |
//! | [`OfSteps<P>`] | as [`May<P>`], and who has steps of their own; whose a step is, [`Workflow::act`](crate::domain::Workflow::act) asks |
//! | [`Person<P>`] | a person whom the policy gives any records; the handler asks which, such as whose workspace it is |
//! | [`SignedIn`] | any person |
//! | [`Within<P>`] | as [`May<P>`], or the operator |
//! | [`Operator`] | the operator |

mod identity;

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use axum::{
    extract::{FromRequestParts, Request},
    http::request::Parts,
};
use uuid::Uuid;

pub use self::identity::{KnownKeys, identify, named_organization};
use super::{
    ApiState,
    problem::{Problem, ProblemType},
};
use crate::domain::{Action, Organization, Reach, Role, Scope, policy};

/// Who acts for an organization: one of its programs or one of its people.
#[derive(Debug)]
pub struct Caller {
    pub organization: Organization,
    who: Who,
}

#[derive(Debug)]
enum Who {
    Key { id: Uuid, scopes: Vec<Scope> },
    Person(Box<Member>),
}

/// A signed-in person, in the organization that they signed in to.
#[derive(Clone, Debug)]
pub struct Member {
    pub organization: Organization,
    pub user_id: Uuid,
    pub role: Role,
    /// A customer's company; nobody else has one.
    pub company_id: Option<Uuid>,
    /// The sign-in.
    pub session: Uuid,
}

impl Member {
    /// The person as events name them.
    pub fn actor(&self) -> String {
        format!("user:{}", self.user_id)
    }
}

impl Caller {
    /// The caller as events name it.
    pub fn actor(&self) -> String {
        match &self.who {
            Who::Key { id, .. } => format!("api_key:{id}"),
            Who::Person(member) => member.actor(),
        }
    }

    /// The caller's partition of the queue.
    pub fn tenant(&self) -> &str {
        self.organization.slug.as_str()
    }

    /// Whether the caller may do all that a key with the scope may.
    pub fn has(&self, scope: Scope) -> bool {
        self.reach(scope.into()) == Reach::All
    }

    /// The person; `None`: a program.
    pub fn person(&self) -> Option<&Member> {
        match &self.who {
            Who::Key { .. } => None,
            Who::Person(member) => Some(member),
        }
    }

    /// The program's key; `None`: a person.
    pub fn key(&self) -> Option<Uuid> {
        match &self.who {
            Who::Key { id, .. } => Some(*id),
            Who::Person(_) => None,
        }
    }

    /// Whether the caller may see the field (AUTH-4). A key sees what its scope opens.
    pub fn may_see(&self, field: policy::Field) -> bool {
        self.person().is_none_or(|member| policy::may_see(member.role, field))
    }

    /// Whose records the action reaches.
    fn reach(&self, action: Action) -> Reach {
        match &self.who {
            Who::Key { scopes, .. } if action.scope().is_some_and(|scope| scopes.contains(&scope)) => Reach::All,
            Who::Key { .. } => Reach::Nothing,
            Who::Person(member) => policy::reach(member.role, action),
        }
    }

    /// Whose records the action reaches; refused if there are none, or if it writes and the organization is read-only (TEN-5).
    fn check(&self, action: Action) -> Result<Reach, Problem> {
        let reach = self.reach(action);
        if reach == Reach::Nothing {
            return Err(self.refused(action));
        }
        if action.writes() && self.organization.is_held() {
            let detail =
                format!("the organization is {}; it can be read only", self.organization.billing_status.as_str());
            return Err(Problem::new(ProblemType::OrganizationSuspended, detail));
        }
        Ok(reach)
    }

    fn refused(&self, action: Action) -> Problem {
        let detail = match &self.who {
            Who::Key { .. } if action.scope().is_some() => format!("the key lacks the scope {action}"),
            Who::Key { .. } => "this is for people who have signed in, not for keys".to_owned(),
            Who::Person(member) => format!("the role {} does not include {action}", member.role),
        };
        Problem::new(ProblemType::Forbidden, detail)
    }
}

/// An action as a type, so that a handler's signature says what it does.
pub trait Permission {
    const ACTION: Action;
}

macro_rules! permissions {
    ($($name:ident),* $(,)?) => {
        $(
            /// The action of the same name.
            pub struct $name;
            impl Permission for $name {
                const ACTION: Action = Action::$name;
            }
        )*
    };
}
permissions!(
    JobsRead,
    JobsWrite,
    BillingRead,
    BillingWrite,
    OrganizationRead,
    OrganizationWrite,
    MembersRead,
    MembersWrite,
    WorkspacesRead,
    WorkspacesWrite,
    ConversationsRead,
    ConversationsWrite,
    TasksRead,
    TasksWrite,
    RequestsRead,
    RequestsWrite,
    EventsRead,
    IntegrationsRead,
    IntegrationsWrite,
    PeopleRead,
    PeopleWrite,
    AssetsRead,
    AssetsWrite,
    WorkflowsRead,
    WorkflowsWrite,
    WorkflowsAdvance,
);

/// A caller that may do what the permission says with all of the organization's records.
pub struct May<P> {
    pub caller: Arc<Caller>,
    permission: PhantomData<P>,
}

impl<P> Deref for May<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for May<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        if caller.check(P::ACTION)? != Reach::All {
            return Err(caller.refused(P::ACTION));
        }
        Ok(Self { caller, permission: PhantomData })
    }
}

/// A caller that may do what the permission says with all of the organization's records, or with one company's.
pub struct OfCompany<P>(May<P>, Option<Uuid>);

impl<P> OfCompany<P> {
    /// The company whose records there are for this caller; `None`: all.
    pub fn company(&self) -> Option<Uuid> {
        self.1
    }

    /// Whether the company's records exist for this caller.
    pub fn sees(&self, company: Uuid) -> bool {
        self.1.is_none_or(|own| own == company)
    }
}

impl<P> Deref for OfCompany<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for OfCompany<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        let company = match caller.check(P::ACTION)? {
            Reach::All => None,
            // Without a company there would be no limit, so that is a refusal.
            Reach::OwnCompany => {
                let company = caller.person().and_then(|member| member.company_id);
                Some(company.ok_or_else(|| caller.refused(P::ACTION))?)
            }
            Reach::OwnWorkspaces | Reach::OwnSteps | Reach::Nothing => return Err(caller.refused(P::ACTION)),
        };
        Ok(Self(May { caller, permission: PhantomData }, company))
    }
}

/// A caller that may do what the permission says with all steps of the organization's workflows, or with their own: whose a step is,
/// its workflow says.
pub struct OfSteps<P>(May<P>);

impl<P> Deref for OfSteps<P> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.0
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for OfSteps<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        match caller.check(P::ACTION)? {
            Reach::All | Reach::OwnSteps => Ok(Self(May { caller, permission: PhantomData })),
            Reach::OwnCompany | Reach::OwnWorkspaces | Reach::Nothing => Err(caller.refused(P::ACTION)),
        }
    }
}

/// A signed-in person who may do what the permission says, with some records at least: whether a workspace is theirs, its rows
/// say.
pub struct Person<P> {
    caller: Arc<Caller>,
    member: Member,
    permission: PhantomData<P>,
}

impl<P> Person<P> {
    /// The person as a caller among others.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl<P> Deref for Person<P> {
    type Target = Member;

    fn deref(&self) -> &Member {
        &self.member
    }
}

impl<P: Permission, S: Send + Sync> FromRequestParts<S> for Person<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = caller_of(parts)?;
        let member = person_of(&caller)?;
        caller.check(P::ACTION)?;
        Ok(Self { caller, member, permission: PhantomData })
    }
}

/// Any signed-in person.
pub struct SignedIn(pub Member);

impl<S: Send + Sync> FromRequestParts<S> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        caller_of(parts).and_then(|caller| person_of(&caller)).map(Self)
    }
}

fn caller_of(parts: &Parts) -> Result<Arc<Caller>, Problem> {
    match parts.extensions.get::<Identity>() {
        Some(Identity::Caller(caller)) => Ok(caller.clone()),
        Some(Identity::Operator) => Err(Problem::new(
            ProblemType::Forbidden,
            "the operator's token opens no organization; use a key of the organization",
        )),
        Some(Identity::Refused(problem)) => Err((**problem).clone()),
        None => Err(unauthenticated("there is no `Authorization: Bearer KEY` header")),
    }
}

fn person_of(caller: &Caller) -> Result<Member, Problem> {
    let no_person = || Problem::new(ProblemType::Forbidden, "this is for people who have signed in, not for keys");
    caller.person().cloned().ok_or_else(no_person)
}

/// The operator of the installation.
pub struct Operator;

impl FromRequestParts<ApiState> for Operator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if state.app.config.http.operator_token.is_none() {
            let detail = "operator endpoints are closed here; set http.operator_token to open them";
            return Err(Problem::new(ProblemType::Forbidden, detail));
        }
        match parts.extensions.get::<Identity>() {
            Some(Identity::Operator) => Ok(Self),
            Some(Identity::Caller(_)) => Err(Problem::new(
                ProblemType::Forbidden,
                "this needs the operator's token; no organization's key or person",
            )),
            Some(Identity::Refused(problem)) => Err((**problem).clone()),
            None => Err(unauthenticated("there is no `Authorization: Bearer TOKEN` header")),
        }
    }
}

/// The operator everywhere, or an organization's program within its organization.
pub struct Within<P>(Option<May<P>>);

impl<P> Within<P> {
    /// The organization's program; `None`: the operator.
    pub fn caller(&self) -> Option<&Caller> {
        self.0.as_deref()
    }

    /// The partition of the queue that it may see; `None`: all of it.
    pub fn tenant(&self) -> Option<&str> {
        self.caller().map(Caller::tenant)
    }
}

impl<P: Permission> FromRequestParts<ApiState> for Within<P> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        if let Some(Identity::Operator) = parts.extensions.get::<Identity>() {
            return Ok(Self(None));
        }
        May::from_request_parts(parts, state).await.map(|may| Self(Some(may)))
    }
}

/// Who the request says it is; a request extension.
#[derive(Clone)]
enum Identity {
    Caller(Arc<Caller>),
    Operator,
    Refused(Arc<Problem>),
}

/// Whose an idempotency key is: a person's own, or an organization's programs' (a key of theirs may be replaced between two tries). No
/// client can write such a beginning into a key, which has visible characters only.
pub fn owner_of_keys(request: &Request) -> String {
    match request.extensions().get::<Identity>() {
        Some(Identity::Caller(caller)) => match caller.person() {
            Some(person) => format!("\u{2}user:{} ", person.user_id),
            None => "\u{2}program ".to_owned(),
        },
        Some(Identity::Operator) => "\u{2}operator ".to_owned(),
        Some(Identity::Refused(_)) | None => "\u{1}".to_owned(),
    }
}

fn unauthenticated(detail: &'static str) -> Problem {
    Problem::new(ProblemType::Unauthenticated, detail)
}
