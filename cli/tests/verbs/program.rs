//! The program as a user starts it.

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// Nothing here takes this long.
const LIMIT: Duration = Duration::from_secs(60);

/// The program, a home directory, and the server that it is told.
pub(crate) struct Program {
    pub(crate) dir: TempDir,
    pub(crate) url: String,
}

impl Program {
    pub(crate) fn new(url: &str) -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            url: url.to_owned(),
        }
    }

    /// The program, without a server.
    pub(crate) fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diptych"));
        command
            .env_clear()
            .env("HOME", self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// What one command line does.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Output {
        let mut program = self.program();
        program.args(["--server", &self.url]).args(arguments);
        within(program.output()).await.unwrap()
    }

    /// What a command line that succeeds prints.
    pub(crate) async fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// As JSON.
    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(&[&["-o", "json"], arguments].concat()).await;
        serde_json::from_str(&text).unwrap()
    }

    /// The exit code of a command line that fails, and what it says.
    pub(crate) async fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).await;
        let words = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), words)
    }
}

/// A hang is a failure.
pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, work).await.expect("in time")
}
