use rust_decimal::dec;

use super::*;

const HEADER: &str = "number,org_number,company_name,company_email,language,issue_date,due_date,currency,description,\
                      quantity,unit_price,tax_rate\n";

fn row(number: &str, description: &str, price: &str) -> String {
    format!("{number},556194-7986,Acme AB,ap@acme.example,sv,2026-01-01,2026-01-31,SEK,{description},2,{price},0.25\n")
}

fn parse_rows(rows: &[String]) -> Parsed {
    parse(format!("{HEADER}{}", rows.concat()).as_bytes()).unwrap()
}

fn told(parsed: &Parsed) -> Vec<(u64, &str)> {
    parsed.bad.iter().map(|error| (error.line, error.field.as_str())).collect()
}

/// BILL-10
#[test]
fn lines_with_the_same_number_are_items_of_one_invoice() {
    let parsed = parse_rows(&[row("1001", "Hours", "100.50"), row("1001", "Travel", "20"), row("1002", "Hours", "1")]);
    assert_eq!(parsed.bad, []);
    let [(2, first), (4, second)] = parsed.invoices.as_slice() else { panic!("{:?}", parsed.invoices) };
    assert_eq!((first.number.as_str(), first.items.len()), ("1001", 2));
    assert_eq!(first.items[0].unit_price, dec!(100.50));
    assert_eq!((second.number.as_str(), second.items.len()), ("1002", 1));
    let invoice = first.clone().into_new_invoice(Uuid::nil());
    assert_eq!((invoice.status, invoice.payment_terms_days), (InvoiceStatus::Unpaid, 30));
    assert_eq!(first.new_company().org_number.as_str(), "5561947986");
}

/// BILL-10
#[test]
fn a_swedish_spreadsheet_is_read_as_it_comes() {
    let file = "\u{feff}number;org_number;company_name;company_email;language;issue_date;due_date;currency;\
                description;quantity;unit_price;tax_rate\r\n\
                \r\n\
                1001;5561947986;\"Åkes; Bygg\nAB\";a@b.example;;2026-01-01;;;Timmar;1,5;1 250,50;0,06\r\n\
                1002;5561947986;Åkes Bygg;a@b.example;SV;2026-01-01;;sek;Timmar;1,5;1\u{a0}250;\r\n\
                ;;;;;;;;;;;\r\n\
                1003;5561947986;Åkes Bygg;a@b.example;SV;2026-01-01;;sek;Timmar;1,5;1.250,50;\r\n";
    let parsed = parse(file.as_bytes()).unwrap();
    // The name of the first spans two lines, so everything after it stands one line lower.
    assert_eq!(told(&parsed), [(3, "company_name"), (7, "unit_price")]);
    let [(5, invoice)] = parsed.invoices.as_slice() else { panic!("{:?}", parsed.invoices) };
    assert_eq!(invoice.items[0].quantity, dec!(1.5));
    assert_eq!(invoice.items[0].unit_price, dec!(1250));
    assert_eq!(invoice.items[0].tax_rate, dec!(0.25));
    assert_eq!(invoice.due_date.to_string(), "2026-01-31");
    assert_eq!((invoice.language, invoice.currency), (Language::Sv, Currency::SEK));
}

/// BILL-10
#[test]
fn a_bad_line_is_reported_with_each_of_its_faults_and_stops_no_other() {
    let bad = "1002,123456-7890,,nobody,de,2026-02-30,soon,XXX,Hours,many,1.23456,25\n".to_owned();
    let short = "1003,556194-7986\n".to_owned();
    let parsed = parse_rows(&[row("1001", "Hours", "1"), bad, short, row("1004", "Hours", "1")]);
    assert_eq!(
        told(&parsed),
        [
            (3, "company_name"),
            (3, "org_number"),
            (3, "company_email"),
            (3, "language"),
            (3, "issue_date"),
            (3, "due_date"),
            (3, "currency"),
            (3, "quantity"),
            (4, "line"),
        ]
    );
    let lines: Vec<u64> = parsed.invoices.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [2, 5]);
}

/// BILL-10
#[test]
fn part_of_an_invoice_is_never_imported() {
    let parsed = parse_rows(&[row("1001", "Hours", "1"), row("1001", "Travel", "x"), row("1002", "Hours", "1")]);
    assert_eq!(told(&parsed), [(2, "number"), (3, "unit_price")]);
    assert_eq!(parsed.bad[0].message, "1001 is left out, because another of its lines is wrong");
    assert_eq!(parsed.invoices.len(), 1);

    let other_date = row("1001", "Travel", "1").replace("2026-01-31", "2026-02-28");
    let parsed = parse_rows(&[row("1001", "Hours", "1"), other_date]);
    assert_eq!(told(&parsed), [(2, "number"), (3, "due_date")]);

    let parsed = parse_rows(&[row("1001", "Hours", "1"), "1001,,\n".to_owned()]);
    assert_eq!(told(&parsed), [(2, "number"), (3, "line")]);
    assert_eq!(parsed.invoices, []);

    let parsed = parse_rows(&["1001,,\n".to_owned(), row("1001", "Hours", "1")]);
    assert_eq!(told(&parsed), [(2, "line")]);
    assert_eq!(parsed.invoices, []);
}

/// BILL-10
#[test]
fn the_same_invoice_twice_is_told_with_both_lines() {
    let rows = [row("1001", "Hours", "1"), row("1002", "Hours", "1"), row("1001", "Hours", "1")];
    let parsed = parse_rows(&rows);
    assert_eq!(told(&parsed), [(4, "line")]);
    assert_eq!(parsed.bad[0].message, "repeats line 2 word for word and is left out");
    assert_eq!(parsed.invoices.len(), 2);

    let rows = [row("1001", "Hours", "1"), row("1002", "Hours", "1"), row("1001", "Travel", "1")];
    let parsed = parse_rows(&rows);
    assert_eq!(told(&parsed), [(2, "number"), (4, "number")]);
    assert!(parsed.bad[1].message.contains("line 2"), "{:?}", parsed.bad);
    assert_eq!(parsed.invoices.len(), 1);
}

/// BILL-10
#[test]
fn a_wrong_header_names_the_columns_at_fault() {
    let header = HEADER.replace("tax_rate", "vat").replace("quantity", "number");
    let error = parse(header.as_bytes()).unwrap_err();
    let told = error.to_string();
    assert!(told.contains("missing: quantity, tax_rate"), "{told}");
    assert!(told.contains("unknown: vat"), "{told}");
    assert!(told.contains("repeated: number"), "{told}");
    assert_eq!(parse(b"\n \n"), Err(ImportError::Empty));
    assert_eq!(parse(b"\xef\xbb\xbf"), Err(ImportError::Empty));
    let latin1 = [HEADER.as_bytes(), b"1001,5561947986,\xc5kes"].concat();
    assert_eq!(parse(&latin1), Err(ImportError::NotUtf8 { line: 2 }));
}

#[test]
fn columns_may_come_in_any_order_and_a_header_alone_is_an_empty_import() {
    assert_eq!(parse(HEADER.as_bytes()), Ok(Parsed::default()));
    let reversed = |line: &str| line.trim().split(',').rev().collect::<Vec<_>>().join(",");
    let file = format!("{}\n{}", reversed(HEADER), reversed(&row("1001", "Hours", "7")));
    let parsed = parse(file.as_bytes()).unwrap();
    assert_eq!(parsed.invoices[0].1.items[0].unit_price, dec!(7));
}

#[test]
fn limits_of_an_invoice_hold_for_imported_ones() {
    let many: Vec<String> = (0..=200).map(|n| row("1001", &format!("Item {n}"), "1")).collect();
    assert_eq!(told(&parse_rows(&many)), [(2, "items")]);
    assert_eq!(told(&parse_rows(&[row("1001", "Credit", "-1")])), [(2, "items")]);
    assert_eq!(told(&parse_rows(&[row(&"9".repeat(51), "Hours", "1")])), [(2, "number")]);
    let late = row("1001", "Hours", "1").replace("2026-01-31", "2025-12-31");
    assert_eq!(told(&parse_rows(&[late])), [(2, "due_date")]);
}

proptest::proptest! {
    #[test]
    fn no_file_makes_the_reader_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn no_line_under_a_good_header_makes_the_reader_panic(rows in "[0-9a-z,;\"\r\n.åäö -]{0,400}") {
        let _ = parse(format!("{HEADER}{rows}").as_bytes());
    }
}
