//! The templates that come with the product, for an organization that has made none of its own for a kind.

use super::{Assignee, TemplateStep, WorkflowKind};
use crate::domain::{Language, Role};

/// Title in Swedish and in English, whose it is, days, and whether it needs approval.
type Line = (&'static str, &'static str, Role, i32, bool);

const ONBOARDING: &[Line] = &[
    ("Beställ utrustning", "Order equipment", Role::Admin, -7, false),
    ("Skapa konton och behörigheter", "Create accounts and access", Role::Developer, -1, false),
    ("Lämna ut utrustning och nycklar", "Hand over equipment and keys", Role::Admin, 0, false),
    ("Visa arbetsplatsen och reglerna", "Show the workplace and its rules", Role::Admin, 1, false),
    ("Följ upp efter en månad", "Follow up after a month", Role::Admin, 30, false),
];

/// The steps that take assets back come before these.
const OFFBOARDING: &[Line] = &[
    ("Lämna över pågående arbete", "Hand over work in progress", Role::Admin, -7, false),
    ("Stäng konton och behörigheter", "Close accounts and access", Role::Developer, 0, false),
    ("Samla in nycklar och passerkort", "Collect keys and badges", Role::Admin, 0, false),
    ("Godkänn slutavräkningen", "Approve the final settlement", Role::Admin, 14, true),
];

const REPAIR: &[Line] = &[
    ("Beskriv felet och säkra data", "Describe the fault and save the data", Role::Developer, 1, false),
    ("Godkänn kostnaden", "Approve the cost", Role::Admin, 3, true),
    ("Skicka på reparation", "Send it to be repaired", Role::Admin, 5, false),
    ("Kontrollera och lämna tillbaka", "Check it and hand it back", Role::Developer, 21, false),
];

const PROCUREMENT: &[Line] = &[
    ("Ta in offerter", "Ask for offers", Role::Admin, 3, false),
    ("Godkänn köpet", "Approve the purchase", Role::Admin, 5, true),
    ("Beställ", "Place the order", Role::Admin, 7, false),
    ("Ta emot och registrera", "Receive and register the delivery", Role::Developer, 21, false),
];

const TRANSFER: &[Line] = &[
    ("Kom överens med båda sidor", "Agree with both sides", Role::Admin, 2, false),
    ("Godkänn flytten", "Approve the transfer", Role::Admin, 3, true),
    ("Flytta och registrera", "Move it and record it", Role::Developer, 7, false),
];

/// The product's own steps for the kind.
pub fn built_in(kind: WorkflowKind, language: Language) -> Vec<TemplateStep> {
    let lines = match kind {
        WorkflowKind::Onboarding => ONBOARDING,
        WorkflowKind::Offboarding => OFFBOARDING,
        WorkflowKind::Repair => REPAIR,
        WorkflowKind::Procurement => PROCUREMENT,
        WorkflowKind::Transfer => TRANSFER,
    };
    let step = |&(swedish, english, role, due_in_days, needs_approval): &Line| {
        let title = match language {
            Language::Sv => swedish,
            Language::En => english,
        };
        TemplateStep { title: title.to_owned(), assignee: Assignee::Role(role), due_in_days, needs_approval }
    };
    lines.iter().map(step).collect()
}
