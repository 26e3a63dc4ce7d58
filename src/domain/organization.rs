//! An organization: the tenant that everything else belongs to (TEN-1).

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::field_error::one_line;
use super::text::text_enum;
use super::{Currency, DunningPolicy, EmailAddress, FieldErrors, JoinForm, Language, ParseError, Slug, luhn};

text_enum! {
    /// What the organization pays for.
    #[derive(Default)]
    pub enum Tier("tier") {
        /// Nothing.
        #[default]
        Free = "free",
        /// The common subscription.
        Pro = "pro",
        /// By agreement.
        Enterprise = "enterprise",
    }
}

text_enum! {
    /// Whether the organization is in good standing.
    #[derive(Default)]
    pub enum BillingStatus("billing status") {
        /// Pays.
        Active = "active",
        /// Read-only, its jobs are held.
        Suspended = "suspended",
        /// Tries the product until the trial ends.
        #[default]
        Trial = "trial",
        /// Has left; as if suspended.
        Canceled = "canceled",
    }
}

/// What an organization decides for itself. A missing key has its default; an unknown one is an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Days after the due date at which reminders 1, 2, 3 … are sent: rising, each 1 to 365, at most ten.
    pub dunning_days: Vec<u32>,
    /// Who hears about invoices that no reminder got paid.
    pub admin_emails: Vec<EmailAddress>,
    /// How customers pay; printed on reminders.
    pub payment: PaymentDetails,
    /// The currency of an invoice that names none.
    pub currency: Currency,
    /// What strangers ask to become members with.
    pub join_form: JoinForm,
}

/// How customers pay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PaymentDetails {
    /// Swedish bankgiro number, `5050-1055`.
    pub bankgiro: Option<String>,
    /// International account number (ISO 13616).
    pub iban: Option<String>,
    /// The name that the money is sent to.
    pub payee: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dunning_days: DunningPolicy::default().days,
            admin_emails: Vec::new(),
            payment: PaymentDetails::default(),
            currency: Currency::SEK,
            join_form: JoinForm::default(),
        }
    }
}

impl Settings {
    /// Checks what the types cannot. Fields are named from the settings' root: `payment.iban`.
    pub fn validate(&self) -> Result<(), FieldErrors> {
        let mut errors = FieldErrors::default();
        errors.check("dunning_days", DunningPolicy::new(self.dunning_days.clone()));
        errors.require(self.admin_emails.len() <= 20, "admin_emails", "too_long", "must have at most 20 addresses");
        if let Some(bankgiro) = &self.payment.bankgiro {
            errors.check("payment.bankgiro", check_bankgiro(bankgiro));
        }
        if let Some(iban) = &self.payment.iban {
            errors.check("payment.iban", check_iban(iban));
        }
        if let Some(payee) = &self.payment.payee {
            errors.check("payment.payee", one_line(payee, 200));
        }
        errors.check("join_form.fields", self.join_form.check());
        errors.into_result()
    }

    /// When reminders are sent.
    pub fn dunning_policy(&self) -> DunningPolicy {
        DunningPolicy { days: self.dunning_days.clone() }
    }
}

/// Seven or eight digits with an optional hyphen before the last four; the last is a Luhn check digit.
fn check_bankgiro(text: &str) -> Result<(), ParseError> {
    let digits = match text.split_once('-') {
        Some((head, tail)) if tail.len() == 4 => format!("{head}{tail}"),
        Some(_) => String::new(),
        None => text.to_owned(),
    };
    if !matches!(digits.len(), 7 | 8) || !luhn::is_valid(&digits) {
        return Err(ParseError::invalid("is not a bankgiro number; it looks like 5050-1055"));
    }
    Ok(())
}

/// ISO 13616: country, two check digits, account; moved around and read as a number it is 1 modulo 97 (ISO 7064).
fn check_iban(text: &str) -> Result<(), ParseError> {
    let refuse = || ParseError::invalid("is not an IBAN; it looks like SE45 5000 0000 0583 9825 7466");
    let compact: String = text.chars().filter(|c| *c != ' ').collect();
    let shaped = (15..=34).contains(&compact.len())
        && compact.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        && compact.bytes().take(2).all(|b| b.is_ascii_uppercase());
    if !shaped {
        return Err(refuse());
    }
    let remainder =
        compact[4..].chars().chain(compact[..4].chars()).filter_map(|c| c.to_digit(36)).fold(0, |remainder, value| {
            if value > 9 { (remainder * 100 + value) % 97 } else { (remainder * 10 + value) % 97 }
        });
    if remainder == 1 { Ok(()) } else { Err(refuse()) }
}

/// One tenant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Organization {
    pub id: Uuid,
    /// Never changes.
    pub slug: Slug,
    pub name: String,
    pub tier: Tier,
    pub billing_status: BillingStatus,
    /// Its schedules fire and its days begin by this one.
    pub time_zone: Tz,
    /// What its own people are written to in.
    pub locale: Language,
    pub feature_flags: serde_json::Value,
    pub settings: Settings,
    pub trial_ends_at: Option<DateTime<Utc>>,
    /// Where its tables live.
    pub schema_name: String,
    /// The database role that reaches that schema and no other.
    pub role_name: String,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

impl Organization {
    /// Whether its API is read-only and its jobs wait (TEN-5).
    pub fn is_held(&self) -> bool {
        matches!(self.billing_status, BillingStatus::Suspended | BillingStatus::Canceled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// TEN-1
    #[test]
    fn defaults_are_those_of_a_new_organization() {
        assert_eq!(Tier::default(), Tier::Free);
        assert_eq!(BillingStatus::default(), BillingStatus::Trial);
        let settings: Settings = serde_json::from_value(json!({})).unwrap();
        assert_eq!(settings, Settings::default());
        assert_eq!(settings.dunning_days, [1, 8, 15]);
        assert_eq!(settings.validate(), Ok(()));
    }

    /// TEN-1
    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        let error = serde_json::from_value::<Settings>(json!({"dunning_day": [1]})).unwrap_err();
        assert!(error.to_string().contains("dunning_day"), "{error}");
    }

    #[test]
    fn wrong_settings_are_refused_by_field() {
        let settings = Settings {
            dunning_days: vec![8, 1],
            payment: PaymentDetails {
                bankgiro: Some("5050-1056".to_owned()),
                iban: Some("SE45 5000 0000 0583 9825 7467".to_owned()),
                payee: Some("Acme\r\nBcc: x".to_owned()),
            },
            ..Settings::default()
        };
        let errors = settings.validate().unwrap_err();
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["dunning_days", "payment.bankgiro", "payment.iban", "payment.payee"]);
    }

    #[test]
    fn real_account_numbers_are_accepted() {
        for bankgiro in ["5050-1055", "50501055", "991-2346"] {
            assert_eq!(check_bankgiro(bankgiro), Ok(()), "{bankgiro}");
        }
        for iban in ["SE45 5000 0000 0583 9825 7466", "GB82WEST12345698765432", "NO9386011117947"] {
            assert_eq!(check_iban(iban), Ok(()), "{iban}");
        }
        for iban in ["", "SE45", "se4550000000058398257466", "SE45500000000583982574é6"] {
            assert!(check_iban(iban).is_err(), "{iban}");
        }
    }

    /// TEN-1: the words are those of the database's checks.
    #[test]
    fn words_read_back() {
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse(), Ok(*tier));
            assert_eq!(serde_json::to_value(tier).unwrap(), json!(tier.as_str()));
        }
        assert_eq!(
            BillingStatus::ALL.iter().map(|s| s.as_str()).collect::<Vec<_>>(),
            ["active", "suspended", "trial", "canceled"]
        );
        assert!("cancelled".parse::<BillingStatus>().unwrap_err().message.contains("canceled"));
    }
}
