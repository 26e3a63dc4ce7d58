//! Rules and types without I/O: what a value may be, what may happen to it and when. A value is parsed once, at the
//! door; after that its type is trusted.

mod text;

pub mod access_token;
pub mod clock;
pub mod company;
pub mod conversation;
pub mod csv_import;
pub mod dunning;
pub mod email;
pub mod field_error;
pub mod invitation;
pub mod invoice;
pub mod language;
pub mod limits;
pub mod link_token;
mod luhn;
pub mod money;
pub mod naming;
pub mod org_number;
pub mod organization;
pub mod password;
pub mod phone;
pub mod policy;
pub mod role;
pub mod scope;
pub mod slug;
pub mod task;
pub mod user;
pub mod workspace;

pub use access_token::{Claims, TokenKeys};
pub use clock::Clock;
pub use company::{Company, Contact, NewCompany};
pub use conversation::{Conversation, Message, MessageText, Title, TitleSource};
pub use dunning::{Decision, DunningFacts, DunningPolicy};
pub use email::EmailAddress;
pub use field_error::{FieldError, FieldErrors, ParseError};
pub use invitation::{Invitation, InvitationState, InvitationStep};
pub use invoice::{Invoice, InvoiceStatus, Item, NewInvoice, NewItem, Totals};
pub use language::Language;
pub use limits::{LimitExceeded, Limits, Resource};
pub use link_token::LinkToken;
pub use money::{Currency, Money};
pub use org_number::OrgNumber;
pub use organization::{BillingStatus, Organization, PaymentDetails, Settings, Tier};
pub use password::{Password, PasswordHash, Passwords};
pub use phone::Phone;
pub use policy::{Action, Reach};
pub use role::Role;
pub use scope::Scope;
pub use slug::Slug;
pub use task::{NewTask, Task, TaskState};
pub use user::{NewUser, User};
pub use workspace::{Membership, Workspace, WorkspaceName};
