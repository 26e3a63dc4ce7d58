//! Exit codes, and how an error is told.

use std::{fmt::Write, io::Write as _, process::ExitCode};

/// Something that was named does not exist: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotFound(pub String);

/// The command line makes no sense, as only the program can tell: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// A job ended, and not well.
pub const JOB_ENDED_BADLY: u8 = 4;

pub fn not_found(message: impl Into<String>) -> anyhow::Error {
    NotFound(message.into()).into()
}

pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Tells the error on standard error and answers its exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    // Standard error may be closed; there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "error: {}", chain(error));
    ExitCode::from(code(error))
}

fn code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<NotFound>()) {
        3
    } else if error.chain().any(|cause| cause.is::<Usage>()) {
        2
    } else {
        1
    }
}

/// The error and its causes, each once: some libraries repeat the cause in their own text.
fn chain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            let _ = write!(text, ": {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_code_is_found_under_added_context_and_no_cause_is_told_twice() {
        let missing = Err::<(), _>(not_found("there is no job 7")).context("could not show it").unwrap_err();
        assert_eq!((code(&missing), chain(&missing).as_str()), (3, "could not show it: there is no job 7"));
        assert_eq!(code(&usage("no")), 2);
        let io = std::io::Error::other("refused");
        let repeated = anyhow::Error::new(io).context("the database: refused").context("could not connect");
        assert_eq!((code(&repeated), chain(&repeated).as_str()), (1, "could not connect: the database: refused"));
    }
}
