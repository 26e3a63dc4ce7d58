//! demo
pub async fn run(_once: bool) -> anyhow::Result<std::process::ExitCode> {
    anyhow::bail!("the demo is not part of this build")
}
