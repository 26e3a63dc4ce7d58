//! The `backroom` program: everything that an operator does begins in [`backroom::cli`].

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    backroom::cli::main().await
}
