//! W3C trace context (<https://www.w3.org/TR/trace-context/>): the enqueuer's `traceparent` travels with the job.

use std::{fmt, str::FromStr};

use rand::RngExt;

/// `00-<32 hex trace id>-<16 hex parent id>-<2 hex flags>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceParent(String);

#[derive(Debug, thiserror::Error)]
#[error("not a W3C traceparent")]
pub struct NotATraceParent;

impl TraceParent {
    /// A new trace with a sampled root.
    pub fn new() -> Self {
        let mut rng = rand::rng();
        let (trace, span): (u128, u64) = (rng.random_range(1..=u128::MAX), rng.random_range(1..=u64::MAX));
        Self(format!("00-{trace:032x}-{span:016x}-01"))
    }

    pub fn trace_id(&self) -> &str {
        &self.0[3..35]
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for TraceParent {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TraceParent {
    type Err = NotATraceParent;

    fn from_str(s: &str) -> Result<Self, NotATraceParent> {
        let parts: Vec<&str> = s.split('-').collect();
        let hex = |part: &str, len: usize| {
            part.len() == len && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let [version, trace, span, flags] = parts[..] else { return Err(NotATraceParent) };
        let zero = |part: &str| part.bytes().all(|b| b == b'0');
        if version != "00" || !hex(trace, 32) || zero(trace) || !hex(span, 16) || zero(span) || !hex(flags, 2) {
            return Err(NotATraceParent);
        }
        Ok(Self(s.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        let trace = TraceParent::new();
        assert_eq!(trace.to_string().parse::<TraceParent>().unwrap(), trace);
        assert_eq!(trace.trace_id().len(), 32);
        for bad in [
            "",
            "00-abc-def-01",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        ] {
            assert!(bad.parse::<TraceParent>().is_err(), "{bad:?} was accepted");
        }
    }
}
