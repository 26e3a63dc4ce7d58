//! Tasks of a workspace (WORK-7).

use chrono::{DateTime, NaiveDate, Utc};
use uuid::Uuid;

use super::{
    FieldErrors,
    field_error::{many_lines, one_line},
    text::text_enum,
};

text_enum! {
    /// Where a task stands. The same states in every workspace; a task may go from any to any.
    #[derive(Default)]
    pub enum TaskState("task state") {
        /// Nobody has begun.
        #[default]
        Todo = "todo",
        /// Somebody is at it.
        InProgress = "in_progress",
        /// It is done.
        Done = "done",
        /// It will not be done.
        Cancelled = "cancelled",
    }
}

impl TaskState {
    /// Whether nobody has to do anything about it any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A task to be stored, new or changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTask {
    pub title: String,
    pub description: Option<String>,
    pub state: TaskState,
    /// A member of the task's workspace.
    pub assignee_id: Option<Uuid>,
    pub due_on: Option<NaiveDate>,
}

impl NewTask {
    /// Checks what the types cannot: a title of 1 to 200 characters, a description of up to 10,000.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("title", one_line(&self.title, 200));
        if let Some(description) = &self.description {
            errors.check("description", many_lines(description, 10_000));
        }
        errors.into_result()
    }
}

/// A task as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub id: Uuid,
    pub workspace_id: Uuid,
    pub title: String,
    pub description: Option<String>,
    pub state: TaskState,
    pub assignee_id: Option<Uuid>,
    pub due_on: Option<NaiveDate>,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// When it became done.
    pub completed_at: Option<DateTime<Utc>>,
}

impl From<Task> for NewTask {
    fn from(Task { title, description, state, assignee_id, due_on, .. }: Task) -> Self {
        Self { title, description, state, assignee_id, due_on }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(title: &str, description: &str) -> NewTask {
        let description = Some(description.to_owned());
        NewTask { title: title.to_owned(), description, state: TaskState::Todo, assignee_id: None, due_on: None }
    }

    /// WORK-7
    #[test]
    fn a_task_without_a_title_or_with_too_long_a_text_is_refused() {
        let errors = task(" ", &"d".repeat(10_001)).validate().unwrap_err();
        let fields: Vec<_> = errors.0.iter().map(|error| (error.field.as_str(), error.code)).collect();
        assert_eq!(fields, [("title", "required"), ("description", "too_long")]);
        assert_eq!(task(&"å".repeat(200), "a\nb").validate(), Ok(()));
        assert_eq!(task(&"å".repeat(201), "").validate().unwrap_err().0[0].code, "too_long");
    }

    /// WORK-7
    #[test]
    fn done_and_cancelled_are_final() {
        let last: Vec<_> = TaskState::ALL.iter().filter(|state| state.is_final()).map(|state| state.as_str()).collect();
        assert_eq!(last, ["done", "cancelled"]);
    }
}
