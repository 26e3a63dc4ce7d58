//! Third parties, each behind one trait: their words become ours in here. No SQL, no jobs.
//!
//! To add a vendor whose records are synchronized: a folder with its [`Connector`](crate::clients::connector::Connector), its mapping and
//! its fixtures, and a line in [`crate::clients::VENDORS`].

pub mod bamboohr;
pub mod connector;
pub mod discreet;
mod hris;
pub mod http;
pub mod llm;
pub mod netsuite;
pub mod oauth1;
pub mod oauth2;
mod purchase;
pub mod quickbooks;
pub mod rate_headers;
pub mod slack;
pub mod webhook;
pub mod workday;

use self::connector::Vendor;
use crate::domain::integration::Provider;

/// Every vendor that can be connected.
pub const VENDORS: &[&Vendor] =
    &[&bamboohr::VENDOR, &workday::VENDOR, &netsuite::VENDOR, &quickbooks::VENDOR, &slack::VENDOR];

/// The vendor's entry.
pub fn vendor(provider: Provider) -> Option<&'static Vendor> {
    VENDORS.iter().copied().find(|vendor| vendor.provider == provider)
}
