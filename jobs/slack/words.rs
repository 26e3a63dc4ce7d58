//! What a message says of an event, in Swedish and in English. Everything that comes from data is escaped where it is put in
//! ([`Mrkdwn::data`]).

use super::subject::Subject;
use crate::{
    clients::slack::{Message, Mrkdwn},
    domain::Language,
};

/// What a message is made of besides its subject.
pub struct Context<'a> {
    pub kind: &'a str,
    pub topic: &'a str,
    pub language: Language,
    pub organization: &'a str,
    /// When it happened, by the organization's clock.
    pub at: String,
    /// So many more events of the kind came with it.
    pub others: u32,
}

/// The message that tells of an event. `who` is whom it concerns, mentioned or by their address.
pub fn message(subject: &Subject, who: Option<Mrkdwn>, context: &Context<'_>) -> Message {
    let language = context.language;
    let mut values: Vec<(&str, Mrkdwn)> =
        subject.values.iter().map(|(name, value)| (*name, Mrkdwn::data(value))).collect();
    let status = subject.get("status").map(|status| in_words(status, language).unwrap_or_else(|| Mrkdwn::data(status)));
    values.retain(|(name, _)| *name != "status");
    values.extend(status.map(|status| ("status", status)));
    for (name, template) in parts(subject, who.is_some(), language) {
        let filled = Mrkdwn::fill(template, &[values.as_slice(), &[("who", who.clone().unwrap_or_default())]].concat());
        values.push((name, filled));
    }
    let somebody = || Mrkdwn::words(either(language, "Somebody", "Någon"));
    values.push(("who", who.unwrap_or_else(somebody)));
    values.push(("others", Mrkdwn::data(&context.others.to_string())));
    values.push(("event", Mrkdwn::data(context.kind)));
    values.push(("topic", Mrkdwn::data(context.topic)));
    let (en, sv) = sentence(context.kind);
    let told = Mrkdwn::fill(either(language, en, sv), &values);
    values.push(("told", told.clone()));
    let sentence = match context.others {
        0 => told,
        _ => Mrkdwn::fill(either(language, "{told} And {others} more.", "{told} Och {others} till."), &values),
    };
    let origin = [
        ("organization", Mrkdwn::data(context.organization)),
        ("event", Mrkdwn::data(context.kind)),
        ("at", Mrkdwn::data(&context.at)),
    ];
    Message { sentence, origin: Mrkdwn::fill("{organization} · {at} · {event}", &origin) }
}

fn either(language: Language, en: &'static str, sv: &'static str) -> &'static str {
    match language {
        Language::En => en,
        Language::Sv => sv,
    }
}

/// What is said only where there is something to say.
fn parts(subject: &Subject, anybody: bool, language: Language) -> Vec<(&'static str, &'static str)> {
    let has = |name: &str| subject.get(name).is_some();
    let thing = match (has("tag"), has("thing")) {
        (true, true) => "*{tag}* ({thing})",
        (true, false) => "*{tag}*",
        _ => either(language, "An asset", "En tillgång"),
    };
    let mut parts = vec![("asset", thing)];
    if anybody {
        parts.push(("to", either(language, " to {who}", " till {who}")));
        parts.push(("by", either(language, " by {who}", " av {who}")));
        parts.push(("for", either(language, " for {who}", " för {who}")));
    }
    if has("title") {
        parts.push(("as", " ({title})"));
    }
    if has("due_on") {
        parts.push(("until", either(language, ", due on {due_on}", ", klart senast {due_on}")));
        parts.push(("since", either(language, ": it was due on {due_on}", ": det skulle vara klart {due_on}")));
    }
    if has("reason") {
        parts.push(("because", ": {reason}"));
    }
    let invoice =
        either(language, "invoice {number} to {company} ({amount})", "faktura {number} till {company} ({amount})");
    let bare = either(language, "invoice {number}", "faktura {number}");
    parts.push(("invoice", if has("company") { invoice } else { bare }));
    parts
}

/// English and Swedish. A kind without words of its own is named.
fn sentence(kind: &str) -> (&'static str, &'static str) {
    match kind {
        "asset.created" => (":package: {asset} was added.", ":package: {asset} har lagts till."),
        "asset.changed" => (":package: {asset} was changed.", ":package: {asset} har ändrats."),
        "asset.assigned" => (":package: {asset} was handed out{to}.", ":package: {asset} har lämnats ut{to}."),
        "asset.returned" => (":package: {asset} was returned{by}.", ":package: {asset} har lämnats tillbaka{by}."),
        "asset.transferred" => (":package: {asset} was transferred{to}.", ":package: {asset} har flyttats{to}."),
        "asset.status_changed" => (":package: {asset} is now {status}.", ":package: {asset} är nu {status}."),
        "asset.gone_at_source" => (
            ":warning: {asset} is handed out{to}, and the finance system has it no longer.",
            ":warning: {asset} är utlämnad{to}, men finns inte längre i ekonomisystemet.",
        ),
        "employee.created" => {
            (":wave: {who}{as} was added as an employee.", ":wave: {who}{as} har lagts till som anställd.")
        }
        "employee.changed" => ("{who} was changed as an employee.", "Uppgifter om {who} har ändrats."),
        "employee.terminated" => ("{who} does not work here any more.", "{who} arbetar inte här längre."),
        "employee.reactivated" => (":wave: {who} works here again.", ":wave: {who} arbetar här igen."),
        "workflow.started" => {
            (":clipboard: *{title}* has started{for}{until}.", ":clipboard: *{title}* har startat{for}{until}.")
        }
        "workflow.approval_wanted" => {
            ("*{title}*: {step} waits for approval.", "*{title}*: {step} väntar på godkännande.")
        }
        "workflow.step_completed" => ("*{title}*: {step} is done.", "*{title}*: {step} är klart."),
        "workflow.step_rejected" => ("*{title}*: {step} was rejected.", "*{title}*: {step} har avslagits."),
        "workflow.completed" => {
            (":white_check_mark: *{title}* is completed{for}.", ":white_check_mark: *{title}* är klart{for}.")
        }
        "workflow.cancelled" => ("*{title}* was cancelled{for}.", "*{title}* har avbrutits{for}."),
        "workflow.failed" => (":x: *{title}* has failed{for}.", ":x: *{title}* har misslyckats{for}."),
        "workflow.overdue" => {
            (":alarm_clock: *{title}* is overdue{for}{since}.", ":alarm_clock: *{title}* är försenat{for}{since}.")
        }
        "invoice.created" => ("There is a new {invoice}.", "Det finns en ny {invoice}."),
        "invoice.status_changed" => {
            (":page_facing_up: {invoice} is now {status}.", ":page_facing_up: {invoice} är nu {status}.")
        }
        "invoice.reminder_sent" => (
            ":envelope: Reminder {stage} of {invoice} was sent.",
            ":envelope: Påminnelse {stage} om {invoice} har skickats.",
        ),
        "invoice.reminder_failed" => (
            ":warning: Reminder {stage} of {invoice} could not be sent.",
            ":warning: Påminnelse {stage} om {invoice} kunde inte skickas.",
        ),
        "invoice.dunning_ended" => (
            ":warning: No reminder got {invoice} paid.",
            ":warning: Ingen påminnelse ledde till att {invoice} betalades.",
        ),
        "integration.created" => {
            ("The integration *{name}* ({provider}) was added.", "Integrationen *{name}* ({provider}) har lagts till.")
        }
        "integration.removed" => (
            "The integration *{name}* ({provider}) was removed.",
            "Integrationen *{name}* ({provider}) har tagits bort.",
        ),
        "integration.needs_attention" => (
            ":warning: The integration *{name}* ({provider}) needs attention{because}",
            ":warning: Integrationen *{name}* ({provider}) behöver tillsyn{because}",
        ),
        "integration.stalled" => (
            ":warning: Nothing can be read from the integration *{name}* ({provider}){because}",
            ":warning: Inget kan hämtas från integrationen *{name}* ({provider}){because}",
        ),
        "integration.recovered" => (
            ":white_check_mark: The integration *{name}* ({provider}) works again.",
            ":white_check_mark: Integrationen *{name}* ({provider}) fungerar igen.",
        ),
        "integration.rule_stopped" => (
            ":warning: Nothing can be told in the channel {channel} ({events}){because}",
            ":warning: Inget kan skrivas i kanalen {channel} ({events}){because}",
        ),
        "job.discarded" => (
            ":warning: The job {kind} was given up after {attempts} attempts. `backroom job show {job_id}` says why.",
            ":warning: Jobbet {kind} gavs upp efter {attempts} försök. `backroom job show {job_id}` säger varför.",
        ),
        _ => ("{event}: {topic}", "{event}: {topic}"),
    }
}

/// The states of assets and invoices.
fn in_words(status: &str, language: Language) -> Option<Mrkdwn> {
    let (en, sv) = match status {
        "on_order" => ("on order", "beställd"),
        "in_stock" => ("in stock", "i lager"),
        "assigned" => ("handed out", "utlämnad"),
        "in_repair" => ("in repair", "på reparation"),
        "retired" => ("retired", "utrangerad"),
        "lost" => ("lost", "försvunnen"),
        "stolen" => ("stolen", "stulen"),
        "draft" => ("a draft", "ett utkast"),
        "sent" => ("sent", "skickad"),
        "unpaid" => ("unpaid", "obetald"),
        "paid" => ("paid", "betald"),
        "overdue" => ("overdue", "förfallen"),
        "cancelled" => ("cancelled", "makulerad"),
        _ => return None,
    };
    Some(Mrkdwn::words(either(language, en, sv)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(kind: &str, language: Language, others: u32) -> Context<'_> {
        Context {
            kind,
            topic: "asset:1",
            language,
            organization: "Acme & Co",
            at: "2026-03-02 09:00".to_owned(),
            others,
        }
    }

    fn laptop() -> Subject {
        let values = [("tag", "LT-42"), ("thing", "MacBook <Pro>"), ("status", "in_repair")];
        Subject { values: values.map(|(name, value)| (name, value.to_owned())).to_vec(), who: None }
    }

    /// SYNC-11
    #[test]
    fn an_event_is_told_in_the_language_with_data_escaped() {
        let anna = || Some(Mrkdwn::mention("U0ANNA"));
        for (kind, language, who, told) in [
            (
                "asset.assigned",
                Language::Sv,
                anna(),
                ":package: *LT-42* (MacBook &lt;Pro&gt;) har lämnats ut till <@U0ANNA>.",
            ),
            ("asset.assigned", Language::En, None, ":package: *LT-42* (MacBook &lt;Pro&gt;) was handed out."),
            (
                "asset.returned",
                Language::En,
                anna(),
                ":package: *LT-42* (MacBook &lt;Pro&gt;) was returned by <@U0ANNA>.",
            ),
            (
                "asset.status_changed",
                Language::Sv,
                None,
                ":package: *LT-42* (MacBook &lt;Pro&gt;) är nu på reparation.",
            ),
            ("employee.terminated", Language::En, None, "Somebody does not work here any more."),
            ("asset.frobnicated", Language::En, None, "asset.frobnicated: asset:1"),
        ] {
            let message = message(&laptop(), who, &context(kind, language, 0));
            assert_eq!(message.sentence.as_str(), told);
            assert_eq!(message.origin.as_str(), format!("Acme &amp; Co · 2026-03-02 09:00 · {kind}"));
        }
        let many = message(&laptop(), None, &context("asset.created", Language::Sv, 199));
        assert!(many.sentence.as_str().ends_with("har lagts till. Och 199 till."), "{many:?}");
    }

    /// SYNC-11: the states that the domain knows have words.
    #[test]
    fn every_state_has_words() {
        use crate::domain::InvoiceStatus;
        for status in InvoiceStatus::ALL {
            assert!(in_words(status.as_str(), Language::Sv).is_some(), "{status}");
        }
        for status in crate::domain::asset::AssetStatus::ALL {
            assert!(in_words(status.as_str(), Language::Sv).is_some(), "{status}");
        }
    }
}
