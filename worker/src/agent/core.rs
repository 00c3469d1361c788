//! What the agent decides, as a function of its state, an event and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diptych_common::ids::{Attempt, JobId, Rank, WorkerId};
use diptych_proto::v1;
use diptych_proto::v1::rank_command::Command;
use diptych_proto::v1::rank_event::Event as Reported;
use tokio::time::Instant;

use super::kept::Kept;

mod fence; // which rank of which attempt, and which process
mod gang; // what agents of one attempt tell each other
mod leave; // attempts that end, coordinators that stay away, agents that leave
mod prepare; // a rank takes its device
mod process; // one trainer: what it does, and what it said
mod pulse; // whether it answers

pub use fence::{AttemptKey, ProcessId, RankKey};

use gang::Gang;
use leave::Stay;
use process::{Life, Process, Stage, Toward};

/// How long the agent is patient.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// From the abort of a rank to its SIGKILL.
    pub abort_grace: Duration,
    /// As `abort_grace`, for a rank that is to keep its state: its step in flight may have to come to its end.
    pub hold_grace: Duration,
    /// How long trainers go on without a coordinator before they save and wait.
    pub orphan_limit: Duration,
    /// How long a trainer may be silent that has spoken once.
    pub unresponsive: Duration,
    /// How long a leaving agent stays for what it runs.
    pub leave_grace: Duration,
}

/// Everything that the agent knows about its ranks.
#[derive(Debug)]
pub struct AgentState {
    me: WorkerId,
    patience: Patience,
    link: Link,
    stay: Stay,
    /// By device index.
    seats: Vec<Seat>,
    /// Ranks that are gone, whose last events may still have to be sent again.
    ended: BTreeMap<RankKey, Ended>,
    /// The newest attempt of each job that is over: nothing up to it is started any more.
    over: BTreeMap<JobId, Attempt>,
    /// Attempts that have begun here.
    gangs: BTreeMap<AttemptKey, Gang>,
    /// When the trainers are asked next whether they are there; `None` while none has ever spoken.
    ping_due: Option<Instant>,
    next_process: u64,
}

#[derive(Debug, Clone, Copy)]
enum Link {
    Up,
    Down { since: Instant },
}

/// One device.
#[derive(Debug, Default)]
struct Seat {
    process: Option<Process>,
    /// Its device is still held by a process that is leaving.
    waiting: Option<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    key: RankKey,
    prepare: Box<v1::Prepare>,
    /// Its attempt was aborted meanwhile, to be kept: the process that it waits for takes it up only to hold it.
    held_back: Option<String>,
}

#[derive(Debug)]
struct Ended {
    at: Instant,
    kept: Kept,
}

/// The coordinator's end of an attempt on this worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AbortOrder {
    /// The job.
    pub job: JobId,
    /// The attempt, and with it every earlier one.
    pub attempt: Attempt,
    /// Why.
    pub reason: String,
    /// Trainers keep their process and their state.
    pub keep: bool,
    /// Ranks of the attempt that end although the others are kept.
    pub end: BTreeSet<Rank>,
}

/// What happened.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful exist at a time, and each moves once or twice"
)]
pub enum Event {
    /// The coordinator has welcomed this agent.
    Connected,
    /// The stream is gone.
    Disconnected,
    /// The coordinator asks something of a rank.
    Command(RankKey, Command),
    /// The coordinator ends an attempt.
    Abort(AbortOrder),
    /// A trainer reports, for the rank that it says it is.
    Reported(ProcessId, RankKey, Reported),
    /// A trainer's process has ended, and everything that it said has been read.
    Exited(ProcessId, v1::Exited),
    /// A trainer could not be started.
    SpawnFailed(ProcessId, String),
    /// The agent of another worker of the attempt says that a rank there has left its gang.
    PeerGone {
        /// The attempt.
        attempt: AttemptKey,
        /// The worker that says so.
        worker: WorkerId,
        /// The rank that left.
        rank: Rank,
        /// Why.
        reason: String,
    },
    /// The link to the agent of another worker of the attempt stands.
    LinkUp(AttemptKey, WorkerId),
    /// It was lost, for the given reason.
    LinkLost(AttemptKey, WorkerId, String),
    /// Time has passed.
    Tick,
    /// The agent is asked to leave; a second time, to leave at once.
    Stop(String),
}

/// The other agents of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOrder {
    /// The attempt's secret.
    pub secret: Vec<u8>,
    /// host:port of each one's peer service.
    pub peers: BTreeMap<WorkerId, String>,
}

/// What the agent does about it.
#[derive(Debug, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "a handful exist at a time, and each moves once or twice"
)]
pub enum Effect {
    /// Start a trainer and give it its assignment.
    Spawn(ProcessId, RankKey, Box<v1::Prepare>),
    /// Pass a command on to a trainer, as the rank that it is or becomes by it.
    Tell(ProcessId, RankKey, Command),
    /// SIGKILL, now.
    Kill(ProcessId, RankKey),
    /// Tell the coordinator of a rank.
    Up(RankKey, Reported),
    /// Tell the coordinator that this agent leaves.
    Leaving(v1::Leaving),
    /// Tell the coordinator that two agents cannot reach each other.
    LinkLost(v1::LinkLost),
    /// Keep links to the other agents of an attempt.
    Link(AttemptKey, LinkOrder),
    /// Tell them that a rank here has left its gang.
    Gone(AttemptKey, Rank, String),
    /// The attempt is over here: let go of its links.
    Unlink(AttemptKey),
    /// Something was refused: for the agent's log.
    Refused(RankKey, String),
}

/// How long the events of an ended rank are sent again after a reconnect; the coordinator decides sooner than that.
const REMEMBER_ENDED: Duration = Duration::from_secs(600);

impl AgentState {
    /// Worker `me` with `devices` free devices and no coordinator yet.
    pub fn new(me: WorkerId, patience: Patience, devices: u32, now: Instant) -> Self {
        Self {
            me,
            patience,
            link: Link::Down { since: now },
            stay: Stay::Staying,
            seats: (0..devices).map(|_| Seat::default()).collect(),
            ended: BTreeMap::new(),
            over: BTreeMap::new(),
            gangs: BTreeMap::new(),
            ping_due: None,
            next_process: 0,
        }
    }

    /// The trainers that live: what a registration lists.
    pub fn running(&self) -> impl Iterator<Item = v1::RunningRank> {
        (0..).zip(&self.seats).filter_map(|(device, seat)| {
            seat.process.as_ref().map(|process| process.listed(device))
        })
    }

    /// Whether a trainer of this job lives.
    pub fn runs(&self, job: &JobId) -> bool {
        self.processes().any(|process| process.key.job == *job)
    }

    /// Whether any trainer lives.
    pub fn is_idle(&self) -> bool {
        self.processes().next().is_none()
    }

    /// When time alone will next change something.
    pub fn next_deadline(&self) -> Option<Instant> {
        let killed = self.processes().filter_map(|process| match process.life {
            Life::Leaving { kill_at, .. } => Some(kill_at),
            Life::Running(_) | Life::Held { .. } | Life::Killed => None,
        });
        let forgotten = self.ended.values().map(|ended| ended.at + REMEMBER_ENDED);
        killed
            .chain(forgotten)
            .chain(self.next_pulse())
            .chain(self.next_leave())
            .min()
    }

    /// Takes one event.
    pub fn apply(&mut self, event: Event, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.forgive_silence(now);
        match event {
            Event::Connected => self.connected(now, &mut effects),
            Event::Disconnected => self.disconnected(now, &mut effects),
            Event::Command(key, Command::Prepare(prepare)) => {
                self.prepare(key, Box::new(prepare), now, &mut effects);
            }
            Event::Command(key, Command::Abort(abort)) => {
                self.abort_rank(&key, &abort, now, &mut effects);
            }
            Event::Command(key, command) => self.pass_on(key, command, &mut effects),
            Event::Abort(order) => self.abort(&order, now, &mut effects),
            Event::Reported(process, key, reported) => {
                self.reported(process, &key, reported, now, &mut effects);
            }
            Event::Exited(process, exited) => self.exited(process, exited, now, &mut effects),
            Event::SpawnFailed(process, problem) => {
                self.spawn_failed(process, problem, now, &mut effects);
            }
            Event::PeerGone {
                attempt,
                worker,
                rank,
                reason,
            } => {
                let reason = format!("rank {rank} on worker {worker} has left: {reason}");
                self.break_gang(&attempt, None, &reason, now, &mut effects);
            }
            Event::LinkUp(attempt, worker) => self.link_up(&attempt, &worker),
            Event::LinkLost(attempt, worker, reason) => {
                self.link_lost(&attempt, worker, &reason, now, &mut effects);
            }
            Event::Tick => {}
            Event::Stop(reason) => self.stop(reason, now, &mut effects),
        }
        self.settle(now, &mut effects);
        effects
    }

    fn connected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        self.link = Link::Up;
        self.say_leaving(now, effects);
        let ended = self.ended.iter().map(|(key, ended)| (key, &ended.kept));
        let alive = self
            .processes()
            .map(|process| (&process.key, &process.kept));
        for (key, kept) in ended.chain(alive) {
            effects.extend(kept.again().map(|event| Effect::Up(key.clone(), event)));
        }
        self.say_lost_links(effects);
    }

    fn disconnected(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if matches!(self.link, Link::Up) {
            self.link = Link::Down { since: now };
        }
        self.leave_unreachable(now, effects);
    }

    fn pass_on(&mut self, key: RankKey, command: Command, effects: &mut Vec<Effect>) {
        if let Command::Begin(begin) = command {
            return self.begin(key, begin, effects);
        }
        let Some(process) = self.process_of(&key) else {
            return effects.push(Effect::Refused(key, "no such rank runs here".into()));
        };
        process.kept.commanded(&command);
        let refusal = match (&process.life, &command) {
            (_, Command::Ping(_)) => Some("only its agent asks a trainer whether it is there"),
            (Life::Running(_), _)
            | (Life::Held { .. }, Command::Committed(_) | Command::WriteManifest(_)) => None,
            (Life::Held { .. }, _) => Some("it has left its gang"),
            (Life::Leaving { .. } | Life::Killed, _) => Some("it is leaving"),
        };
        effects.push(match refusal {
            None => Effect::Tell(process.id, key, command),
            Some(reason) => Effect::Refused(key, reason.into()),
        });
    }

    /// What time alone brings about. Does nothing that is done already.
    fn settle(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        for seat in &mut self.seats {
            if let Some(process) = &mut seat.process
                && let Life::Leaving { kill_at, .. } = process.life
                && kill_at <= now
            {
                process.life = Life::Killed;
                effects.push(Effect::Kill(process.id, process.key.clone()));
            }
        }
        self.take_pulse(now, effects);
        self.save_orphans(now, effects);
        self.go_on_leaving(now, effects);
        self.ended
            .retain(|_, ended| now < ended.at + REMEMBER_ENDED);
        self.unlink_ended(effects);
    }

    /// A rank for which there is no process has ended, or never began.
    fn note_end(
        &mut self,
        key: RankKey,
        mut kept: Kept,
        exited: v1::Exited,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let exited = Reported::Exited(exited);
        self.send(&key, &mut kept, exited, effects);
        self.ended.insert(key, Ended { at: now, kept });
    }

    fn never_started(
        &mut self,
        key: RankKey,
        reason: &str,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        let exited = v1::Exited {
            last_lines: vec![format!("never started: {reason}")],
            ..v1::Exited::default()
        };
        self.note_end(key, Kept::default(), exited, now, effects);
    }

    /// Remembers an event and sends it where somebody listens.
    fn send(&self, key: &RankKey, kept: &mut Kept, reported: Reported, effects: &mut Vec<Effect>) {
        match self.link {
            Link::Up => {
                kept.sent(&reported);
                effects.push(Effect::Up(key.clone(), reported));
            }
            Link::Down { .. } => kept.missed(&reported),
        }
    }

    fn is_over(&self, key: &RankKey) -> bool {
        let over = self.over.get(&key.job);
        over.is_some_and(|over| key.attempt <= *over)
    }

    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.seats.iter().filter_map(|seat| seat.process.as_ref())
    }

    fn processes_mut(&mut self) -> impl Iterator<Item = &mut Process> {
        self.seats
            .iter_mut()
            .filter_map(|seat| seat.process.as_mut())
    }

    fn process_of(&mut self, key: &RankKey) -> Option<&mut Process> {
        self.processes_mut().find(|process| process.key == *key)
    }

    fn seat_of(&self, id: ProcessId) -> Option<usize> {
        let sits = |seat: &Seat| {
            seat.process
                .as_ref()
                .is_some_and(|process| process.id == id)
        };
        self.seats.iter().position(sits)
    }
}

#[cfg(test)]
mod tests;
