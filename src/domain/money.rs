//! Amounts with their currency. Decimals, never floats.

use std::fmt;

use rust_decimal::{Decimal, RoundingStrategy};
use serde::{Deserialize, Deserializer, Serialize};

use super::{Language, ParseError};

/// The active currencies of ISO 4217 that have two decimals, which is what the database keeps.
const TWO_DECIMALS: &[&str] = &[
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BMD", "BND", "BOB",
    "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHF", "CNY", "COP", "CRC", "CUP", "CVE", "CZK", "DKK",
    "DOP", "DZD", "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GTQ", "GYD", "HKD",
    "HNL", "HTG", "HUF", "IDR", "ILS", "INR", "IRR", "JMD", "KES", "KGS", "KHR", "KPW", "KYD", "KZT", "LAK", "LBP",
    "LKR", "LRD", "LSL", "MAD", "MDL", "MKD", "MMK", "MNT", "MOP", "MUR", "MVR", "MWK", "MXN", "MYR", "MZN", "NAD",
    "NGN", "NIO", "NOK", "NPR", "NZD", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "QAR", "RON", "RSD", "RUB", "SAR",
    "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS",
    "TMT", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "USD", "UYU", "UZS", "VES", "WST", "XCD", "XCG", "YER", "ZAR",
    "ZMW",
];

/// An ISO 4217 currency with two decimals. Swedish kronor unless somebody says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct Currency(&'static str);

impl Currency {
    /// Swedish kronor.
    pub const SEK: Self = Self("SEK");

    /// Reads the alphabetic code, upper case as in the standard.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        TWO_DECIMALS.iter().find(|code| **code == text).map(|code| Self(code)).ok_or_else(|| {
            ParseError::invalid("is not an ISO 4217 code of a currency with two decimals, such as SEK or EUR")
        })
    }

    /// The three letters.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl Default for Currency {
    fn default() -> Self {
        Self::SEK
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

impl std::str::FromStr for Currency {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

// By hand, because the derived one would want input that lives for ever, as the letters do.
impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.0.to_owned()
    }
}

/// An amount of a currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    /// In whole units of the currency: 12.50 is twelve kronor and fifty öre.
    pub amount: Decimal,
    /// What it is an amount of.
    pub currency: Currency,
}

impl Money {
    /// As a reader of the language expects it, with two decimals: `12 500,00 kr` or `SEK 12,500.00`.
    pub fn format(self, language: Language) -> String {
        let rounded = round(self.amount).abs();
        let plain = format!("{rounded:.2}");
        let (whole, decimals) = plain.split_once('.').unwrap_or((&plain, "00"));
        let sign = if self.amount.is_sign_negative() && !rounded.is_zero() { "-" } else { "" };
        match language {
            Language::Sv => {
                let unit = if self.currency == Currency::SEK { "kr" } else { self.currency.as_str() };
                format!("{sign}{},{decimals} {unit}", grouped(whole, ' '))
            }
            Language::En => format!("{} {sign}{}.{decimals}", self.currency, grouped(whole, ',')),
        }
    }
}

/// Two decimals, half away from zero: 0.125 is 0.13 and -0.125 is -0.13.
pub(super) fn round(amount: Decimal) -> Decimal {
    let mut rounded = amount.round_dp_with_strategy(2, RoundingStrategy::MidpointAwayFromZero);
    rounded.rescale(2);
    rounded
}

fn grouped(digits: &str, separator: char) -> String {
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(separator);
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rust_decimal::dec;

    #[test]
    fn amounts_are_written_as_readers_expect() {
        let sek = |amount| Money { amount, currency: Currency::SEK };
        assert_eq!(sek(dec!(12500)).format(Language::Sv), "12 500,00 kr");
        assert_eq!(sek(dec!(12500)).format(Language::En), "SEK 12,500.00");
        assert_eq!(sek(dec!(1234567.8)).format(Language::Sv), "1 234 567,80 kr");
        assert_eq!(sek(dec!(999.995)).format(Language::En), "SEK 1,000.00");
        assert_eq!(sek(dec!(-0.5)).format(Language::Sv), "-0,50 kr");
        assert_eq!(sek(dec!(-0.001)).format(Language::En), "SEK 0.00");
        let eur = Money { amount: dec!(100), currency: Currency::parse("EUR").unwrap() };
        assert_eq!(eur.format(Language::Sv), "100,00 EUR");
    }

    #[test]
    fn only_currencies_with_two_decimals_are_taken() {
        for text in ["", "sek", "SE", "JPY", "KWD", "XXX", "BTC"] {
            assert!(Currency::parse(text).is_err(), "{text}");
        }
        assert!(TWO_DECIMALS.is_sorted());
        let json = serde_json::to_string(&Currency::SEK).unwrap();
        assert_eq!((json.as_str(), serde_json::from_str(&json).unwrap()), ("\"SEK\"", Currency::SEK));
    }

    /// BILL-3
    #[test]
    fn halves_are_rounded_away_from_zero() {
        for (amount, rounded) in
            [(dec!(0.125), "0.13"), (dec!(-0.125), "-0.13"), (dec!(0.124999), "0.12"), (dec!(2), "2.00")]
        {
            assert_eq!(round(amount).to_string(), rounded);
        }
    }
}
