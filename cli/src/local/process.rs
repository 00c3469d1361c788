//! One child process, which never outlives this one.

use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getppid};
use tokio::process::{Child, Command};

use crate::binaries::Program;
use crate::failure::{Code, Failure};

/// How long a process may take to end after a polite request.
const GRACE: Duration = Duration::from_secs(8);

/// A running program with its output in a file.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts a program; its output is appended to `log`.
    pub(super) fn start(
        name: &str,
        program: &Program,
        args: &[String],
        log: PathBuf,
    ) -> Result<Self, Failure> {
        let spawn = || -> std::io::Result<Child> {
            let sink = File::options().create(true).append(true).open(&log)?;
            let mut command = Command::new(program.path());
            command
                .args(args)
                .stdin(Stdio::null())
                .stdout(sink.try_clone()?)
                .stderr(sink)
                .kill_on_drop(true)
                // Ctrl-C on the terminal reaches this program only, which stops the others in order.
                .process_group(0);
            die_with_parent(&mut command);
            command.spawn()
        };
        let child =
            spawn().map_err(|error| Failure::from(error).while_doing(&format!("start {name}")))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child,
        })
    }

    /// Waits for its end, which nobody asked for, and says what it printed last.
    pub(super) async fn died(&mut self) -> Failure {
        let how = match self.child.wait().await {
            Ok(status) => how_it_ended(status),
            Err(error) => error.to_string(),
        };
        let lines = last_lines(&self.log, 20);
        let text = format!(
            "{} ended by itself ({how}); its last lines, from {}:\n{lines}",
            self.name,
            self.log.display()
        );
        Failure::new(Code::Failed, text)
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end.
    pub(super) fn ask_to_end(&self) {
        if let Some(pid) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // It may have ended already.
            let _sent = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Waits for its end and makes it end after a while.
    pub(super) async fn end(&mut self) -> Result<(), Failure> {
        let ended = match tokio::time::timeout(GRACE, self.child.wait()).await {
            Ok(waited) => waited.map(|_| ()),
            Err(_) => self.child.kill().await,
        };
        ended.map_err(|error| Failure::from(error).while_doing(&format!("stop {}", self.name)))
    }
}

/// SIGKILL for the child when the thread that starts it ends, whatever ends it.
fn die_with_parent(command: &mut Command) {
    let parent = getpid();
    let hook = move || {
        prctl::set_pdeathsig(Signal::SIGKILL)?;
        // The parent may have ended before the line above.
        if getppid() == parent {
            Ok(())
        } else {
            Err(std::io::ErrorKind::Interrupted.into())
        }
    };
    // SAFETY: between fork and exec the hook makes two system calls, both async-signal-safe, and allocates nothing.
    unsafe {
        command.pre_exec(hook);
    }
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => "no exit status".to_owned(),
    }
}

/// The last lines of a file, each behind a mark.
fn last_lines(path: &Path, count: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    last.iter()
        .map(|line| format!("  | {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
