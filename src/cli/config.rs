//! `backroom config`

use std::process::ExitCode;

use super::output::Output;
use crate::config::Config;

pub fn run(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    output.answer(config, || config.to_toml())?;
    Ok(ExitCode::SUCCESS)
}
