//! The process from start to exit status.

use std::os::fd::{FromRawFd as _, RawFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use diptych_common::ids::{Rank, Step};
use diptych_common::telemetry::{self, LogFormat};
use diptych_common::units::Bytes;

use crate::phase::PhaseError;

use super::attempts::Attempts;
use super::wire::{self, Incoming};
use super::{Aborted, Assignment, Control, Fence, Held, Place, Report};

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
    /// Bytes that it may use of the host's memory.
    #[arg(long)]
    pub memory: Option<u64>,
    /// This rank's own directory.
    #[arg(long)]
    pub work_dir: PathBuf,
    /// Level, or filter by module, of the log.
    #[arg(long, default_value = "info")]
    pub log: String,
}

/// The exit status after the phase's work is done and committed.
pub const DONE: u8 = 0;
/// The exit status after a failure that was reported to the agent.
pub const FAILED: u8 = 1;
/// The exit status of a trainer that was not started by an agent, or was told what it cannot read.
pub const UNUSABLE: u8 = 2;
/// The exit status after the agent has gone: nobody is left to report to.
pub const ORPHANED: u8 = 3;
/// The exit status after an abort that was to end the process.
pub const ABORTED: u8 = 4;

/// How long the last report may take to reach the agent.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How long an orphan may take to leave its collectives before the process ends anyway.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);

/// What a trainer does with its attempts: the phase.
pub trait Work {
    /// Prepares, reports ready, waits for the start, trains, and returns after the last commit or when it left by plan.
    ///
    /// # Errors
    /// Why the rank stopped early. Whatever it is, the state in memory is that of the last committed step.
    fn attempt(&mut self, assignment: Assignment, control: &Control) -> Result<Ended, PhaseError>;

    /// Forgets the state in memory.
    fn forget(&mut self);

    /// Steps committed in the state in memory; `None` where there is none.
    fn holds(&self) -> Option<Step>;

    /// Whether the process lives on after this failure of its own, to be prepared again.
    fn outlives(&self, error: &PhaseError) -> bool;
}

/// How an attempt ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The phase's work is done and committed.
    Done,
    /// The gang left by plan, for this reason.
    Left(String),
}

/// What follows the end of an attempt.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The process ends with this status, after its last report, if any.
    Exit(u8, Option<Report>),
    /// It says these, and waits.
    Wait(Vec<Report>),
}

/// Serves one attempt after the other and returns the exit status. The process does nothing else, before or after.
pub fn run(args: TrainerArgs, work: impl Work) -> ExitCode {
    crate::device::keep_freed_memory();
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        eprintln!(
            "bug: thread {:?}: {panic}",
            thread.name().unwrap_or("unnamed")
        );
    }));
    match process(args, work) {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("trainer: {error:#}");
            ExitCode::from(UNUSABLE)
        }
    }
}

fn process(args: TrainerArgs, mut work: impl Work) -> anyhow::Result<u8> {
    telemetry::init(LogFormat::Text, &args.log)?;
    let (commands, reports) = sockets(args.control_fd)?;
    let place = Place {
        device: args.device,
        data_address: args.data_address,
        threads: args.threads.max(1),
        memory: args.memory.map(Bytes::new),
        work_dir: args.work_dir,
    };
    serve(commands, reports, place, &mut work)
}

/// The process between its sockets.
fn serve(
    mut commands: UnixStream,
    reports: UnixStream,
    place: Place,
    work: &mut impl Work,
) -> anyhow::Result<u8> {
    let first = wire::read(&mut commands).context("wait for the assignment")?;
    let first = first.context("the agent closed before it sent an assignment")?;
    let fence = Fence::try_from(&first).context("read the assignment")?;
    let control = Control::new(fence);
    let writer = spawn("reports", {
        let control = control.clone();
        move || write_reports(&control, reports)
    })?;
    let assignment = match wire::incoming(first, &place) {
        Ok(Incoming::Prepare(assignment)) => Ok(*assignment),
        Ok(_) => Err("the first message is not an assignment".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let attempts = Attempts::new(control.clone(), assignment);
    spawn("commands", {
        let attempts = attempts.clone();
        move || read_commands(&attempts, &place, commands)
    })?;
    let status = attend(&attempts, work);
    control.flush(LAST_WORDS);
    control.close();
    // The writer ends with its queue; a panic of it has printed its line.
    drop(writer.join());
    Ok(status)
}

/// The main thread: one attempt after the other, until one of them ends the process.
pub(crate) fn attend(attempts: &Attempts, work: &mut impl Work) -> u8 {
    while let Some(turn) = attempts.next() {
        if turn.forget {
            work.forget();
        }
        let control = turn.control;
        let assignment = turn.assignment.map_err(PhaseError::Refused);
        let result = assignment.and_then(|assignment| work.attempt(assignment, &control));
        let aborted = control.check().err();
        match verdict(result, aborted, attempts.ended(), work) {
            Verdict::Exit(status, last) => {
                last.into_iter().for_each(|report| control.report(report));
                return status;
            }
            // Who was assigned again is not waiting: the coordinator has gone on.
            Verdict::Wait(_) if attempts.overtaken() => {}
            Verdict::Wait(reports) => {
                for report in reports {
                    control.report(report);
                }
            }
        }
    }
    ABORTED
}

/// What follows the end of an attempt: `ends` says that the agent wants the process gone. In words on standard error.
fn verdict(
    result: Result<Ended, PhaseError>,
    aborted: Option<Aborted>,
    ends: bool,
    work: &impl Work,
) -> Verdict {
    let hold = |reason: String, lost_peers: Vec<Rank>| {
        eprintln!("left the attempt: {reason}");
        if ends {
            return Verdict::Exit(ABORTED, None);
        }
        let step = work.holds().unwrap_or(Step::new(0));
        tracing::info!(step = step.get(), "held");
        Verdict::Wait(vec![Report::Held(Held {
            step,
            reason,
            lost_peers,
        })])
    };
    let error = match result {
        Ok(Ended::Done) => return Verdict::Exit(DONE, None),
        Ok(Ended::Left(reason)) => return hold(reason, Vec::new()),
        Err(error) => error,
    };
    match (error, aborted) {
        // An abort explains the loss of the peers better than the loss does.
        (PhaseError::PeerLost { .. } | PhaseError::Aborted(_), Some(Aborted { reason })) => {
            hold(reason, Vec::new())
        }
        (PhaseError::PeerLost { reason, peers }, None) => hold(reason, peers),
        (PhaseError::Aborted(reason), None) => hold(reason, Vec::new()),
        (error, _) => {
            eprintln!("failed: {error}");
            let failed = Report::Failed {
                kind: error.kind(),
                message: error.to_string(),
                object: error.object().map(str::to_owned),
                step: error.step(),
            };
            if ends || !work.outlives(&error) {
                return Verdict::Exit(FAILED, Some(failed));
            }
            let held = Report::Held(Held {
                step: work.holds().unwrap_or(Step::new(0)),
                reason: error.to_string(),
                lost_peers: Vec::new(),
            });
            Verdict::Wait(vec![failed, held])
        }
    }
}

fn read_commands(attempts: &Attempts, place: &Place, mut from: UnixStream) {
    loop {
        let sent = match wire::read(&mut from) {
            Ok(Some(sent)) => sent,
            Ok(None) => return orphaned(attempts, "the agent has gone"),
            Err(error) => return orphaned(attempts, &error.to_string()),
        };
        match Fence::try_from(&sent) {
            Ok(fence) => attempts.hear(fence, wire::incoming(sent, place)),
            Err(error) => tracing::warn!(%error, "command dropped"),
        }
    }
}

/// A trainer never outlives its agent: it frees its collectives, and ends even where the main thread is stuck.
fn orphaned(attempts: &Attempts, reason: &str) {
    eprintln!("{reason}: leaving");
    attempts.newest().close();
    attempts.end(reason);
    std::thread::sleep(ORPHAN_GRACE);
    std::process::exit(i32::from(ORPHANED));
}

fn write_reports(control: &Control, mut to: UnixStream) {
    while let Some((fence, report)) = control.next_report() {
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

#[cfg(test)]
mod tests;
