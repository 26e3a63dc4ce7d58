//! Workflows: what has to be done when somebody comes or goes, or a thing is bought, mended or moved, step by step (ASSET-5). What may
//! happen to one is decided here, the store's guarded statements carry it out.
//!
//! Steps may be done in any order, with one exception: a step that needs approval is a gate, and what comes after it waits until it is
//! approved.

mod built_in;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Duration, NaiveDate, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::built_in::built_in;
use super::{Action, FieldErrors, Language, ParseError, Reach, Role, field_error::one_line, policy, text::text_enum};

/// Steps of a template.
pub const MAX_STEPS: usize = 50;
/// Characters of a note on a step, or of a reason.
pub const MAX_NOTE: usize = 2_000;
/// Days after the last day that a thing may be kept.
pub const RETURN_IN_DAYS: i32 = 7;

text_enum! {
    /// What a workflow is for.
    pub enum WorkflowKind("kind of workflow") {
        /// Somebody begins.
        Onboarding = "onboarding",
        /// Somebody leaves, and gives back what they hold.
        Offboarding = "offboarding",
        /// A thing is mended.
        Repair = "repair",
        /// A thing is bought.
        Procurement = "procurement",
        /// A thing gets another holder or place.
        Transfer = "transfer",
    }
}

impl WorkflowKind {
    /// Whether it is about an employee, who has to be named.
    pub fn is_about_an_employee(self) -> bool {
        matches!(self, Self::Onboarding | Self::Offboarding)
    }

    /// In the product's own words: what a title that it makes begins with.
    pub fn words(self, language: Language) -> &'static str {
        match (self, language) {
            (Self::Onboarding, Language::Sv) => "Introduktion",
            (Self::Onboarding, Language::En) => "Onboarding",
            (Self::Offboarding, Language::Sv) => "Avslut",
            (Self::Offboarding, Language::En) => "Offboarding",
            (Self::Repair, Language::Sv) => "Reparation",
            (Self::Repair, Language::En) => "Repair",
            (Self::Procurement, Language::Sv) => "Inköp",
            (Self::Procurement, Language::En) => "Procurement",
            (Self::Transfer, Language::Sv) => "Flytt",
            (Self::Transfer, Language::En) => "Transfer",
        }
    }

    /// The words of a title that the product made of the kind and of somebody; `None` if a person wrote it.
    pub fn words_of(self, title: &str) -> Option<&'static str> {
        let words = [Language::Sv, Language::En].map(|language| self.words(language));
        words.into_iter().find(|words| title.strip_prefix(words).is_some_and(|rest| rest.starts_with(": ")))
    }

    /// Whether it is about an asset, which has to be named.
    pub fn is_about_an_asset(self) -> bool {
        matches!(self, Self::Repair | Self::Transfer)
    }
}

text_enum! {
    /// Where a workflow stands. The last three are final.
    #[derive(Default)]
    pub enum WorkflowStatus("status of a workflow") {
        /// Nobody has begun.
        #[default]
        Pending = "pending",
        /// A step was advanced.
        InProgress = "in_progress",
        /// No step is open.
        Completed = "completed",
        /// It is not needed any more.
        Cancelled = "cancelled",
        /// It cannot be done.
        Failed = "failed",
    }
}

/// What can happen to a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkflowAct {
    /// Its first step is advanced.
    Begin,
    Complete,
    Cancel,
    Fail,
}

impl WorkflowStatus {
    /// Whether nothing about it changes any more.
    pub fn has_ended(self) -> bool {
        matches!(self, Self::Completed | Self::Cancelled | Self::Failed)
    }

    /// Where the act leads; `None` if it cannot be done from here.
    pub fn after(self, act: WorkflowAct) -> Option<Self> {
        match (self, act) {
            (Self::Pending, WorkflowAct::Begin) => Some(Self::InProgress),
            (Self::Pending | Self::InProgress, WorkflowAct::Complete) => Some(Self::Completed),
            (Self::Pending | Self::InProgress, WorkflowAct::Cancel) => Some(Self::Cancelled),
            (Self::Pending | Self::InProgress, WorkflowAct::Fail) => Some(Self::Failed),
            _ => None,
        }
    }
}

text_enum! {
    /// Where a step stands. The last two are final.
    #[derive(Default)]
    pub enum StepStatus("status of a step") {
        /// To be done.
        #[default]
        Pending = "pending",
        /// Done, as somebody says; another has to approve it.
        AwaitingApproval = "awaiting_approval",
        /// Done, and approved where that was needed.
        Done = "done",
        /// The workflow was completed without it.
        Skipped = "skipped",
    }
}

/// What can happen to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepAct {
    /// Somebody says that it is done.
    Advance,
    Approve,
    /// It is not done as it should be, and has to be done again.
    Reject,
    /// With the workflow's completion.
    Skip,
}

impl StepStatus {
    pub fn is_open(self) -> bool {
        matches!(self, Self::Pending | Self::AwaitingApproval)
    }

    /// Where the act leads; `None` if it cannot be done from here. Nothing leads past an approval that is needed.
    pub fn after(self, act: StepAct, needs_approval: bool) -> Option<Self> {
        match (self, act) {
            (Self::Pending, StepAct::Advance) if needs_approval => Some(Self::AwaitingApproval),
            (Self::Pending, StepAct::Advance) => Some(Self::Done),
            (Self::AwaitingApproval, StepAct::Approve) => Some(Self::Done),
            (Self::AwaitingApproval, StepAct::Reject) => Some(Self::Pending),
            (Self::Pending, StepAct::Skip) if !needs_approval => Some(Self::Skipped),
            _ => None,
        }
    }

    /// What can be done about it.
    fn advice(self) -> &'static str {
        match self {
            Self::Pending => "advance it first",
            Self::AwaitingApproval => "approve or reject it",
            Self::Done | Self::Skipped => "nothing about it changes any more",
        }
    }
}

/// Somebody who acts, as what they are in the organization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    pub id: Uuid,
    pub role: Role,
}

/// Whose it is to see to it: everybody with a role, or one person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Assignee {
    #[serde(rename = "role")]
    Role(Role),
    #[serde(rename = "user_id")]
    Person(Uuid),
}

impl Assignee {
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Role(role) => Some(role),
            Self::Person(_) => None,
        }
    }

    pub fn person(self) -> Option<Uuid> {
        match self {
            Self::Role(_) => None,
            Self::Person(id) => Some(id),
        }
    }

    /// Whether it is this person's, by name or by role.
    pub fn is(self, person: Person) -> bool {
        match self {
            Self::Role(role) => role == person.role,
            Self::Person(id) => id == person.id,
        }
    }

    /// Customers are given no work.
    pub fn check(self) -> Result<(), ParseError> {
        match self {
            Self::Role(Role::Customer) => Err(ParseError::invalid("must not be the role customer")),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Assignee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Role(role) => f.pad(role.as_str()),
            Self::Person(id) => id.fmt(f),
        }
    }
}

/// A step as a template has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateStep {
    pub title: String,
    pub assignee: Assignee,
    /// Counted from the day that the workflow is about, such as the first day at work; negative before it.
    #[serde(default)]
    pub due_in_days: i32,
    #[serde(default)]
    pub needs_approval: bool,
}

/// A template of the organization's own, to be stored.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTemplate {
    pub kind: WorkflowKind,
    pub name: String,
    pub steps: Vec<TemplateStep>,
    /// Taken for its kind where no template is named.
    #[serde(default)]
    pub is_default: bool,
}

/// A template of the organization's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub id: Uuid,
    pub kind: WorkflowKind,
    pub name: String,
    pub steps: Vec<TemplateStep>,
    pub is_default: bool,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl From<Template> for NewTemplate {
    fn from(Template { kind, name, steps, is_default, .. }: Template) -> Self {
        Self { kind, name, steps, is_default }
    }
}

impl NewTemplate {
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("name", one_line(&self.name, 100));
        let count = (1..=MAX_STEPS).contains(&self.steps.len());
        errors.require(count, "steps", "out_of_range", format!("must have 1 to {MAX_STEPS} steps"));
        for (at, step) in self.steps.iter().enumerate() {
            errors.check(&format!("steps[{at}].title"), one_line(&step.title, 200));
            errors.check(&format!("steps[{at}].assignee"), step.assignee.check());
            let near = (-365..=1_825).contains(&step.due_in_days);
            errors.require(near, format!("steps[{at}].due_in_days"), "out_of_range", "must be from -365 to 1825");
        }
        errors.into_result()
    }
}

/// A step to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewStep {
    pub title: String,
    pub assignee: Assignee,
    pub due_on: NaiveDate,
    pub needs_approval: bool,
    /// The asset that it takes back.
    pub asset_id: Option<Uuid>,
}

/// The steps of a template, for a workflow that is about `day_zero`. None is late when it begins.
pub fn plan(steps: &[TemplateStep], day_zero: NaiveDate, today: NaiveDate) -> Vec<NewStep> {
    let steps = steps.iter().cloned();
    steps
        .map(|TemplateStep { title, assignee, due_in_days, needs_approval }| {
            let due_on = due(day_zero, due_in_days, today);
            NewStep { title, assignee, due_on, needs_approval, asset_id: None }
        })
        .collect()
}

/// So many days after `day_zero`, and not before today.
pub fn due(day_zero: NaiveDate, in_days: i32, today: NaiveDate) -> NaiveDate {
    day_zero.checked_add_signed(Duration::days(in_days.into())).unwrap_or(day_zero).max(today)
}

/// A workflow to be stored.
#[derive(Clone, Debug)]
pub struct NewWorkflow {
    pub kind: WorkflowKind,
    pub template_id: Option<Uuid>,
    pub title: String,
    pub employee_id: Option<Uuid>,
    pub asset_id: Option<Uuid>,
    pub assignee: Assignee,
    pub due_on: NaiveDate,
    /// What it is started for, if that starts one workflow only.
    pub source_key: Option<String>,
    pub steps: Vec<NewStep>,
}

/// A workflow as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workflow {
    pub id: Uuid,
    pub kind: WorkflowKind,
    /// `None`: the product's own template, or one that is gone.
    pub template_id: Option<Uuid>,
    pub title: String,
    pub status: WorkflowStatus,
    pub employee_id: Option<Uuid>,
    pub asset_id: Option<Uuid>,
    /// Whose it is to see to the whole.
    pub assignee: Assignee,
    pub due_on: NaiveDate,
    /// Why it was cancelled or failed.
    pub reason: Option<String>,
    /// As events name who started it.
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// When its first step was advanced.
    pub begun_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    /// In order.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub id: Uuid,
    /// Counted from 1.
    pub position: u32,
    pub title: String,
    pub status: StepStatus,
    pub assignee: Assignee,
    pub due_on: NaiveDate,
    pub needs_approval: bool,
    /// The asset that it takes back.
    pub asset_id: Option<Uuid>,
    pub note: Option<String>,
    /// Who says that it is done, as events name them.
    pub advanced_by: Option<String>,
    pub advanced_at: Option<DateTime<Utc>>,
    pub approved_by: Option<String>,
    pub approved_at: Option<DateTime<Utc>>,
}

/// Why something cannot happen to a workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the workflow is {0}; nothing about it changes any more")]
    Ended(WorkflowStatus),
    #[error("step {position} is {status}; {}", .status.advice())]
    Step { position: u32, status: StepStatus },
    #[error("step {position} waits for the approval of step {gate}")]
    Gate { position: u32, gate: u32 },
    #[error("step {position} has to be approved by somebody else than who did it")]
    OwnWork { position: u32 },
    #[error("step {position} is not yours: who it is assigned to, or somebody who may change workflows, advances it")]
    NotYours { position: u32 },
    #[error("step {position} is approved or sent back by whom it or the workflow is assigned to, or by an admin")]
    NotApprover { position: u32 },
    #[error(
        "step {position} waits for the person it is assigned to; who started the workflow does not approve it for them"
    )]
    OwnRequest { position: u32 },
    #[error("step {position} takes no asset back")]
    NoAsset { position: u32 },
    #[error("{0} of its steps are open; advance them, or complete it and skip them (skip_open_steps)")]
    Open(usize),
    #[error(
        "step {position} needs approval and cannot be skipped; advance it and have it approved, or cancel the workflow"
    )]
    Unskippable { position: u32 },
}

/// What an act on a step makes of it and of its workflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    pub step: StepStatus,
    pub workflow: WorkflowStatus,
}

impl Workflow {
    /// What the act on one of its steps leads to. The last open step completes the workflow. `actor` is as events name them, `person` who
    /// that is; a program or an operator (`None`) answers for whom it stands for.
    pub fn act(&self, step: &Step, act: StepAct, actor: &str, person: Option<Person>) -> Result<Moved, Refusal> {
        if self.status.has_ended() {
            return Err(Refusal::Ended(self.status));
        }
        let (position, status) = (step.position, step.status);
        let Some(to) = status.after(act, step.needs_approval) else { return Err(Refusal::Step { position, status }) };
        if let (StepAct::Advance, Some(gate)) = (act, self.gate_before(position)) {
            return Err(Refusal::Gate { position, gate });
        }
        if let Some(person) = person {
            self.check_person(step, act, (actor, person))?;
        }
        let open = to.is_open() || self.steps.iter().any(|other| other.id != step.id && other.status.is_open());
        Ok(Moved { step: to, workflow: if open { WorkflowStatus::InProgress } else { WorkflowStatus::Completed } })
    }

    /// A person advances what is theirs, or anything if they may change workflows. They approve what somebody else did, where it is theirs
    /// or they see to the whole or are an admin; what a step leaves to somebody by name, who started the workflow does not approve.
    fn check_person(&self, step: &Step, act: StepAct, (actor, person): (&str, Person)) -> Result<(), Refusal> {
        let position = step.position;
        let (own, did) = (step.assignee.is(person), step.advanced_by.as_deref() == Some(actor));
        if act == StepAct::Advance {
            let any = policy::reach(person.role, Action::WorkflowsAdvance) == Reach::All;
            return if own || any { Ok(()) } else { Err(Refusal::NotYours { position }) };
        }
        if did {
            // What they said themselves, they may take back.
            return if act == StepAct::Reject { Ok(()) } else { Err(Refusal::OwnWork { position }) };
        }
        if !own && !self.assignee.is(person) && person.role != Role::Admin {
            return Err(Refusal::NotApprover { position });
        }
        let named = step.assignee.person().map(|id| format!("user:{id}"));
        let waits = named.is_some() && named != step.advanced_by;
        if act == StepAct::Approve && waits && !own && self.created_by == actor {
            return Err(Refusal::OwnRequest { position });
        }
        Ok(())
    }

    /// The first step before `position` whose approval is missing.
    fn gate_before(&self, position: u32) -> Option<u32> {
        let gates = self.steps.iter().filter(|step| step.needs_approval && step.status.is_open());
        gates.map(|step| step.position).find(|gate| *gate < position)
    }

    /// The steps that are skipped when it is completed now.
    pub fn completion(&self, skip_open: bool) -> Result<Vec<Uuid>, Refusal> {
        if self.status.has_ended() {
            return Err(Refusal::Ended(self.status));
        }
        let open: Vec<&Step> = self.steps.iter().filter(|step| step.status.is_open()).collect();
        if !open.is_empty() && !skip_open {
            return Err(Refusal::Open(open.len()));
        }
        match open.iter().find(|step| step.status.after(StepAct::Skip, step.needs_approval).is_none()) {
            Some(step) => Err(Refusal::Unskippable { position: step.position }),
            None => Ok(open.iter().map(|step| step.id).collect()),
        }
    }

    /// The first day that something open of it is due, itself or a step; `None` once it has ended.
    pub fn deadline(&self) -> Option<NaiveDate> {
        let open = self.steps.iter().filter(|step| step.status.is_open());
        let first = open.map(|step| step.due_on).fold(self.due_on, Ord::min);
        (!self.status.has_ended()).then_some(first)
    }

    pub fn is_overdue(&self, today: NaiveDate) -> bool {
        self.deadline().is_some_and(|deadline| deadline < today)
    }

    /// The first step that somebody can advance.
    pub fn next_step(&self) -> Option<&Step> {
        let pending = self.steps.iter().find(|step| step.status == StepStatus::Pending);
        pending.filter(|step| self.gate_before(step.position).is_none())
    }
}
