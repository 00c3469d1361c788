//! One program of the product: started with its output in a file, watched by its process id, killed on drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where this build's binaries are: beside the test's own `deps` folder.
///
/// # Errors
/// Says how to build them when they are not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the test's own path")?;
    let folder = test
        .parent()
        .and_then(Path::parent)
        .context("find the build folder")?;
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo build --release --workspace --bins`",
        path.display()
    );
    Ok(path)
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `name` with both output streams appended to `log`.
    ///
    /// # Errors
    /// When the binary is missing or does not start.
    pub fn start(name: &str, arguments: &[String], log: PathBuf) -> Result<Self> {
        let sink = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("open log")?;
        let child = Command::new(binary(name)?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(sink.try_clone()?)
            .stderr(sink)
            .spawn()
            .with_context(|| format!("start {name}"))?;
        Ok(Self { child, log })
    }

    /// Everything it has printed.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn printed(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).context("read log")
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("Linux process ids fit in an i32"))
    }

    /// Kills it with SIGKILL and waits for its end.
    ///
    /// # Errors
    /// When it cannot be signalled.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill")?;
        self.child.wait().context("wait")?;
        Ok(())
    }

    /// Process ids of its children whose command line holds `word`.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn children(&self, word: &str) -> Result<Vec<Pid>> {
        let list = format!("/proc/{0}/task/{0}/children", self.pid());
        let of_main = std::fs::read_to_string(list).context("list children")?;
        let mut found = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            found.extend(
                text.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        found.extend(
            of_main
                .split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
        found.sort_unstable();
        found.dedup();
        found.retain(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(word)
        });
        Ok(found.into_iter().map(Pid::from_raw).collect())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            // A test that failed half-way: nothing must outlive it.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// Sends SIGKILL to any process.
///
/// # Errors
/// When there is no such process.
pub fn kill_now(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}
