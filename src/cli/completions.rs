//! `backroom completions SHELL`

use std::process::ExitCode;

use clap_complete::{Shell, generate};

#[derive(clap::Args)]
pub struct Args {
    /// The shell that shall complete
    shell: Shell,
}

pub fn run(args: Args, command: &mut clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    generate(args.shell, command, "backroom", &mut script);
    super::Output::new(false).line(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
