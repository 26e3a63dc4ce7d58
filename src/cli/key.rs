//! `backroom key …`: keys of the vault (VAULT-6).

use std::process::ExitCode;

use clap::Subcommand;

use super::output::Output;
use crate::vault;

#[derive(Subcommand)]
pub enum Key {
    /// Make a vault key and an index key, as two lines for a shell
    #[command(after_help = "Keep them where secrets are kept; without them sealed fields cannot be read again.\n\n\
        Example:\n  eval \"$(backroom key generate)\"\n  backroom key generate --json")]
    Generate,
}

pub fn run(Key::Generate: Key, output: Output) -> anyhow::Result<ExitCode> {
    let (key, index_key) = (vault::generate_key(), vault::generate_index_key());
    output.answer(&serde_json::json!({ "keys": [key], "index_key": index_key }), || {
        format!("export BACKROOM__VAULT__KEYS={key}\nexport BACKROOM__VAULT__INDEX_KEY={index_key}")
    })?;
    Ok(ExitCode::SUCCESS)
}
