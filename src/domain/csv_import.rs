//! Invoices from a CSV file (BILL-10): what every line says, and what is wrong with the lines that say nothing useful.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use chrono::NaiveDate;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::field_error::one_line;
use super::invoice::{DEFAULT_PAYMENT_TERMS_DAYS, DEFAULT_TAX_RATE, default_due_date};
use super::{
    Currency, EmailAddress, FieldErrors, InvoiceStatus, Language, NewCompany, NewInvoice, NewItem, OrgNumber,
    ParseError,
};

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
        // The file has dates only. The due date is what counts; the terms say how it came about.
        let terms = (self.due_date - self.issue_date).num_days().clamp(0, 365) as i32;
        NewInvoice {
            number: self.number,
            company_id,
            project_id: None,
            contract_id: None,
            status: InvoiceStatus::Unpaid,
            currency: self.currency,
            issue_date: self.issue_date,
            due_date: self.due_date,
            payment_terms_days: terms,
            notes: None,
            items: self.items,
        }
    }
}

/// Reads a file: UTF-8, with or without a byte order mark, columns separated by commas, or by semicolons as Swedish
/// spreadsheets write them (then with decimal commas). A bad line does not stop the good ones.
///
/// Lines with the same number that follow each other are the items of one invoice, if they agree on everything but the
/// item. A line that repeats an earlier one word for word is reported and left out. An invoice with any other wrong
/// line is left out whole, because part of an invoice is a wrong invoice.
pub fn parse(file: &[u8]) -> Result<Parsed, ImportError> {
    let text = std::str::from_utf8(file)
        .map_err(|error| ImportError::NotUtf8 { line: 1 + line_breaks(&file[..error.valid_up_to()]) })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let header_line = text.lines().find(|line| !line.trim().is_empty()).ok_or(ImportError::Empty)?;
    let delimiter = if header_line.contains(';') { b';' } else { b',' };
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(delimiter)
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let mut lines = LineCounter { text: text.as_bytes(), byte: 0, line: 1 };
    let mut columns: Option<Columns> = None;
    let mut import = Import::default();
    // Reading UTF-8 from memory into records of any length cannot fail.
    for record in reader.records().map_while(Result::ok) {
        let line = lines.line_of(&record);
        match &columns {
            None => columns = Some(Columns::parse(&record, delimiter == b';')?),
            Some(columns) => import.add(line, &record, columns),
        }
    }
    Ok(import.finish())
}

fn line_breaks(bytes: &[u8]) -> u64 {
    bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum()
}

/// Numbers lines as an editor does. The reader's own count is off after CRLF and blank lines.
struct LineCounter<'a> {
    text: &'a [u8],
    byte: usize,
    line: u64,
}

impl LineCounter<'_> {
    /// Records must come in the order of the file.
    fn line_of(&mut self, record: &csv::StringRecord) -> u64 {
        let start = record.position().and_then(|at| usize::try_from(at.byte()).ok()).unwrap_or(self.byte);
        let blank = self.text[start..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        self.line += line_breaks(&self.text[self.byte..start + blank]);
        self.byte = start + blank;
        self.line
    }
}

/// Where each of [`COLUMNS`] stands in the file.
struct Columns {
    positions: [usize; COLUMNS.len()],
    decimal_comma: bool,
}

impl Columns {
    fn parse(header: &csv::StringRecord, decimal_comma: bool) -> Result<Self, ImportError> {
        let names: Vec<String> = header.iter().map(str::to_ascii_lowercase).collect();
        let positions = COLUMNS.map(|column| names.iter().position(|name| name == column));
        let missing: Vec<String> = COLUMNS
            .iter()
            .zip(positions)
            .filter(|(_, position)| position.is_none())
            .map(|(column, _)| (*column).to_owned())
            .collect();
        let (known, unknown): (Vec<String>, Vec<String>) =
            names.into_iter().partition(|name| COLUMNS.contains(&name.as_str()));
        let repeated: Vec<String> = COLUMNS
            .iter()
            .filter(|column| known.iter().filter(|name| name == *column).count() > 1)
            .map(|column| (*column).to_owned())
            .collect();
        if !missing.is_empty() || !unknown.is_empty() || !repeated.is_empty() {
            let unknown = unknown
                .into_iter()
                .map(|name| if name.is_empty() { "(a column without a name)".to_owned() } else { name })
                .collect();
            return Err(ImportError::Header { missing, unknown, repeated });
        }
        Ok(Self { positions: positions.map(Option::unwrap_or_default), decimal_comma })
    }
}

/// One line of the file, its fields by name. Errors are collected, so that a line is mended in one go.
struct Line<'a> {
    record: &'a csv::StringRecord,
    columns: &'a Columns,
    errors: FieldErrors,
}

impl Line<'_> {
    fn text(&self, column: &str) -> &str {
        let position = COLUMNS.iter().position(|name| *name == column);
        position.and_then(|position| self.record.get(self.columns.positions[position])).unwrap_or_default()
    }

    /// The field, read by `parse`; an empty one is `default`, or an error without a default.
    fn field<T>(
        &mut self,
        column: &str,
        default: Option<T>,
        parse: impl FnOnce(&str) -> Result<T, ParseError>,
    ) -> Option<T> {
        let text = self.text(column);
        let value = match default {
            Some(default) if text.is_empty() => Ok(default),
            None if text.is_empty() => Err(ParseError::new("required", "must not be empty")),
            _ => parse(text),
        };
        self.errors.check(column, value)
    }

    /// What is common to the lines of an invoice, with no items yet.
    fn head(&mut self) -> Option<ImportedInvoice> {
        let company_name = self.field("company_name", None, |name| one_line(name, 200).map(|()| name.to_owned()));
        let org_number = self.field("org_number", None, OrgNumber::parse);
        let company_email = self.field("company_email", None, EmailAddress::parse);
        let language = self.field("language", Some(Language::default()), |text| text.to_ascii_lowercase().parse());
        let issue_date = self.field("issue_date", None, date);
        let default_due = issue_date.map(|day| default_due_date(day, DEFAULT_PAYMENT_TERMS_DAYS));
        let due_date = match self.text("due_date") {
            "" => default_due,
            _ => self.field("due_date", None, date),
        };
        let currency = self.field("currency", Some(Currency::SEK), |text| Currency::parse(&text.to_ascii_uppercase()));
        Some(ImportedInvoice {
            number: self.text("number").to_owned(),
            org_number: org_number?,
            company_name: company_name?,
            company_email: company_email?,
            language: language?,
            issue_date: issue_date?,
            due_date: due_date?,
            currency: currency?,
            items: Vec::new(),
        })
    }

    fn item(&mut self) -> Option<NewItem> {
        let decimal_comma = self.columns.decimal_comma;
        let description = self.field("description", None, |text| Ok(text.to_owned()));
        let quantity = self.field("quantity", None, |text| decimal(text, decimal_comma));
        let unit_price = self.field("unit_price", None, |text| decimal(text, decimal_comma));
        let tax_rate = self.field("tax_rate", Some(DEFAULT_TAX_RATE), |text| decimal(text, decimal_comma));
        let item =
            NewItem { description: description?, quantity: quantity?, unit_price: unit_price?, tax_rate: tax_rate? };
        item.validate("", &mut self.errors);
        Some(item)
    }
}

fn date(text: &str) -> Result<NaiveDate, ParseError> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d")
        .map_err(|_| ParseError::invalid("is not a date; write it as 2026-01-31"))
}

fn decimal(text: &str, decimal_comma: bool) -> Result<Decimal, ParseError> {
    let plain = if decimal_comma {
        let compact: String = text.chars().filter(|c| !matches!(c, ' ' | '\u{a0}' | '\u{202f}')).collect();
        if compact.contains('.') && compact.contains(',') {
            return Err(ParseError::invalid("has both a point and a comma; write 1250,50"));
        }
        compact.replace(',', ".")
    } else {
        text.to_owned()
    };
    let digits = plain.strip_prefix('-').unwrap_or(&plain);
    let well_formed = digits.starts_with(|c: char| c.is_ascii_digit())
        && digits.ends_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let example = if decimal_comma { "1250,50" } else { "1250.50" };
    Some(plain.as_str())
        .filter(|_| well_formed)
        .and_then(|plain| Decimal::from_str_exact(plain).ok())
        .ok_or_else(|| ParseError::invalid(format!("is not a number; it looks like {example}")))
}

/// The invoices found so far.
#[derive(Default)]
struct Import {
    groups: Vec<Group>,
    by_number: HashMap<String, usize>,
    /// Where every line was first seen, by [`fingerprint`].
    seen: HashMap<[u8; 16], u64>,
    bad: Vec<LineError>,
}

/// The lines of one invoice.
struct Group {
    number: String,
    first_line: u64,
    /// None until a line of it was in order.
    invoice: Option<ImportedInvoice>,
    spoiled: bool,
}

impl Import {
    fn add(&mut self, line: u64, record: &csv::StringRecord, columns: &Columns) {
        if record.iter().all(str::is_empty) {
            return; // what spreadsheets leave below the last row
        }
        if record.len() != COLUMNS.len() {
            let message =
                format!("has {} columns instead of {}; a quotation mark may be left open", record.len(), COLUMNS.len());
            if let Some(number) = record.get(columns.positions[0]).filter(|number| !number.is_empty()) {
                let position = self.group(line, number);
                self.groups[position].spoiled = true;
            }
            return self.refuse(line, "line", message);
        }
        match self.seen.entry(fingerprint(record)) {
            Entry::Vacant(entry) => entry.insert(line),
            Entry::Occupied(first) => {
                let message = format!("repeats line {} word for word and is left out", first.get());
                return self.refuse(line, "line", message);
            }
        };

        let mut parsed = Line { record, columns, errors: FieldErrors::default() };
        let Some(number) = parsed.field("number", None, |text| one_line(text, 50).map(|()| text.to_owned())) else {
            return self.refuse_all(line, parsed.errors);
        };
        let (head, item) = (parsed.head(), parsed.item());
        let errors = parsed.errors;
        let position = self.group(line, &number);
        let is_last = position + 1 == self.groups.len();
        let group = &mut self.groups[position];
        if !is_last {
            group.spoiled = true;
            let first = group.first_line;
            let message =
                format!("is the same invoice as on line {first}; the lines of an invoice must stand together");
            return self.refuse(line, "number", message);
        }
        let (Some(head), Some(item), true) = (head, item, errors.0.is_empty()) else {
            group.spoiled = true;
            return self.refuse_all(line, errors);
        };
        match &mut group.invoice {
            None => group.invoice = Some(ImportedInvoice { items: vec![item], ..head }),
            Some(invoice) => match difference(invoice, &head) {
                None => invoice.items.push(item),
                Some(column) => {
                    group.spoiled = true;
                    let first = group.first_line;
                    self.refuse(line, column, format!("differs from line {first}, which has the same invoice number"));
                }
            },
        }
    }

    /// The position of the invoice's group, which is begun if there is none.
    fn group(&mut self, line: u64, number: &str) -> usize {
        if let Some(position) = self.by_number.get(number) {
            return *position;
        }
        self.groups.push(Group { number: number.to_owned(), first_line: line, invoice: None, spoiled: false });
        self.by_number.insert(number.to_owned(), self.groups.len() - 1);
        self.groups.len() - 1
    }

    fn refuse(&mut self, line: u64, field: &str, message: String) {
        self.bad.push(LineError { line, field: field.to_owned(), message });
    }

    fn refuse_all(&mut self, line: u64, errors: FieldErrors) {
        for error in errors.0 {
            self.refuse(line, &error.field, error.message);
        }
    }

    fn finish(mut self) -> Parsed {
        let mut invoices = Vec::new();
        let refused: HashSet<u64> = self.bad.iter().map(|error| error.line).collect();
        for group in std::mem::take(&mut self.groups) {
            match group.invoice {
                Some(invoice) if !group.spoiled => match invoice.clone().into_new_invoice(Uuid::nil()).validate() {
                    Ok(()) => invoices.push((group.first_line, invoice)),
                    Err(errors) => self.refuse_all(group.first_line, errors),
                },
                _ if refused.contains(&group.first_line) => {}
                _ => {
                    let message = format!("{} is left out, because another of its lines is wrong", group.number);
                    self.refuse(group.first_line, "number", message);
                }
            }
        }
        self.bad.sort_by_key(|error| error.line);
        Parsed { invoices, bad: self.bad }
    }
}

/// Stands for all fields of a line: half a SHA-256, each field after its length. No two lines of a file share one by accident or
/// on purpose, and a large file is not held a second time.
fn fingerprint(record: &csv::StringRecord) -> [u8; 16] {
    let mut hash = Sha256::new();
    for field in record {
        hash.update((field.len() as u64).to_be_bytes());
        hash.update(field);
    }
    let mut half = [0; 16];
    half.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    half
}

/// The first column on which two lines of an invoice disagree.
fn difference(a: &ImportedInvoice, b: &ImportedInvoice) -> Option<&'static str> {
    [
        ("org_number", a.org_number == b.org_number),
        ("company_name", a.company_name == b.company_name),
        ("company_email", a.company_email == b.company_email),
        ("language", a.language == b.language),
        ("issue_date", a.issue_date == b.issue_date),
        ("due_date", a.due_date == b.due_date),
        ("currency", a.currency == b.currency),
    ]
    .into_iter()
    .find(|(_, same)| !same)
    .map(|(column, _)| column)
}

#[cfg(test)]
mod tests;
