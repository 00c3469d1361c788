//! One program of the product: started with its output in a file, watched by its process id, killed on drop.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program among those in `folder`; none: of this build.
///
/// # Errors
/// When it is not there.
pub fn program(folder: Option<&Path>, name: &str) -> Result<PathBuf> {
    let Some(folder) = folder else {
        return binary(name);
    };
    let path = folder.join(name);
    ensure!(path.is_file(), "there is no {}", path.display());
    Ok(path)
}

/// Where this build's binaries are: beside the caller's own, or beside the `deps` folder of a test.
///
/// # Errors
/// Says how to build them when they are not there.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the test's own path")?;
    let folder = test.parent().context("find the build folder")?;
    let folder = if folder.ends_with("deps") {
        folder.parent().context("find the build folder")?
    } else {
        folder
    };
    let path = folder.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo build --release --workspace --bins`",
        path.display()
    );
    Ok(path)
}

/// What a program finds around it.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Variables beside those of the test.
    pub environment: Vec<(String, String)>,
    /// A network namespace.
    pub namespace: Option<String>,
    /// Where its binary is; none: this build's.
    pub programs: Option<PathBuf>,
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
        Self::start_within(name, arguments, log, &Surroundings::default())
    }

    /// As [`Process::start`], in surroundings of its own.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_within(
        name: &str,
        arguments: &[String],
        log: PathBuf,
        around: &Surroundings,
    ) -> Result<Self> {
        let sink = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("open log")?;
        let program = program(around.programs.as_deref(), name)?;
        let mut command = match &around.namespace {
            Some(namespace) => {
                // `ip` becomes the program: the process id is the program's.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
            None => Command::new(program),
        };
        let child = command
            .args(arguments)
            .envs(around.environment.iter().map(|(name, value)| (name, value)))
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

    /// Asks it with SIGTERM to leave, and waits until it has.
    ///
    /// # Errors
    /// When it takes longer than `patience`, or does not end well.
    pub async fn leave(&mut self, patience: Duration) -> Result<()> {
        kill(self.pid(), Signal::SIGTERM).context("ask to leave")?;
        let asked = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().context("wait")? {
                ensure!(status.success(), "it left with {status}");
                return Ok(());
            }
            ensure!(
                asked.elapsed() < patience,
                "it has not left in {patience:?}"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
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
            // A test that failed half-way: nothing must outlive it. A stopped process dies of SIGKILL, too.
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

/// Stops a process where it stands, as a machine that hangs.
///
/// # Errors
/// When there is no such process.
pub fn freeze(pid: Pid) -> Result<()> {
    kill(pid, Signal::SIGSTOP).with_context(|| format!("stop {pid}"))
}

/// Lets a stopped process go on; one that is gone is let go, too.
pub fn thaw(pid: Pid) {
    let _gone = kill(pid, Signal::SIGCONT);
}

/// Resident memory of a process in bytes; `None` once it is gone.
pub fn resident(pid: Pid) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}
