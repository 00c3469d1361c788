//! The agent's decisions, event by event.

use super::*;

mod abort; // attempts end, in any order of messages
mod gangs; // what agents tell each other
mod leaving; // orphans, SIGTERM
mod preparing; // ranks take their devices
mod pulses; // silence
mod random; // any order of anything
mod reports; // what goes up, and goes up again

struct Table {
    state: AgentState,
    now: Instant,
    /// Trainers answer while time passes.
    answers: bool,
}

const PATIENCE: Patience = Patience {
    abort_grace: Duration::from_millis(500),
    hold_grace: Duration::from_millis(500),
    orphan_limit: Duration::from_secs(600),
    unresponsive: Duration::from_secs(3),
    leave_grace: Duration::from_secs(120),
};
const MOMENT: Duration = Duration::from_millis(1);

fn job() -> JobId {
    "digits-0a1b2c".parse().expect("a name")
}

fn other_job() -> JobId {
    "other-0a1b2c".parse().expect("a name")
}

fn worker(number: u32) -> WorkerId {
    format!("worker-{number}").parse().expect("a name")
}

fn key(attempt: u64, rank: u32) -> RankKey {
    RankKey {
        job: job(),
        attempt: Attempt::new(attempt),
        rank: Rank::new(rank),
    }
}

fn prepare(device: u32) -> v1::Prepare {
    v1::Prepare {
        device,
        world: 2,
        secret: vec![7; 32],
        ..v1::Prepare::default()
    }
}

fn abort(attempt: u64) -> AbortOrder {
    AbortOrder {
        job: job(),
        attempt: Attempt::new(attempt),
        reason: "rank 1 was lost".into(),
        keep: false,
        end: BTreeSet::new(),
    }
}

fn keep(attempt: u64) -> AbortOrder {
    AbortOrder {
        keep: true,
        ..abort(attempt)
    }
}

/// The ranks of this worker and one of worker 1 and worker 5 each.
fn begin() -> v1::Begin {
    let peer = |(rank, worker): (u32, u32)| v1::Peer {
        rank,
        endpoint: format!("10.0.0.{worker}:1"),
        worker: format!("worker-{worker}"),
        agent: format!("10.0.0.{worker}:2"),
    };
    v1::Begin {
        peers: [(0, 3), (1, 3), (2, 1), (3, 5)].map(peer).to_vec(),
        ..v1::Begin::default()
    }
}

fn held(step: u64) -> Reported {
    Reported::Held(v1::Held {
        step,
        reason: "told to".into(),
        lost_peers: Vec::new(),
    })
}

fn progress(step: u64) -> Reported {
    let point = v1::MetricPoint {
        step,
        name: "loss".into(),
        ..v1::MetricPoint::default()
    };
    Reported::Progress(v1::Progress {
        step,
        metrics: vec![point],
        ..v1::Progress::default()
    })
}

fn part(step: u64) -> Reported {
    Reported::PartSaved(v1::PartSaved {
        step,
        objects: Vec::new(),
        stall_s: None,
    })
}

fn ready() -> Reported {
    Reported::Ready(v1::Ready {
        endpoint: "127.0.0.1:1".into(),
        ..v1::Ready::default()
    })
}

fn failed(kind: v1::FailureKind) -> Reported {
    Reported::Failed(v1::Failed {
        kind: kind.into(),
        message: "it is so".into(),
        ..v1::Failed::default()
    })
}

/// The ranks that are told to leave, and whether they are kept.
fn told_to_leave(effects: &[Effect]) -> Vec<(RankKey, bool)> {
    let told = |effect: &Effect| match effect {
        Effect::Tell(_, key, Command::Abort(abort)) => Some((key.clone(), abort.keep)),
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

fn spawned(effects: &[Effect]) -> Vec<RankKey> {
    let started = |effect: &Effect| match effect {
        Effect::Spawn(_, key, _) => Some(key.clone()),
        _ => None,
    };
    effects.iter().filter_map(started).collect()
}

/// The ranks that a process is prepared again as.
fn taken_up(effects: &[Effect]) -> Vec<RankKey> {
    let told = |effect: &Effect| match effect {
        Effect::Tell(_, key, Command::Prepare(_)) => Some(key.clone()),
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

fn killed(effects: &[Effect]) -> Vec<RankKey> {
    let killed = |effect: &Effect| match effect {
        Effect::Kill(_, key) => Some(key.clone()),
        _ => None,
    };
    effects.iter().filter_map(killed).collect()
}

fn pinged(effects: &[Effect]) -> Vec<RankKey> {
    let told = |effect: &Effect| match effect {
        Effect::Tell(_, key, Command::Ping(_)) => Some(key.clone()),
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

/// The ranks that are told to save and leave by themselves.
fn told_to_save(effects: &[Effect]) -> Vec<RankKey> {
    let told = |effect: &Effect| match effect {
        Effect::Tell(_, key, Command::Leave(leave)) if leave.save && leave.alone => {
            Some(key.clone())
        }
        _ => None,
    };
    effects.iter().filter_map(told).collect()
}

fn ups(effects: &[Effect]) -> Vec<(RankKey, Reported)> {
    let up = |effect: &Effect| match effect {
        Effect::Up(key, event) => Some((key.clone(), event.clone())),
        _ => None,
    };
    effects.iter().filter_map(up).collect()
}

impl Table {
    /// Worker 3, with two devices and a coordinator.
    fn new() -> Self {
        let mut table = Self::alone(PATIENCE);
        assert_eq!(table.apply(Event::Connected), []);
        table
    }

    fn alone(patience: Patience) -> Self {
        let now = Instant::now();
        Self {
            state: AgentState::new(worker(3), patience, 2, now),
            now,
            answers: true,
        }
    }

    /// Two ranks that train, of a gang on three workers.
    fn training() -> Self {
        let mut table = Self::new();
        table.train(1);
        table
    }

    fn train(&mut self, attempt: u64) {
        for rank in 0..2 {
            self.start(attempt, rank, rank);
        }
        for rank in 0..2 {
            self.report(attempt, rank, ready());
        }
        for rank in 0..2 {
            self.begin(attempt, rank);
        }
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let effects = self.state.apply(event, self.now);
        self.check_invariants();
        effects
    }

    fn start(&mut self, attempt: u64, rank: u32, device: u32) -> Vec<Effect> {
        let command = Command::Prepare(prepare(device));
        self.apply(Event::Command(key(attempt, rank), command))
    }

    fn begin(&mut self, attempt: u64, rank: u32) -> Vec<Effect> {
        self.apply(Event::Command(key(attempt, rank), Command::Begin(begin())))
    }

    fn id(&self, attempt: u64, rank: u32) -> ProcessId {
        let key = key(attempt, rank);
        let found = self.state.processes().find(|process| process.key == key);
        found.expect("such a process").id
    }

    fn report(&mut self, attempt: u64, rank: u32, event: Reported) -> Vec<Effect> {
        let id = self.id(attempt, rank);
        self.apply(Event::Reported(id, key(attempt, rank), event))
    }

    fn exit(&mut self, attempt: u64, rank: u32) -> Vec<Effect> {
        let exited = v1::Exited {
            code: Some(0),
            ..v1::Exited::default()
        };
        let id = self.id(attempt, rank);
        self.apply(Event::Exited(id, exited))
    }

    /// Time passes, and the agent looks at it whenever it wanted to.
    fn later(&mut self, by: Duration) -> Vec<Effect> {
        let until = self.now + by;
        let mut effects = Vec::new();
        while let Some(at) = self.state.next_deadline().filter(|at| *at < until) {
            assert!(at >= self.now, "a deadline that has passed is no deadline");
            self.now = at;
            effects.extend(self.tick());
        }
        self.now = until;
        effects.extend(self.tick());
        effects
    }

    fn tick(&mut self) -> Vec<Effect> {
        let mut effects = self.apply(Event::Tick);
        for key in pinged(&effects)
            .into_iter()
            .filter(|_| self.answers)
            .collect::<Vec<_>>()
        {
            let id = self.id(key.attempt.get(), key.rank.get());
            let pong = Event::Reported(id, key, Reported::Pong(v1::Pong {}));
            effects.extend(self.apply(pong));
        }
        effects
    }

    fn running(&self) -> Vec<RankKey> {
        let keys = self.state.processes();
        keys.map(|process| process.key.clone()).collect()
    }

    fn check_invariants(&self) {
        for process in self.state.processes() {
            if let Life::Leaving { kill_at, .. } = process.life {
                assert!(kill_at > self.now, "{} outstays its grace", process.key);
            }
            let over = self.state.is_over(&process.key);
            assert!(
                !over || !process.trains(),
                "{} outlives its attempt",
                process.key
            );
        }
        for seat in &self.state.seats {
            if let Some(waiting) = &seat.waiting {
                assert!(seat.process.is_some(), "{} waits for nobody", waiting.key);
                let over = self.state.is_over(&waiting.key);
                assert!(
                    !over || waiting.held_back.is_some(),
                    "{} waits in vain",
                    waiting.key
                );
            }
        }
        let next = self.state.next_deadline();
        assert!(next.is_none_or(|at| at > self.now), "the agent would spin");
    }
}
