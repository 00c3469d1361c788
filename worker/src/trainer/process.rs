//! The process from start to exit status.

use std::os::fd::{FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use diptych_proto::v1::FailureKind;

use crate::phase::PhaseError;

use super::wire::{self, Fence, Incoming, WireError};
use super::{Assignment, Control, Place, Report};

/// What the agent puts on the command line of a trainer.
#[derive(Debug, Clone, clap::Args)]
pub struct TrainerArgs {
    /// Inherited end of the agent's socket pair.
    #[arg(long)]
    pub control_fd: RawFd,
    /// Device index on this worker.
    #[arg(long)]
    pub device: u32,
    /// Where peers reach this machine.
    #[arg(long)]
    pub data_address: String,
    /// Threads of the device.
    #[arg(long)]
    pub threads: usize,
    /// This rank's own directory.
    #[arg(long)]
    pub work_dir: PathBuf,
}

/// The exit status after the phase's work is done and committed.
pub const DONE: u8 = 0;
/// The exit status after a failure that was reported to the agent.
pub const FAILED: u8 = 1;
/// The exit status of a trainer that was not started by an agent, or was told what it cannot read.
pub const UNUSABLE: u8 = 2;
/// The exit status after the agent has gone: nobody is left to report to.
pub const ORPHANED: u8 = 3;
/// The exit status after an abort that the agent asked for.
pub const ABORTED: u8 = 4;

/// How long the last report may take to reach the agent.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long an orphan may take to leave its collectives before the process ends anyway.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// Runs one attempt's share and returns the exit status. The process does nothing else, before or after.
///
/// `work` is the phase: it prepares, reports ready, waits for the start, trains, and returns after the last commit.
pub fn run(
    args: TrainerArgs,
    work: impl FnOnce(Assignment, &Control) -> Result<(), PhaseError>,
) -> ExitCode {
    crate::device::keep_freed_memory();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        eprintln!(
            "bug: thread {:?}: {panic}",
            thread.name().unwrap_or("unnamed")
        );
    }));
    match attempt(args, work) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("trainer: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn attempt(
    args: TrainerArgs,
    work: impl FnOnce(Assignment, &Control) -> Result<(), PhaseError>,
) -> anyhow::Result<u8> {
    let (mut commands, reports) = sockets(args.control_fd)?;
    let place = Place {
        device: args.device,
        data_address: args.data_address,
        threads: args.threads.max(1),
        work_dir: args.work_dir,
    };
    let first = wire::read(&mut commands).context("wait for the assignment")?;
    let first = first.context("the agent closed before it sent an assignment")?;
    let fence = Fence::try_from(&first).context("read the assignment")?;
    let control = Control::new();
    let writer = spawn("reports", {
        let (control, fence) = (control.clone(), fence.clone());
        move || write_reports(&control, &fence, reports)
    })?;
    let assignment = match wire::incoming(first, &place) {
        Ok(Incoming::Prepare(assignment)) => Ok(*assignment),
        Ok(_) => Err("the first message is not an assignment".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    spawn("commands", {
        let control = control.clone();
        move || read_commands(&control, &fence, &place, commands)
    })?;
    let result = assignment
        .map_err(PhaseError::Refused)
        .and_then(|assignment| work(assignment, &control));
    let status = conclude(&control, result);
    control.flush(LAST_WORDS);
    control.close();
    // The writer ends with its queue; a panic of it has printed its line.
    drop(writer.join());
    Ok(status)
}

/// Reports how the work ended, in words on standard error and by kind to the coordinator.
fn conclude(control: &Control, result: Result<(), PhaseError>) -> u8 {
    match result {
        Ok(()) => DONE,
        Err(PhaseError::Aborted(reason)) => {
            eprintln!("left the attempt: {reason}");
            ABORTED
        }
        Err(error) => {
            eprintln!("failed: {error}");
            // An abort explains the loss of the peers better than the loss does, and has been told already.
            if control.check().is_err() && error.kind() == FailureKind::PeerLost {
                return ABORTED;
            }
            control.report(Report::Failed {
                kind: error.kind(),
                message: error.to_string(),
                object: error.object().map(str::to_owned),
            });
            FAILED
        }
    }
}

fn read_commands(control: &Control, fence: &Fence, place: &Place, mut from: UnixStream) {
    loop {
        let sent = match wire::read(&mut from) {
            Ok(Some(sent)) => sent,
            Ok(None) => return orphaned(control, "the agent has gone"),
            Err(error) => return orphaned(control, &error.to_string()),
        };
        match Fence::try_from(&sent) {
            Ok(other) if other == *fence => {}
            Ok(other) => {
                tracing::warn!(?other, "command for another rank or attempt dropped");
                continue;
            }
            Err(error) => {
                tracing::warn!(%error, "command dropped");
                continue;
            }
        }
        match wire::incoming(sent, place) {
            Ok(Incoming::Begin(begin)) => control.give_begin(begin),
            Ok(Incoming::Command(command)) => control.give_command(command),
            Ok(Incoming::Abort(reason)) => control.abort(&reason),
            Ok(Incoming::Prepare(_)) => tracing::warn!("a second assignment was dropped"),
            Err(error @ (WireError::Field(_) | WireError::Spec(_))) => {
                tracing::warn!(%error, "command dropped")
            }
            Err(error) => return orphaned(control, &error.to_string()),
        }
    }
}

/// A trainer never outlives its agent: it frees its collectives, and ends even where the main thread is stuck.
fn orphaned(control: &Control, reason: &str) {
    eprintln!("{reason}: leaving");
    control.close();
    control.abort(reason);
    std::thread::sleep(ORPHAN_GRACE);
    std::process::exit(i32::from(ORPHANED));
}

fn write_reports(control: &Control, fence: &Fence, mut to: UnixStream) {
    while let Some(report) = control.next_report() {
        if let Err(error) = wire::write(&mut to, &fence.event(report)) {
            eprintln!("report not sent: {error}");
            return control.close();
        }
    }
}

/// The two directions of the inherited socket.
fn sockets(fd: RawFd) -> anyhow::Result<(UnixStream, UnixStream)> {
    ensure!(
        fd > 2,
        "--control-fd {fd}: a trainer is started by `diptych-worker agent`, never by hand"
    );
    nix::fcntl::fcntl(
        // SAFETY: borrowed for this call alone; an fd that is not open makes fcntl fail, which is the check.
        unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) },
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC),
    )
    .with_context(|| {
        format!("--control-fd {fd} is not open: a trainer is started by `diptych-worker agent`")
    })?;
    // SAFETY: the fd is open, and the agent passed it to this process for this use alone: nothing else owns it.
    let reader = unsafe { UnixStream::from_raw_fd(fd) };
    let writer = reader.try_clone().context("clone the control socket")?;
    Ok((reader, writer))
}

fn spawn(
    name: &str,
    work: impl FnOnce() + Send + 'static,
) -> anyhow::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .with_context(|| format!("start thread {name}"))
}
