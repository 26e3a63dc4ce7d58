//! Invoices from a CSV file (BILL-10): what every line says, and what is wrong with the lines that say nothing useful.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Currency, EmailAddress, InvoiceStatus, Language, NewCompany, NewInvoice, NewItem, OrgNumber};

/// The columns, in the order of the template; a file may have them in any order.
pub const COLUMNS: [&str; 12] = [
    "number",
    "org_number",
    "company_name",
    "company_email",
    "language",
    "issue_date",
    "due_date",
    "currency",
    "description",
    "quantity",
    "unit_price",
    "tax_rate",
];

/// Why a file cannot be read at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("the file is empty; its first line must be: {}", COLUMNS.join(","))]
    Empty,
    #[error("the file is not UTF-8 (line {line}); save it as \"CSV UTF-8\" and try again")]
    NotUtf8 { line: u64 },
    #[error("the header is wrong{}; it must have each of: {}", header_problems(missing, unknown, repeated), COLUMNS.join(","))]
    Header { missing: Vec<String>, unknown: Vec<String>, repeated: Vec<String> },
}

fn header_problems(missing: &[String], unknown: &[String], repeated: &[String]) -> String {
    [("missing", missing), ("unknown", unknown), ("repeated", repeated)]
        .iter()
        .filter(|(_, columns)| !columns.is_empty())
        .map(|(problem, columns)| format!(", {problem}: {}", columns.join(", ")))
        .collect()
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineError {
    /// Of the file, from 1; the header is line 1.
    pub line: u64,
    /// The column at fault, or `line` when it is the whole line.
    pub field: String,
    /// For people; starts with a verb.
    pub message: String,
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Invoices that are in order, with the line that each begins on, in the order of the file.
    pub invoices: Vec<(u64, ImportedInvoice)>,
    /// What is not imported and why, in the order of the lines.
    pub bad: Vec<LineError>,
}

/// An invoice of the file, with the company that it goes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedInvoice {
    pub number: String,
    pub org_number: OrgNumber,
    pub company_name: String,
    pub company_email: EmailAddress,
    pub language: Language,
    pub issue_date: NaiveDate,
    pub due_date: NaiveDate,
    pub currency: Currency,
    pub items: Vec<NewItem>,
}

impl ImportedInvoice {
    /// The company, for when the organization does not know its number yet.
    pub fn new_company(&self) -> NewCompany {
        NewCompany {
            name: self.company_name.clone(),
            email: self.company_email.clone(),
            org_number: self.org_number.clone(),
            language: self.language,
            phone: None,
            contact: None,
        }
    }

    /// The invoice, unpaid, for the company with `company_id`.
    pub fn into_new_invoice(self, company_id: Uuid) -> NewInvoice {
        NewInvoice {
            number: self.number,
            company_id,
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Unpaid,
            currency: self.currency,
            issue_date: self.issue_date,
            due_date: self.due_date,
            payment_terms_days: i32::try_from((self.due_date - self.issue_date).num_days()).unwrap_or(0),
            notes: None,
            items: self.items,
        }
    }
}

/// Reads a file. A bad line does not stop the good ones.
pub fn parse(_file: &[u8]) -> Result<Parsed, ImportError> {
    Err(ImportError::Empty)
}
