//! Trainer processes: started, spoken to, listened to, and killed.
//!
//! A trainer dies with its agent (PR_SET_PDEATHSIG). Linux ties that to the *thread* that forked, so one thread does
//! nothing but fork and lives as long as the supervisor.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command as Sent;
use diptych_proto::v1::rank_event::Event as Reported;
use futures::{SinkExt as _, StreamExt as _};
use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;
use prost::Message as _;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use crate::trainer::wire::MAX_FRAME;

use super::core::RankKey;
use super::logs::{LogBook, RankLog, copy_lines};

/// The program that a trainer is: the agent's own, in production.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Path of the program.
    pub program: PathBuf,
    /// Arguments before those of the rank.
    pub arguments: Vec<OsString>,
    /// Where peers reach this machine.
    pub data_address: String,
    /// Threads of each device.
    pub threads: usize,
    /// Parent of the ranks' own directories.
    pub work_dir: PathBuf,
}

/// What a trainer did.
#[derive(Debug)]
pub enum TrainerEvent {
    /// It reported.
    Reported(RankKey, Reported),
    /// It ended, and everything that it said before has been passed on.
    Exited(RankKey, v1::Exited),
}

/// All trainers of an agent.
#[derive(Debug)]
pub struct Supervisor {
    launch: Launch,
    spawner: std::sync::mpsc::Sender<Order>,
    events: mpsc::Sender<TrainerEvent>,
    trainers: BTreeMap<RankKey, Trainer>,
}

#[derive(Debug)]
struct Trainer {
    pid: Pid,
    commands: mpsc::UnboundedSender<Sent>,
}

type Order = (Command, oneshot::Sender<io::Result<Child>>);

/// libtorch's CPU threads spin between two operations by default. Where ranks share cores that costs far more than it
/// saves: 40 times the step of two ranks of two threads on two busy cores. A value in the agent's environment wins.
const OMP_WAIT: &str = "OMP_WAIT_POLICY";
/// Lines kept for [`v1::Exited::last_lines`].
const LAST_LINES: usize = 20;
/// How long output may still come after the process has ended: something that it started may hold the pipe.
const DRAIN: Duration = Duration::from_millis(500);

impl Supervisor {
    /// A supervisor without trainers; what they do arrives at the receiver. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the system has no thread left.
    pub fn new(launch: Launch) -> io::Result<(Self, mpsc::Receiver<TrainerEvent>)> {
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
                events,
                trainers: BTreeMap::new(),
            },
            received,
        ))
    }

    /// Starts a rank and gives it its assignment.
    ///
    /// # Errors
    /// When the process cannot be started or its log cannot be kept.
    pub async fn start(
        &mut self,
        key: RankKey,
        prepare: v1::Prepare,
        book: &LogBook,
    ) -> io::Result<()> {
        let work_dir = self
            .launch
            .work_dir
            .join(format!("{}-a{}-r{}", key.job, key.attempt, key.rank));
        std::fs::create_dir_all(&work_dir)?;
        let log = book.open(&key, prepare.phase)?;
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::Stream,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .map_err(io::Error::from)?;
        let mut command = Command::new(&self.launch.program);
        command
            .args(&self.launch.arguments)
            .args(["--control-fd", &theirs.as_raw_fd().to_string()])
            .args(["--device", &prepare.device.to_string()])
            .args(["--data-address", &self.launch.data_address])
            .args(["--threads", &self.launch.threads.to_string()])
            .arg("--work-dir")
            .arg(&work_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if std::env::var_os(OMP_WAIT).is_none() {
            command.env(OMP_WAIT, "passive");
        }
        inherit_and_die_with(&mut command, theirs.as_raw_fd());
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
        // The assignment is the first message that the trainer reads.
        drop(commands.send(Sent::Prepare(prepare)));
        let socket = stream(ours)?;
        tokio::spawn(attend(
            Attended {
                key: key.clone(),
                child,
                log,
                work_dir,
            },
            socket,
            received,
            self.events.clone(),
        ));
        self.trainers.insert(key, Trainer { pid, commands });
        Ok(())
    }

    /// Passes a command on; a trainer that has ended misses it.
    pub fn tell(&self, key: &RankKey, command: Sent) {
        if let Some(trainer) = self.trainers.get(key) {
            drop(trainer.commands.send(command));
        }
    }

    /// SIGKILL to the trainer and whatever it started.
    pub fn kill(&self, key: &RankKey) {
        if let Some(trainer) = self.trainers.get(key)
            && let Err(errno) = killpg(trainer.pid, Signal::SIGKILL)
        {
            tracing::debug!(%key, %errno, "nothing left to kill");
        }
    }

    /// Forgets a trainer that has ended: its process id may be another's soon.
    pub fn forget(&mut self, key: &RankKey) {
        self.trainers.remove(key);
    }
}

struct Attended {
    key: RankKey,
    child: Child,
    log: RankLog,
    work_dir: PathBuf,
}

/// Serves one trainer until its process has ended and everything that it said is passed on.
async fn attend(
    attended: Attended,
    socket: UnixStream,
    mut commands: mpsc::UnboundedReceiver<Sent>,
    events: mpsc::Sender<TrainerEvent>,
) {
    let Attended {
        key,
        mut child,
        log,
        work_dir,
    } = attended;
    let frames = LengthDelimitedCodec::builder()
        .little_endian()
        .max_frame_length(MAX_FRAME)
        .new_codec();
    let (mut to, mut from) = Framed::new(socket, frames).split();
    let writer = {
        let key = key.clone();
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                if to
                    .send(Bytes::from(key.command(command).encode_to_vec()))
                    .await
                    .is_err()
                {
                    return;
                }
            }
        })
    };
    let reader = {
        let (key, events) = (key.clone(), events.clone());
        tokio::spawn(async move {
            while let Some(Ok(frame)) = from.next().await {
                match v1::RankEvent::decode(frame) {
                    Ok(v1::RankEvent {
                        event: Some(event), ..
                    }) => {
                        drop(
                            events
                                .send(TrainerEvent::Reported(key.clone(), event))
                                .await,
                        );
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%key, %error, "report dropped"),
                }
            }
        })
    };
    let (line, mut lines) = mpsc::channel::<String>(1024);
    let copiers = [
        child
            .stdout
            .take()
            .map(|from| tokio::spawn(copy_lines(from, line.clone()))),
        child
            .stderr
            .take()
            .map(|from| tokio::spawn(copy_lines(from, line.clone()))),
    ];
    drop(line);
    let keeper = tokio::spawn(async move {
        let mut last = VecDeque::with_capacity(LAST_LINES);
        while let Some(line) = lines.recv().await {
            log.append(&line);
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
            if lines.is_empty() {
                log.flush();
            }
        }
        log.close();
        last
    });
    let status = child.wait().await;
    writer.abort();
    drained("reports", &key, reader).await;
    for copier in copiers.into_iter().flatten() {
        drained("output", &key, copier).await;
    }
    let last_lines = keeper.await.map(Vec::from).unwrap_or_default();
    if let Err(error) = std::fs::remove_dir_all(&work_dir) {
        tracing::warn!(%key, %error, dir = %work_dir.display(), "work directory stays behind");
    }
    let (code, signal) = match status {
        Ok(status) => (status.code(), status.signal()),
        Err(error) => {
            tracing::error!(%key, %error, "the end of a trainer was not observed");
            (None, None)
        }
    };
    drop(
        events
            .send(TrainerEvent::Exited(
                key,
                v1::Exited {
                    code,
                    signal,
                    last_lines,
                },
            ))
            .await,
    );
}

/// Waits for a task that reads what the process left behind, but not for long.
async fn drained(what: &str, key: &RankKey, mut task: tokio::task::JoinHandle<()>) {
    if tokio::time::timeout(DRAIN, &mut task).await.is_err() {
        tracing::warn!(%key, what, "still open after the trainer's end; given up");
        task.abort();
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

#[cfg(test)]
mod tests;
