//! A PostgreSQL server that belongs to nobody else, by `bin/pg`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Removed when dropped.
pub struct Server {
    folder: tempfile::TempDir,
    pub url: String,
}

impl Server {
    /// `None` where this machine has no server binaries (only a `DATABASE_URL`): there is nothing to restart.
    pub async fn start() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let started = pg(&["start", name(&folder)]).await;
        if started.is_none() && std::env::var_os("DATABASE_URL").is_some() {
            eprintln!("skipped: there are no PostgreSQL server binaries on this machine");
            return None;
        }
        Some(Self { url: started.expect("bin/pg starts a server"), folder })
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `fast`, or `immediate`: a crash.
    pub async fn restart(&self, how: &str) {
        pg(&["restart", name(&self.folder), how]).await.expect("bin/pg restarts the server");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if run(&["remove", name(&self.folder)]).is_none() {
            eprintln!("could not remove the server in {}", self.folder.path().display());
        }
    }
}

fn name(folder: &tempfile::TempDir) -> &str {
    folder.path().to_str().expect("a path in UTF-8")
}

async fn pg(args: &[&str]) -> Option<String> {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let ran = tokio::task::spawn_blocking(move || run(&args.iter().map(String::as_str).collect::<Vec<_>>()));
    ran.await.expect("bin/pg runs")
}

fn run(args: &[&str]) -> Option<String> {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bin/pg");
    let output = Command::new(script).args(args).env_remove("DATABASE_URL").stdin(Stdio::null()).output();
    let output = output.expect("bin/pg runs");
    if !output.status.success() {
        eprintln!("bin/pg {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
