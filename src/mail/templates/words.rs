//! What the letters say, in Swedish and English. Values arrive here already cleaned of control characters.

use chrono::{Datelike, NaiveDate};

use super::{EscalationMail, Letter, ReminderMail, Row, Tone};
use crate::domain::language::Language;

pub fn reminder(mail: &ReminderMail) -> Letter {
    match mail.language {
        Language::Sv => reminder_sv(mail),
        Language::En => reminder_en(mail),
    }
}

fn reminder_sv(mail: &ReminderMail) -> Letter {
    let number = &mail.invoice_number;
    let organization = &mail.organization_name;
    let amount = mail.amount.format(Language::Sv);
    let due = long_date(Language::Sv, mail.due_date);
    let late = days(Language::Sv, mail.days_overdue);
    let dispute =
        "Är det något med fakturan som inte stämmer? Svara på det här mejlet, så reder vi ut det tillsammans.";
    let (tone, label, subject, heading, paragraphs, closing) = match mail.stage {
        0 | 1 => (
            Tone::Friendly,
            "Påminnelse",
            format!("Påminnelse: faktura {number} från {organization}"),
            "Har fakturan hamnat mellan stolarna?",
            vec![format!(
                "Vi har ännu inte sett någon betalning för faktura {number}, som förföll den {due}. Det är lätt hänt, \
                 så det här är bara en vänlig påminnelse."
            )],
            vec!["Har ni redan betalat? Då kan ni bortse från det här mejlet. Tack!", dispute],
        ),
        2 => (
            Tone::Firm,
            "Andra påminnelsen",
            format!("Andra påminnelsen: faktura {number} är {late} försenad"),
            "Fakturan är fortfarande obetald",
            vec![
                format!(
                    "Vi har påmint om faktura {number} tidigare, men ser fortfarande ingen betalning. Den förföll den \
                     {due} och är nu {late} försenad."
                ),
                "Vi ber er betala så snart som möjligt.".to_owned(),
            ],
            vec![
                "Betalade ni de senaste dagarna? Då har våra mejl korsats, och ni behöver inte göra något mer.",
                dispute,
            ],
        ),
        _ => (
            Tone::Final,
            "Sista påminnelsen",
            format!("Sista påminnelsen: faktura {number} från {organization}"),
            "Det här är vår sista påminnelse",
            vec![
                format!(
                    "Trots flera påminnelser är faktura {number} fortfarande obetald. Den förföll den {due} och är nu \
                     {late} försenad."
                ),
                "Betala omgående. Om ni inte kan betala hela beloppet nu: hör av er i dag, så att vi hittar en lösning \
                 innan vi måste gå vidare med ärendet."
                    .to_owned(),
            ],
            vec![dispute],
        ),
    };
    let has_account = mail.payment.bankgiro.is_some() || mail.payment.iban.is_some();
    Letter {
        lang: "sv",
        tone,
        preheader: format!("{amount} förföll den {due}. Så här betalar ni."),
        subject,
        organization: organization.clone(),
        label: label.to_owned(),
        heading: heading.to_owned(),
        greeting: format!("Hej {},", mail.company_name),
        paragraphs,
        action: None,
        amount_label: "Att betala",
        amount,
        facts: vec![
            Row { label: "Faktura", value: number.clone() },
            Row { label: "Förfallodag", value: due },
            Row { label: "Försenad", value: late },
        ],
        payment_heading: "Så här betalar ni",
        payment: payment_rows(mail, "Mottagare", "Referens"),
        payment_note: if has_account {
            format!("Ange {number} som referens, så hittar betalningen rätt.")
        } else {
            "Svara på det här mejlet, så skickar vi uppgifterna som ni behöver för att betala.".to_owned()
        },
        closing: closing.into_iter().map(str::to_owned).collect(),
        regards: "Vänliga hälsningar",
        signature: organization.clone(),
        footer: format!("Mejlet skickades automatiskt av {organization} med anledning av faktura {number}."),
    }
}

fn reminder_en(mail: &ReminderMail) -> Letter {
    let number = &mail.invoice_number;
    let organization = &mail.organization_name;
    let amount = mail.amount.format(Language::En);
    let due = long_date(Language::En, mail.due_date);
    let late = days(Language::En, mail.days_overdue);
    let dispute = "Is something about this invoice not right? Reply to this mail and we will sort it out together.";
    let (tone, label, subject, heading, paragraphs, closing) = match mail.stage {
        0 | 1 => (
            Tone::Friendly,
            "Reminder",
            format!("Reminder: invoice {number} from {organization}"),
            "Did this invoice slip through?",
            vec![format!(
                "We have not seen a payment for invoice {number} yet, which was due on {due}. It happens easily, so \
                 this is just a friendly reminder."
            )],
            vec!["Paid already? Then please disregard this mail, and thank you!", dispute],
        ),
        2 => (
            Tone::Firm,
            "Second reminder",
            format!("Second reminder: invoice {number} is {late} overdue"),
            "This invoice is still unpaid",
            vec![
                format!(
                    "We have reminded you of invoice {number} before, but still see no payment. It was due on {due} \
                     and is now {late} overdue."
                ),
                "Please pay it as soon as possible.".to_owned(),
            ],
            vec!["Paid in the last few days? Then our mails have crossed and there is nothing more to do.", dispute],
        ),
        _ => (
            Tone::Final,
            "Final notice",
            format!("Final notice: invoice {number} from {organization}"),
            "This is our final notice",
            vec![
                format!(
                    "Despite several reminders invoice {number} is still unpaid. It was due on {due} and is now {late} \
                     overdue."
                ),
                "Please pay it at once. If you cannot pay the full amount now, get in touch with us today, so that we \
                 find a solution before we have to take the matter further."
                    .to_owned(),
            ],
            vec![dispute],
        ),
    };
    let has_account = mail.payment.bankgiro.is_some() || mail.payment.iban.is_some();
    Letter {
        lang: "en",
        tone,
        preheader: format!("{amount} was due on {due}. Here is how to pay."),
        subject,
        organization: organization.clone(),
        label: label.to_owned(),
        heading: heading.to_owned(),
        greeting: format!("Hello {},", mail.company_name),
        paragraphs,
        action: None,
        amount_label: "Amount due",
        amount,
        facts: vec![
            Row { label: "Invoice", value: number.clone() },
            Row { label: "Due date", value: due },
            Row { label: "Overdue", value: late },
        ],
        payment_heading: "How to pay",
        payment: payment_rows(mail, "Payee", "Reference"),
        payment_note: if has_account {
            format!("Please give {number} as the reference, so that your payment finds its way.")
        } else {
            "Reply to this mail and we will send you what you need to make the payment.".to_owned()
        },
        closing: closing.into_iter().map(str::to_owned).collect(),
        regards: "Kind regards",
        signature: organization.clone(),
        footer: format!("This mail was sent automatically by {organization} about invoice {number}."),
    }
}

pub fn escalation(mail: &EscalationMail) -> Letter {
    let EscalationMail { organization_name, company_name, invoice_number, language, .. } = mail;
    let amount = mail.amount.format(*language);
    let due = long_date(*language, mail.due_date);
    let late = days(*language, mail.days_overdue);
    let count = mail.reminders;
    let rows = |labels: [&'static str; 5]| {
        let values = [company_name.clone(), invoice_number.clone(), due.clone(), late.clone(), count.to_string()];
        labels.into_iter().zip(values).map(|(label, value)| Row { label, value }).collect()
    };
    match language {
        Language::Sv => {
            let sent = if count == 1 { "en påminnelse".to_owned() } else { format!("{count} påminnelser") };
            Letter {
                lang: "sv",
                tone: Tone::Notice,
                preheader: format!("{company_name} har inte betalat {amount}. Nu behövs en människa."),
                subject: format!("Obesvarad efter {sent}: faktura {invoice_number}, {company_name}"),
                organization: organization_name.clone(),
                label: "Behöver er uppmärksamhet".to_owned(),
                heading: "Påminnelserna gav inget svar".to_owned(),
                greeting: "Hej,".to_owned(),
                paragraphs: vec![
                    format!("{company_name} har inte betalat faktura {invoice_number}, trots {sent}."),
                    "Inga fler påminnelser skickas. Nu är det er tur att bestämma vad som händer härnäst.".to_owned(),
                ],
                action: None,
                amount_label: "Obetalt belopp",
                facts: rows(["Kund", "Faktura", "Förfallodag", "Försenad", "Påminnelser"]),
                payment_heading: "Vad ni kan göra",
                payment: Vec::new(),
                payment_note:
                    "Ring kunden, kom överens om en betalningsplan eller lämna ärendet till inkasso. Markera \
                               fakturan som betald eller makulerad när saken är avgjord."
                        .to_owned(),
                closing: Vec::new(),
                regards: "Vänliga hälsningar",
                signature: "Backroom".to_owned(),
                footer: format!("Skickat till administratörerna för {organization_name}."),
                amount,
            }
        }
        Language::En => {
            let sent = if count == 1 { "one reminder".to_owned() } else { format!("{count} reminders") };
            Letter {
                lang: "en",
                tone: Tone::Notice,
                preheader: format!("{company_name} has not paid {amount}. This one needs a person."),
                subject: format!("Unanswered after {sent}: invoice {invoice_number}, {company_name}"),
                organization: organization_name.clone(),
                label: "Needs your attention".to_owned(),
                heading: "The reminders went unanswered".to_owned(),
                greeting: "Hello,".to_owned(),
                paragraphs: vec![
                    format!("{company_name} has not paid invoice {invoice_number}, despite {sent}."),
                    "No more reminders will be sent. It is now up to you what happens next.".to_owned(),
                ],
                action: None,
                amount_label: "Unpaid amount",
                facts: rows(["Customer", "Invoice", "Due date", "Overdue", "Reminders"]),
                payment_heading: "What you can do",
                payment: Vec::new(),
                payment_note:
                    "Call the customer, agree on a payment plan or hand the case to debt collection. Mark the \
                               invoice as paid or cancelled once the matter is settled."
                        .to_owned(),
                closing: Vec::new(),
                regards: "Kind regards",
                signature: "Backroom".to_owned(),
                footer: format!("Sent to the administrators of {organization_name}."),
                amount,
            }
        }
    }
}

/// How to pay, as far as the organization has said. Without an account number there is nothing to pay to, so the rows
/// stay empty.
fn payment_rows(mail: &ReminderMail, payee: &'static str, reference: &'static str) -> Vec<Row> {
    let details = &mail.payment;
    let mut rows = Vec::new();
    if let Some(bankgiro) = &details.bankgiro {
        rows.push(Row { label: "Bankgiro", value: bankgiro.clone() });
    }
    if let Some(iban) = &details.iban {
        rows.push(Row { label: "IBAN", value: in_fours(iban) });
    }
    if rows.is_empty() {
        return rows;
    }
    rows.push(Row { label: payee, value: details.payee.clone().unwrap_or_else(|| mail.organization_name.clone()) });
    rows.push(Row { label: reference, value: mail.invoice_number.clone() });
    rows
}

/// An IBAN as ISO 13616 prints it: groups of four.
fn in_fours(iban: &str) -> String {
    let letters: Vec<char> = iban.chars().filter(|c| !c.is_whitespace()).collect();
    letters.chunks(4).map(String::from_iter).collect::<Vec<_>>().join(" ")
}

pub(super) fn days(language: Language, count: i64) -> String {
    match (language, count) {
        (Language::Sv, 1) => "1 dag".to_owned(),
        (Language::Sv, _) => format!("{count} dagar"),
        (Language::En, 1) => "1 day".to_owned(),
        (Language::En, _) => format!("{count} days"),
    }
}

pub(super) fn long_date(language: Language, date: NaiveDate) -> String {
    const SV: [&str; 12] = [
        "januari",
        "februari",
        "mars",
        "april",
        "maj",
        "juni",
        "juli",
        "augusti",
        "september",
        "oktober",
        "november",
        "december",
    ];
    const EN: [&str; 12] = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ];
    let months = match language {
        Language::Sv => SV,
        Language::En => EN,
    };
    format!("{} {} {}", date.day(), months[date.month0() as usize], date.year())
}
