//! Made-up customers and the work that they are invoiced for. The domains are reserved for examples (RFC 2606), the
//! phone numbers for fiction (PTS), and the organization numbers valid, but beyond those handed out so far.

use crate::domain::Language::{self, En, Sv};

pub struct Customer {
    pub name: &'static str,
    pub email: &'static str,
    pub org_number: &'static str,
    pub language: Language,
    pub phone: &'static str,
    /// Name and title.
    pub contact: (&'static str, &'static str),
}

const fn customer(
    (name, email, org_number): (&'static str, &'static str, &'static str),
    language: Language,
    phone: &'static str,
    contact: (&'static str, &'static str),
) -> Customer {
    Customer { name, email, org_number, language, phone, contact }
}

pub const CUSTOMERS: [Customer; 10] = [
    customer(
        ("Björkdalens Bageri AB", "ekonomi@bjorkdalen.example", "559995-2545"),
        Sv,
        "031-390 06 01",
        ("Elin Björkdal", "Ägare"),
    ),
    customer(
        ("Skärgårdens Båtvarv AB", "faktura@batvarvet.example", "559996-7667"),
        Sv,
        "08-465 004 02",
        ("Johan Öman", "Ekonomichef"),
    ),
    customer(
        ("Harrow & Finch Nordic AB", "accounts@harrowfinch.example", "559990-1740"),
        En,
        "040-628 04 03",
        ("Priya Raman", "Finance manager"),
    ),
    customer(
        ("Kvarnby Elteknik AB", "leverantor@kvarnby.example", "559998-1965"),
        Sv,
        "031-390 06 04",
        ("Mattias Ek", "Kontorschef"),
    ),
    customer(
        ("Northgate Analytics AB", "ap@northgate.example", "559995-6967"),
        En,
        "08-465 004 05",
        ("Tom Hargreaves", "Controller"),
    ),
    customer(
        ("Snöflingan Förskolor AB", "kontoret@snoflingan.example", "559990-6194"),
        Sv,
        "0980-319 206",
        ("Aino Niemi", "Rektor"),
    ),
    customer(
        ("Söderlunds Åkeri AB", "ekonomi@soderlunds.example", "559993-1382"),
        Sv,
        "040-628 04 07",
        ("Lars Söderlund", "VD"),
    ),
    customer(
        ("Cedar & Stone Interiors AB", "billing@cedarstone.example", "559991-5443"),
        En,
        "08-465 004 08",
        ("Maya Lindqvist", "Office manager"),
    ),
    customer(
        ("Mälarglas AB", "greylist@malarglas.example", "559996-1710"),
        Sv,
        "08-465 004 09",
        ("Sofia Berg", "Ekonomiassistent"),
    ),
    customer(
        ("Ostkupan i Lund AB", "reject@ostkupan.example", "559993-1929"),
        Sv,
        "040-628 04 10",
        ("Nils Dahl", "Butikschef"),
    ),
];

/// Swedish, English, quantity, unit price in whole kronor before tax.
pub const WORK: [(&str, &str, u32, u32); 7] = [
    ("Löpande bokföring, timmar", "Bookkeeping, hours", 12, 895),
    ("Löneadministration", "Payroll administration", 1, 4_850),
    ("Årsbokslut", "Annual accounts", 1, 18_500),
    ("Rådgivning, timmar", "Advice, hours", 4, 1_250),
    ("Momsredovisning", "VAT returns", 1, 2_400),
    ("Kontroll av leverantörsreskontra", "Review of accounts payable", 1, 3_675),
    ("Budgetarbete, timmar", "Budgeting, hours", 6, 1_150),
];
