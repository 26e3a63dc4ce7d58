//! Invoices (BILL-10). QuickBooks tells the tax of an invoice by rate, and of a line only a code: the rate of a code is that of the
//! tax on as much as its lines come to. What is taken adds up to what QuickBooks wants to be paid, or it is not taken.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate};
use rust_decimal::{Decimal, dec};
use serde::Deserialize;

use super::{
    QuickBooks,
    purchases::{Id, Reference},
};
use crate::{
    clients::purchase::{Exact, Word, line_of_text},
    domain::{
        Currency, EmailAddress, NewItem,
        integration::BadRecord,
        invoice,
        source_record::{Facts, InvoiceFacts, InvoiceLineFacts, SourceRecord},
    },
};

/// What rounding may make of a whole invoice; some are rounded to whole units.
const ROUNDING: Decimal = dec!(1);

/// `Invoice` of Finance.xsd, as far as it is needed.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Invoice {
    id: Word,
    #[serde(rename = "status")]
    status: Option<String>,
    doc_number: Option<String>,
    txn_date: Option<NaiveDate>,
    due_date: Option<NaiveDate>,
    customer_ref: Option<Reference>,
    bill_email: Option<Address>,
    currency_ref: Option<Reference>,
    #[serde(default)]
    line: Vec<Line>,
    txn_tax_detail: Option<Tax>,
    total_amt: Option<Exact>,
    balance: Option<Exact>,
    private_note: Option<String>,
    #[serde(default)]
    custom_field: Vec<CustomField>,
    #[serde(default)]
    apply_tax_after_discount: bool,
    meta_data: Option<Meta>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Address {
    address: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CustomField {
    name: Option<String>,
    string_value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    last_updated_time: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    #[serde(default)]
    detail_type: String,
    amount: Option<Exact>,
    description: Option<String>,
    sales_item_line_detail: Option<Sale>,
    group_line_detail: Option<Group>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Sale {
    item_ref: Option<Reference>,
    unit_price: Option<Exact>,
    qty: Option<Exact>,
    tax_code_ref: Option<Reference>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Group {
    #[serde(default)]
    line: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Tax {
    #[serde(default)]
    tax_line: Vec<TaxLine>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaxLine {
    tax_line_detail: Option<TaxLineDetail>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TaxLineDetail {
    tax_percent: Option<Exact>,
    net_amount_taxable: Option<Exact>,
}

/// A line before its rate is known.
struct Drawn {
    line: InvoiceLineFacts,
    amount: Decimal,
    /// The tax code; `None` where no tax is due.
    code: Option<String>,
}

impl QuickBooks {
    pub(super) fn invoice(&self, raw: &str) -> Result<SourceRecord, BadRecord> {
        let external_id = serde_json::from_str::<Id>(raw).ok().map(|id| format!("invoice-{}", id.id.0));
        let read: Result<Invoice, _> = serde_json::from_str(raw);
        let read = read
            .map_err(|error| format!("the invoice cannot be read at line {}, column {}", error.line(), error.column()));
        let taken = read.and_then(|invoice| Ok((format!("invoice-{}", invoice.id.0), self.facts(&invoice)?)));
        match taken {
            Ok((external_id, facts)) => Ok(SourceRecord { external_id, facts: Facts::Invoice(facts) }),
            Err(reason) => Err(BadRecord { external_id, reason }),
        }
    }

    fn facts(&self, invoice: &Invoice) -> Result<InvoiceFacts, String> {
        if invoice.status.as_deref() == Some("Deleted") {
            return Err("the invoice was deleted at QuickBooks; if it is still open here, cancel it here".to_owned());
        }
        let number = invoice.doc_number.as_deref().and_then(line_of_text).ok_or("the invoice has no number")?;
        let issue_date = invoice.txn_date.ok_or("the invoice has no date")?;
        let currency =
            invoice.currency_ref.as_ref().map_or(Ok(self.currency), |currency| Currency::parse(&currency.value.0));
        let currency = currency.map_err(|_| "its currency is no ISO 4217 code with two decimals")?;
        let Exact(total) = invoice.total_amt.ok_or("the invoice has no total")?;
        let voided = total.is_zero() && invoice.private_note.as_deref().is_some_and(|note| note.contains("Voided"));
        let lines = if voided { Vec::new() } else { lines(invoice, total)? };
        if invoice.balance.is_some_and(|Exact(balance)| Decimal::ZERO < balance && balance < total) {
            return Err("it is paid in part at QuickBooks, and an invoice is paid here as a whole or not at all; it comes once it is \
                        paid in full, and one that is here already asks for the whole until it is cancelled here"
                .to_owned());
        }
        let settled = !total.is_zero() && invoice.balance.is_some_and(|Exact(balance)| balance.is_zero());
        let changed = invoice.meta_data.as_ref().and_then(|meta| meta.last_updated_time.as_deref());
        let changed = changed.and_then(|time| DateTime::parse_from_rfc3339(time).ok()).map(|time| time.date_naive());
        let email = invoice.bill_email.as_ref().and_then(|email| email.address.as_deref());
        let customer = invoice.customer_ref.as_ref().and_then(|customer| customer.name.as_deref());
        Ok(InvoiceFacts {
            number,
            customer_org_number: self.org_number(invoice),
            customer_name: customer.and_then(line_of_text).unwrap_or_default(),
            // Several are written with commas between.
            customer_email: email.and_then(|all| EmailAddress::parse(all.split(',').next()?).ok()),
            currency,
            issue_date,
            due_date: invoice.due_date.unwrap_or(issue_date),
            lines,
            // QuickBooks says that nothing is owed any more, not since when: that is when the invoice changed last.
            paid_on: settled.then(|| changed.unwrap_or(issue_date)),
        })
    }

    fn org_number(&self, invoice: &Invoice) -> Option<String> {
        let wanted = self.org_number_field.as_deref()?;
        let field = invoice.custom_field.iter().find(|field| field.name.as_deref() == Some(wanted))?;
        field.string_value.as_deref().and_then(line_of_text)
    }
}

fn lines(invoice: &Invoice, total: Decimal) -> Result<Vec<InvoiceLineFacts>, String> {
    let mut drawn = Vec::new();
    draw(&invoice.line, invoice.apply_tax_after_discount, &mut drawn)?;
    let rates = rates(invoice, &drawn);
    let rate = |code: &str| rates.get(code).copied().unwrap_or_default();
    let mut lines: Vec<InvoiceLineFacts> = drawn
        .iter()
        .map(|drawn| InvoiceLineFacts {
            tax_rate: drawn.code.as_deref().map_or(Decimal::ZERO, rate),
            ..drawn.line.clone()
        })
        .collect();
    let items: Vec<NewItem> = lines
        .iter()
        .map(|InvoiceLineFacts { description, quantity, unit_price, tax_rate }| NewItem {
            description: description.clone(),
            quantity: *quantity,
            unit_price: *unit_price,
            tax_rate: *tax_rate,
        })
        .collect();
    let missing = total.saturating_sub(invoice::totals(&items).total);
    if missing.abs() > ROUNDING || lines.is_empty() {
        return Err(
            "its lines with their tax do not add up to its total, so it is not known what is owed for what".to_owned()
        );
    }
    if !missing.is_zero() {
        let description = "Rounding".to_owned();
        let line =
            InvoiceLineFacts { description, quantity: Decimal::ONE, unit_price: missing, tax_rate: Decimal::ZERO };
        lines.push(line);
    }
    Ok(lines)
}

/// The lines that cost something, groups laid open.
fn draw(lines: &[Line], discount_before_tax: bool, drawn: &mut Vec<Drawn>) -> Result<(), String> {
    for line in lines {
        if let Some(group) = &line.group_line_detail {
            draw(&group.line, discount_before_tax, drawn)?;
            continue;
        }
        let amount = line.amount.map(|Exact(amount)| amount);
        let text = line.description.as_deref().and_then(line_of_text);
        match (line.detail_type.as_str(), &line.sales_item_line_detail, amount) {
            ("DiscountLineDetail", _, Some(amount)) => {
                // A discount before tax lowers what the first code's tax is on; with several codes the sum will tell.
                let code = drawn.iter().find_map(|line| line.code.clone()).filter(|_| discount_before_tax);
                let description = text.unwrap_or_else(|| "Discount".to_owned());
                let (quantity, tax_rate) = (Decimal::ONE, Decimal::ZERO);
                let line = InvoiceLineFacts { description, quantity, unit_price: -amount, tax_rate };
                drawn.push(Drawn { line, amount: -amount, code });
            }
            (_, Some(sale), Some(amount)) => {
                let item = sale.item_ref.as_ref().and_then(|item| item.name.as_deref()).and_then(line_of_text);
                let description = text.or(item).unwrap_or_else(|| "Item".to_owned());
                let (quantity, unit_price) = priced(sale, amount);
                let code = sale.tax_code_ref.as_ref().map(|code| code.value.0.clone()).filter(|code| code != "NON");
                let line = InvoiceLineFacts { description, quantity, unit_price, tax_rate: Decimal::ZERO };
                drawn.push(Drawn { line, amount, code });
            }
            // Sums and remarks.
            ("SubTotalLineDetail" | "DescriptionOnly", ..) | (_, _, None) => {}
            (_, None, Some(amount)) if amount.is_zero() => {}
            (_, None, Some(_)) => return Err("the invoice has a line of a kind that is not known".to_owned()),
        }
    }
    Ok(())
}

/// Quantity and price of a line, if they come to its amount and are as exact as is kept; else one piece of the whole.
fn priced(sale: &Sale, amount: Decimal) -> (Decimal, Decimal) {
    let quantity = sale.qty.map_or(Decimal::ONE, |Exact(quantity)| quantity);
    let told = sale.unit_price.map(|Exact(price)| price).filter(|price| {
        let item = NewItem { description: String::new(), quantity, unit_price: *price, tax_rate: Decimal::ZERO };
        let kept = |number: Decimal| number.normalize().scale() <= 4;
        invoice::line(&item).0 == amount && kept(quantity) && kept(*price)
    });
    told.map_or((Decimal::ONE, amount), |price| (quantity, price))
}

/// The rate of each tax code, as a share.
fn rates(invoice: &Invoice, drawn: &[Drawn]) -> BTreeMap<String, Decimal> {
    let mut nets: BTreeMap<String, Decimal> = BTreeMap::new();
    for drawn in drawn {
        if let Some(code) = &drawn.code {
            let net = nets.entry(code.clone()).or_default();
            *net = net.saturating_add(drawn.amount);
        }
    }
    let taxes: Vec<(Decimal, Option<Decimal>)> = invoice
        .txn_tax_detail
        .iter()
        .flat_map(|tax| &tax.tax_line)
        .filter_map(|line| line.tax_line_detail.as_ref())
        .filter_map(|tax| Some((tax.tax_percent?.0, tax.net_amount_taxable.map(|Exact(net)| net))))
        .collect();
    let alone = nets.len() == 1;
    nets.into_iter()
        .map(|(code, net)| {
            // More than one tax on the same, as a state's and a city's, add up.
            let percent: Decimal = taxes
                .iter()
                .filter(|(_, on)| on.map_or(alone, |on| on == net))
                .fold(Decimal::ZERO, |sum, (percent, _)| sum.saturating_add(*percent));
            (code, percent.checked_div(dec!(100)).unwrap_or_default().normalize())
        })
        .collect()
}
