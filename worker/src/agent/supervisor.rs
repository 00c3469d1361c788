//! Trainer processes: started, spoken to, listened to, and killed.
//!
//! A trainer dies with its agent (PR_SET_PDEATHSIG). Linux ties that to the *thread* that forked, so one thread does
//! nothing but fork and lives as long as the supervisor.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command as Sent;
use futures::{SinkExt as _, StreamExt as _};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::codec::{Framed, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use crate::trainer::wire::MAX_FRAME;

use super::core::{ProcessId, RankKey};
use super::devices::{Cores, Seats};
use super::logs::{LogBook, RankLog};
use super::output::{self, DRAIN};
use super::trainers::{TrainerEvent, Trainers};

/// The program that a trainer is: the agent's own, in production.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Path of the program.
    pub program: PathBuf,
    /// Arguments before those of the rank.
    pub arguments: Vec<OsString>,
    /// Where peers reach this machine.
    pub data_address: String,
    /// How trainers are started on each device.
    pub seats: Seats,
    /// Parent of the ranks' own directories.
    pub work_dir: PathBuf,
    /// Which lines trainers log.
    pub log: String,
}

/// All trainers of an agent.
#[derive(Debug)]
pub struct Supervisor {
    launch: Launch,
    spawner: std::sync::mpsc::Sender<Order>,
    book: LogBook,
    events: mpsc::Sender<TrainerEvent>,
    trainers: BTreeMap<ProcessId, Trainer>,
}

#[derive(Debug)]
struct Trainer {
    pid: Pid,
    commands: mpsc::UnboundedSender<v1::RankCommand>,
    logs: mpsc::UnboundedSender<RankLog>,
}

type Order = (Command, oneshot::Sender<io::Result<Child>>);

/// libtorch's CPU threads spin between two operations by default. Where ranks share cores that costs far more than it
/// saves: 40 times the step of two ranks of two threads on two busy cores. A value in the agent's environment wins.
const OMP_WAIT: &str = "OMP_WAIT_POLICY";

impl Supervisor {
    /// A supervisor without trainers; what they do arrives at the receiver. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(launch: Launch, book: LogBook) -> io::Result<(Self, mpsc::Receiver<TrainerEvent>)> {
        let (events, received) = mpsc::channel(256);
        let (spawner, orders) = std::sync::mpsc::channel::<Order>();
        let runtime = tokio::runtime::Handle::current();
        std::thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                let _entered = runtime.enter();
                for (mut command, reply) in orders {
                    // A caller that has gone drops the child, which kills it.
                    drop(reply.send(command.spawn()));
                }
            })?;
        Ok((
            Self {
                launch,
                spawner,
                book,
                events,
                trainers: BTreeMap::new(),
            },
            received,
        ))
    }
}

impl Supervisor {
    fn command(&self, work_dir: &Path, device: u32, control: RawFd) -> Command {
        let seat = self.launch.seats.of(device);
        let mut command = Command::new(&self.launch.program);
        command
            .args(&self.launch.arguments)
            .args(["--control-fd", &control.to_string()])
            .args(["--device", &device.to_string()])
            .args(["--data-address", &self.launch.data_address])
            .args(["--threads", &seat.threads.to_string()])
            .args(["--log", &self.launch.log])
            .arg("--work-dir")
            .arg(work_dir)
            .args(
                seat.memory
                    .map(|memory| format!("--memory={}", memory.get())),
            )
            .env("CUDA_VISIBLE_DEVICES", &seat.visible)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if std::env::var_os(OMP_WAIT).is_none() {
            command.env(OMP_WAIT, "passive");
        }
        inherit_and_die_with(&mut command, control);
        if let Some(cores) = &seat.cores {
            keep_on(&mut command, cores);
        }
        command
    }
}

impl Trainers for Supervisor {
    async fn start(&mut self, id: ProcessId, key: RankKey, prepare: v1::Prepare) -> io::Result<()> {
        let work_dir = self
            .launch
            .work_dir
            .join(format!("{}-a{}-r{}", key.job, key.attempt, key.rank));
        std::fs::create_dir_all(&work_dir)?;
        let log = self.book.open(&key, prepare.phase)?;
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(io::Error::from)?;
        let command = self.command(&work_dir, prepare.device, theirs.as_raw_fd());
        let (reply, spawned) = oneshot::channel();
        let gone = || io::Error::other("the thread that starts trainers has ended");
        self.spawner.send((command, reply)).map_err(|_| gone())?;
        let child = spawned.await.map_err(|_| gone())??;
        drop(theirs);
        let pid = child
            .id()
            .and_then(|pid| i32::try_from(pid).ok())
            .map(Pid::from_raw)
            .ok_or_else(gone)?;
        let (commands, received) = mpsc::unbounded_channel();
        let (logs, switches) = mpsc::unbounded_channel();
        // The assignment is the first message that the trainer reads.
        drop(commands.send(key.command(Sent::Prepare(prepare))));
        let socket = stream(ours)?;
        let attended = Attended {
            id,
            child,
            log,
            logs: switches,
            work_dir,
        };
        tokio::spawn(attend(attended, socket, received, self.events.clone()));
        let trainer = Trainer {
            pid,
            commands,
            logs,
        };
        self.trainers.insert(id, trainer);
        Ok(())
    }

    fn tell(&mut self, id: ProcessId, key: RankKey, command: Sent) {
        let Some(trainer) = self.trainers.get(&id) else {
            return;
        };
        if let Sent::Prepare(prepare) = &command {
            match self.book.open(&key, prepare.phase) {
                // A trainer that has ended prints no more.
                Ok(log) => drop(trainer.logs.send(log)),
                Err(error) => {
                    tracing::error!(job = %key.job, attempt = %key.attempt, rank = %key.rank, %error, "no log: its lines go to that of its former attempt");
                }
            }
        }
        drop(trainer.commands.send(key.command(command)));
    }

    fn kill(&mut self, id: ProcessId) {
        if let Some(trainer) = self.trainers.get(&id)
            && let Err(errno) = killpg(trainer.pid, Signal::SIGKILL)
        {
            tracing::debug!(%id, %errno, "nothing left to kill");
        }
    }

    /// Its process id may be another's soon.
    fn forget(&mut self, id: ProcessId) {
        self.trainers.remove(&id);
    }
}

struct Attended {
    id: ProcessId,
    child: Child,
    log: RankLog,
    /// Those of the ranks that it becomes.
    logs: mpsc::UnboundedReceiver<RankLog>,
    work_dir: PathBuf,
}

/// Serves one trainer until its process has ended and everything that it said is passed on.
async fn attend(
    attended: Attended,
    socket: UnixStream,
    mut commands: mpsc::UnboundedReceiver<v1::RankCommand>,
    events: mpsc::Sender<TrainerEvent>,
) {
    let Attended {
        id,
        mut child,
        log,
        logs,
        work_dir,
    } = attended;
    let frames = LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let (mut to, mut from) = Framed::new(socket, frames).split();
    let writer = tokio::spawn(async move {
        while let Some(command) = commands.recv().await {
            let frame = Bytes::from(command.encode_to_vec());
            if to.send(frame).await.is_err() {
                return;
            }
        }
    });
    let ended = CancellationToken::new();
    let (drained, last_lines) = oneshot::channel();
    let orders = output::Orders {
        logs,
        ended: ended.clone(),
        drained,
    };
    tokio::spawn(output::keep(&mut child, log, orders));
    let (mut open, mut status, mut idle) = (true, None, None);
    // What a dead process said lies in the socket: it is read until nothing is there. Waiting for the socket to close
    // would wait for whatever else the process has started.
    while open || status.is_none() {
        tokio::select! {
            biased;
            frame = from.next(), if open => match frame {
                Some(Ok(frame)) => {
                    pass_on(id, &frame, &events).await;
                    idle = idle.map(|_| Instant::now() + DRAIN);
                }
                Some(Err(_)) | None => open = false,
            },
            end = child.wait(), if status.is_none() => {
                status = Some(end);
                ended.cancel();
                idle = Some(Instant::now() + DRAIN);
            }
            () = output::until(idle) => break,
        }
    }
    writer.abort();
    let last_lines = last_lines.await.unwrap_or_default();
    if let Err(error) = std::fs::remove_dir_all(&work_dir) {
        tracing::warn!(%id, %error, dir = %work_dir.display(), "work directory stays behind");
    }
    let (code, signal) = match status {
        Some(Ok(status)) => (status.code(), status.signal()),
        Some(Err(error)) => {
            tracing::error!(%id, %error, "the end of a trainer was not observed");
            (None, None)
        }
        None => (None, None),
    };
    let exited = v1::Exited {
        code,
        signal,
        last_lines,
    };
    // An agent that has ended asks for nothing.
    drop(events.send(TrainerEvent::Exited(id, exited)).await);
}

async fn pass_on(id: ProcessId, frame: &[u8], events: &mpsc::Sender<TrainerEvent>) {
    let message = match v1::RankEvent::decode(frame) {
        Ok(message) => message,
        Err(error) => return tracing::warn!(%id, %error, "report dropped"),
    };
    let key = match RankKey::parse(&message.job, message.attempt, message.rank) {
        Ok(key) => key,
        Err(error) => return tracing::warn!(%id, %error, "report dropped"),
    };
    if let Some(event) = message.event {
        // An agent that has ended asks for nothing.
        drop(events.send(TrainerEvent::Reported(id, key, event)).await);
    }
}

fn stream(fd: OwnedFd) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(fd);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Lets exactly this child inherit `fd`, and asks the kernel to kill it with the thread that forks it.
fn inherit_and_die_with(command: &mut Command, fd: RawFd) {
    let parent = std::process::id();
    let prepare = move || {
        // SAFETY: prctl, fcntl and getppid are async-signal-safe system calls without memory effects here; `fd` stays
        // open in the parent until the spawn has returned.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The agent may have died between fork and prctl: then no signal will come.
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            if libc::fcntl(fd, libc::F_SETFD, 0) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: `prepare` makes async-signal-safe calls only and allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}

/// Keeps a trainer on these cores. They may have been taken from the agent meanwhile: then it runs wherever it may.
fn keep_on(command: &mut Command, cores: &Cores) {
    let mut set = CpuSet::new();
    for core in cores {
        // Those that the set has no place for are no cores of this machine.
        let _ = set.set(*core);
    }
    let prepare = move || {
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
        Ok(())
    };
    // SAFETY: one system call, which reads a set that lies in the closure; it allocates nothing.
    unsafe {
        command.pre_exec(prepare);
    }
}

#[cfg(test)]
mod tests;
