use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointRef, StoredObject};
use diptych_common::digest::Digest;
use diptych_common::ids::{Attempt, Rank, Step};

use super::gang::{Attempted, Job};
use crate::phase::Seat;
use crate::trainer::attempts::Attempts;
use crate::trainer::process::attend;
use crate::trainer::wire::Incoming;
use crate::trainer::{
    Begin, Command, Control, Fence, Held, Leave, Measurement, Peer, Ready, Report, StartFrom,
};

/// Fleets of one job write to the same store.
static NUMBERS: AtomicU64 = AtomicU64::new(1000);
/// Longest that a test waits for a report.
const PATIENCE: Duration = Duration::from_secs(120);

/// Trainers of one phase that live over attempts. The test says what is placed where, and plays the coordinator of saves.
pub(super) struct Fleet<'a> {
    job: &'a Job,
    phase: u32,
    attempt: u64,
    seats: BTreeMap<usize, Attempts>,
    send: mpsc::Sender<Said>,
    said: mpsc::Receiver<Said>,
    round: Round,
    parts: BTreeMap<Step, BTreeMap<usize, Vec<StoredObject>>>,
    /// Where the coordinator is away: nobody gathers parts.
    pub(super) away: bool,
    /// From this step on nothing is committed, so that no trainer comes to its end.
    pub(super) withheld: Option<Step>,
    pub(super) commits: Vec<CheckpointRef>,
    pub(super) bests: BTreeSet<Step>,
    pub(super) measured: Vec<Measurement>,
    pub(super) notices: Vec<(&'static str, String)>,
    pub(super) held: BTreeMap<usize, Held>,
    pub(super) failed: BTreeMap<usize, Report>,
    pub(super) exited: BTreeMap<usize, u8>,
}

/// A seat, and what it said: a report with its attempt, or its exit status.
type Said = (usize, Result<(u64, Report), u8>);

/// What is placed for one attempt.
#[derive(Clone, Default)]
pub(super) struct Round {
    /// The seat of each rank.
    pub(super) ranks: Vec<usize>,
    /// Seats that stand by.
    pub(super) reserves: Vec<usize>,
    pub(super) start: StartFrom,
    pub(super) resume: Option<CheckpointRef>,
    pub(super) skip: BTreeSet<Step>,
}

/// An attempt from memory on these seats.
pub(super) fn from_memory(ranks: &[usize]) -> Round {
    Round {
        ranks: ranks.to_vec(),
        start: StartFrom::Memory,
        ..Round::default()
    }
}

/// An attempt from the beginning on these seats.
pub(super) fn from_scratch(ranks: &[usize]) -> Round {
    Round {
        ranks: ranks.to_vec(),
        ..Round::default()
    }
}

impl<'a> Fleet<'a> {
    pub(super) fn new(job: &'a Job, phase: u32) -> Self {
        let (send, said) = mpsc::channel();
        Self {
            job,
            phase,
            attempt: NUMBERS.fetch_add(1000, Ordering::Relaxed),
            seats: BTreeMap::new(),
            send,
            said,
            round: Round::default(),
            parts: BTreeMap::new(),
            away: false,
            withheld: None,
            commits: Vec::new(),
            bests: BTreeSet::new(),
            measured: Vec::new(),
            notices: Vec::new(),
            held: BTreeMap::new(),
            failed: BTreeMap::new(),
            exited: BTreeMap::new(),
        }
    }

    /// Assigns the next attempt.
    pub(super) fn assign(&mut self, round: Round) {
        self.attempt += 1;
        self.parts.clear();
        self.held.clear();
        let placed = round.ranks.iter().chain(&round.reserves);
        for (rank, &seat) in placed.enumerate() {
            let how = Attempted {
                world: round.ranks.len() as u32,
                resume: round.resume.clone(),
                ..Attempted::default()
            };
            let mut assignment = self.job.assignment(self.phase, rank as u32, &how);
            assignment.attempt = Attempt::new(self.attempt);
            assignment.start = round.start;
            assignment.reserve = rank >= round.ranks.len();
            assignment.skip = round.skip.clone();
            let fence = Fence {
                attempt: assignment.attempt,
                ..self.job.fence(rank as u32)
            };
            match self.seats.get(&seat) {
                Some(attempts) => {
                    attempts.hear(fence, Ok(Incoming::Prepare(Box::new(assignment))));
                }
                None => {
                    let control = Control::new(fence);
                    let attempts = Attempts::new(control.clone(), Ok(assignment));
                    self.seats.insert(seat, attempts.clone());
                    self.start(seat, control, attempts);
                }
            }
        }
        self.round = round;
    }

    /// A trainer as a thread: it lives until its attempts end.
    fn start(&self, seat: usize, control: Control, attempts: Attempts) {
        let (send, way_out) = (self.send.clone(), control.clone());
        std::thread::spawn(move || {
            while let Some((fence, report)) = way_out.next_report() {
                drop(send.send((seat, Ok((fence.attempt.get(), report)))));
            }
        });
        let send = self.send.clone();
        std::thread::spawn(move || {
            let status = attend(&attempts, &mut Seat::default());
            control.flush(Duration::from_secs(5));
            control.close();
            drop(send.send((seat, Err(status))));
        });
    }

    /// Waits until everybody stands ready.
    pub(super) fn ready(&mut self) -> BTreeMap<usize, Ready> {
        let wanted = self.round.ranks.len() + self.round.reserves.len();
        let mut ready = BTreeMap::new();
        while ready.len() < wanted {
            if let Some((seat, Report::Ready(said))) = self.hear() {
                ready.insert(seat, said);
            }
        }
        ready
    }

    /// Whether nobody holds a state.
    pub(super) fn empty(ready: &BTreeMap<usize, Ready>) -> bool {
        ready.values().all(|ready| ready.state.is_none())
    }

    /// The attempt that follows where nobody holds a state.
    pub(super) fn fallback(&self) -> Round {
        Round {
            start: StartFrom::Checkpoint,
            resume: self.commits.last().cloned(),
            ..self.round.clone()
        }
    }

    /// What the coordinator tells a gang that stands ready.
    pub(super) fn plan(&self, ready: &BTreeMap<usize, Ready>) -> Begin {
        let ranks = || (0..).map(Rank::new).zip(&self.round.ranks);
        let states = ranks().filter_map(|(rank, seat)| Some((rank, ready[seat].state.as_ref()?)));
        let most = states.clone().map(|(_, state)| state.step).max().unwrap();
        let mut first: Option<(Rank, Digest)> = None;
        for (rank, state) in states.filter(|(_, state)| state.step == most) {
            let (_, digest) = *first.get_or_insert((rank, state.digest));
            assert_eq!(digest, state.digest, "one step, two states");
        }
        let (source, digest) = first.unwrap();
        let own = |seat: &usize| ready[seat].state.as_ref().map(|state| state.step);
        let peer = |(rank, seat): (Rank, &usize)| Peer {
            rank,
            endpoint: ready[seat].endpoint.clone(),
            worker: "worker-0".parse().unwrap(),
        };
        Begin {
            peers: ranks().map(peer).collect(),
            nccl_id: Vec::new(),
            source: ranks()
                .any(|(_, seat)| own(seat) != Some(most))
                .then_some(source),
            state: Some((most, digest)),
        }
    }

    /// Has the gang begin.
    pub(super) fn begin(&self, begin: &Begin) {
        for rank in 0..self.round.ranks.len() {
            self.tell(rank, Incoming::Begin(begin.clone()));
        }
    }

    /// Assigns an attempt, and has it begin.
    pub(super) fn run(&mut self, round: Round) -> Begin {
        self.assign(round);
        let mut ready = self.ready();
        if Self::empty(&ready) {
            self.assign(self.fallback());
            ready = self.ready();
        }
        let begin = self.plan(&ready);
        self.begin(&begin);
        begin
    }

    /// Passes a command to a rank.
    pub(super) fn tell(&self, rank: usize, command: Incoming) {
        let fence = Fence {
            attempt: Attempt::new(self.attempt),
            ..self.job.fence(rank as u32)
        };
        self.seats[&self.round.ranks[rank]].hear(fence, Ok(command));
    }

    pub(super) fn abort(&self, rank: usize, keep: bool) {
        let reason = "the test wants it".to_owned();
        self.tell(rank, Incoming::Abort { reason, keep });
    }

    pub(super) fn leave(&self, rank: usize, save: bool, alone: bool) {
        let reason = "the test plans it".to_owned();
        self.tell(
            rank,
            Incoming::Leave(Leave {
                reason,
                save,
                alone,
            }),
        );
    }

    /// The next report of the newest attempt, after the coordinator's part of it; `None` for an exit.
    pub(super) fn hear(&mut self) -> Option<(usize, Report)> {
        loop {
            let (seat, said) = self
                .said
                .recv_timeout(PATIENCE)
                .expect("nobody says anything");
            let (attempt, report) = match said {
                Err(status) => {
                    self.exited.insert(seat, status);
                    return None;
                }
                Ok(said) => said,
            };
            if let Report::Progress(progress) = &report {
                self.measured.extend(progress.measurements.clone());
            }
            if attempt == self.attempt {
                self.attend(seat, &report);
                return Some((seat, report));
            }
        }
    }

    fn attend(&mut self, seat: usize, report: &Report) {
        match report {
            Report::PartSaved { step, objects, .. } if !self.away => {
                let saved = self.parts.entry(*step).or_default();
                let rank = self.round.ranks.iter().position(|own| *own == seat);
                saved.insert(rank.unwrap(), objects.clone());
                if saved.len() == self.round.ranks.len() {
                    let objects = saved.values().flatten().cloned().collect();
                    let step = *step;
                    self.tell(
                        0,
                        Incoming::Command(Command::WriteManifest { step, objects }),
                    );
                }
            }
            Report::ManifestWritten { checkpoint, best } => {
                if best.is_some() {
                    self.bests.insert(checkpoint.step);
                }
                self.commits.push(checkpoint.clone());
                let withheld = self.withheld.is_some_and(|step| checkpoint.step >= step);
                let told = !self.away && !withheld;
                for rank in (0..self.round.ranks.len()).filter(|_| told) {
                    let committed = Command::Committed(checkpoint.clone());
                    self.tell(rank, Incoming::Command(committed));
                }
            }
            Report::Notice { kind, message } => self.notices.push((kind, message.clone())),
            Report::Held(held) => drop(self.held.insert(seat, held.clone())),
            Report::Failed { .. } => drop(self.failed.insert(seat, report.clone())),
            _ => {}
        }
    }

    /// Waits until every rank of the attempt is held.
    pub(super) fn all_held(&mut self) -> Vec<Held> {
        while !self
            .round
            .ranks
            .iter()
            .all(|seat| self.held.contains_key(seat))
        {
            assert!(self.failed.is_empty(), "{:?}", self.failed);
            self.hear();
        }
        let ranks = self.round.ranks.iter();
        ranks.map(|seat| self.held[seat].clone()).collect()
    }

    /// Waits for the phase's end, and gives the last checkpoint.
    pub(super) fn done(&mut self) -> CheckpointRef {
        while !self
            .round
            .ranks
            .iter()
            .all(|seat| self.exited.contains_key(seat))
        {
            assert!(self.failed.is_empty(), "{:?}", self.failed);
            self.hear();
        }
        let statuses = self.round.ranks.iter().map(|seat| self.exited[seat]);
        assert!(
            statuses.clone().all(|status| status == 0),
            "{:?}",
            self.exited
        );
        self.commits.last().unwrap().clone()
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        for attempts in self.seats.values() {
            attempts.end("the test is over");
        }
    }
}
