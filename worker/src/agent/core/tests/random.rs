//! Whatever comes, in whatever order: what holds at every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Connect,
    Disconnect,
    /// Of the n-th newest attempt, or a newer one where 0.
    Prepare {
        job: bool,
        phase: u32,
        back: u64,
        rank: u32,
        device: u32,
    },
    Begin {
        device: u32,
    },
    Command {
        device: u32,
        leave: bool,
    },
    Abort {
        job: bool,
        back: u64,
        keep: bool,
        end: Option<u32>,
    },
    /// By the process on a device, as the rank that it was `stale` ranks ago.
    Report {
        device: u32,
        stale: usize,
        what: u8,
    },
    Exit {
        device: u32,
    },
    PeerGone {
        back: u64,
    },
    LinkLost {
        back: u64,
    },
    LinkUp {
        back: u64,
    },
    Later(u64),
    HeldUp(u64),
    Stop,
}

fn op() -> impl Strategy<Value = Op> {
    let device = 0_u32..2;
    prop_oneof![
        2 => Just(Op::Connect),
        2 => Just(Op::Disconnect),
        8 => (any::<bool>(), 0_u32..2, 0_u64..3, 0_u32..3, 0_u32..3).prop_map(
            |(job, phase, back, rank, device)| Op::Prepare { job, phase, back, rank, device }
        ),
        6 => device.clone().prop_map(|device| Op::Begin { device }),
        2 => (device.clone(), any::<bool>()).prop_map(|(device, leave)| Op::Command { device, leave }),
        4 => (any::<bool>(), 0_u64..3, any::<bool>(), proptest::option::of(0_u32..3)).prop_map(
            |(job, back, keep, end)| Op::Abort { job, back, keep, end }
        ),
        10 => (device.clone(), prop_oneof![4 => Just(0_usize), 1 => 1_usize..3], 0_u8..9).prop_map(
            |(device, stale, what)| Op::Report { device, stale, what }
        ),
        3 => device.prop_map(|device| Op::Exit { device }),
        1 => (0_u64..2).prop_map(|back| Op::PeerGone { back }),
        1 => (0_u64..2).prop_map(|back| Op::LinkLost { back }),
        1 => (0_u64..2).prop_map(|back| Op::LinkUp { back }),
        6 => (1_u64..4000).prop_map(Op::Later),
        1 => (1000_u64..700_000).prop_map(Op::HeldUp),
        1 => Just(Op::Stop),
    ]
}

/// What the agent's machine and coordinator would see.
struct World {
    table: Table,
    newest: [u64; 2],
    /// Processes that live, with the ranks that they were, the newest last.
    alive: BTreeMap<ProcessId, (u32, Vec<RankKey>)>,
    /// Until when a process that was told to leave may live.
    deadline: BTreeMap<ProcessId, Instant>,
    /// What was reported and is not superseded.
    owed: BTreeMap<RankKey, Reported>,
    up: bool,
}

impl World {
    fn new() -> Self {
        Self {
            table: Table::alone(PATIENCE),
            newest: [1, 1],
            alive: BTreeMap::new(),
            deadline: BTreeMap::new(),
            owed: BTreeMap::new(),
            up: false,
        }
    }

    fn job(&self, other: bool) -> JobId {
        if other { other_job() } else { job() }
    }

    fn attempt(&self, other: bool, back: u64) -> AttemptKey {
        AttemptKey {
            job: self.job(other),
            attempt: Attempt::new(self.newest[usize::from(other)].saturating_sub(back)),
        }
    }

    fn on(&self, device: u32) -> Option<(ProcessId, Vec<RankKey>)> {
        let mut all = self.alive.iter();
        let found = all.find(|(_, (sits, _))| *sits == device);
        found.map(|(id, (_, ranks))| (*id, ranks.clone()))
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Connect => {
                self.up = true;
                let effects = self.take(Event::Connected);
                let again = ups(&effects);
                for (key, owed) in &self.owed {
                    let said = again.contains(&(key.clone(), owed.clone()));
                    assert!(said, "{key} does not say again: {owed:?}");
                }
            }
            Op::Disconnect => {
                self.up = false;
                self.take(Event::Disconnected);
            }
            Op::Prepare {
                job,
                phase,
                back,
                rank,
                device,
            } => {
                if back == 0 {
                    self.newest[usize::from(job)] += 1;
                }
                let of = self.attempt(job, back.saturating_sub(1));
                let key = RankKey {
                    job: of.job,
                    attempt: of.attempt,
                    rank: Rank::new(rank),
                };
                let prepare = v1::Prepare {
                    phase,
                    ..prepare(device)
                };
                self.take(Event::Command(key, Command::Prepare(prepare)));
            }
            Op::Begin { device } => self.command(device, Command::Begin(begin())),
            Op::Command {
                device,
                leave: true,
            } => {
                self.command(device, Command::Leave(v1::Leave::default()));
            }
            Op::Command {
                device,
                leave: false,
            } => self.command(device, Command::Committed(v1::Committed::default())),
            Op::Abort {
                job,
                back,
                keep,
                end,
            } => {
                let of = self.attempt(job, back);
                self.take(Event::Abort(AbortOrder {
                    job: of.job,
                    attempt: of.attempt,
                    reason: "so it is".into(),
                    keep,
                    end: end.map(Rank::new).into_iter().collect(),
                }));
            }
            Op::Report {
                device,
                stale,
                what,
            } => self.report(device, stale, what),
            Op::Exit { device } => {
                if let Some((id, _)) = self.on(device) {
                    self.alive.remove(&id);
                    self.deadline.remove(&id);
                    let exited = v1::Exited {
                        code: Some(1),
                        ..v1::Exited::default()
                    };
                    self.take(Event::Exited(id, exited));
                }
            }
            Op::PeerGone { back } => {
                let attempt = self.attempt(false, back);
                self.take(Event::PeerGone {
                    attempt,
                    worker: worker(1),
                    rank: Rank::new(2),
                    reason: "it ended".into(),
                });
            }
            Op::LinkLost { back } => {
                let attempt = self.attempt(false, back);
                self.take(Event::LinkLost(attempt, worker(1), "silent".into()));
            }
            Op::LinkUp { back } => {
                let attempt = self.attempt(false, back);
                self.take(Event::LinkUp(attempt, worker(1)));
            }
            Op::Later(millis) => {
                let until = self.table.now + Duration::from_millis(millis);
                while let Some(at) = self.table.state.next_deadline().filter(|at| *at < until) {
                    self.table.now = at;
                    self.take(Event::Tick);
                }
                self.table.now = until;
                self.take(Event::Tick);
            }
            Op::HeldUp(millis) => {
                self.table.now += Duration::from_millis(millis);
                let effects = self.take(Event::Tick);
                let stalled = ups(&effects).into_iter().any(|(_, event)| {
                    matches!(event, Reported::Failed(failed) if failed.kind() == v1::FailureKind::Stalled)
                });
                assert!(
                    !stalled || millis < 4000,
                    "its own pause is no silence of theirs"
                );
            }
            Op::Stop => drop(self.take(Event::Stop("SIGTERM".into()))),
        }
    }

    fn command(&mut self, device: u32, command: Command) {
        if let Some((_, ranks)) = self.on(device)
            && let Some(key) = ranks.last()
        {
            self.take(Event::Command(key.clone(), command));
        }
    }

    fn report(&mut self, device: u32, stale: usize, what: u8) {
        let Some((id, ranks)) = self.on(device) else {
            return;
        };
        let Some(key) = ranks.iter().rev().nth(stale) else {
            return;
        };
        let event = match what {
            0 => ready(),
            1 => progress(1),
            2 => part(1),
            3 => Reported::Finished(v1::Finished::default()),
            4 => failed(v1::FailureKind::NonFinite),
            5 => failed(v1::FailureKind::Storage),
            6 => Reported::Pong(v1::Pong {}),
            _ => held(u64::from(what)),
        };
        let current = ranks.last() == Some(key);
        if current && matches!(event, Reported::Held(_)) {
            self.owed.insert(key.clone(), event.clone());
        }
        let effects = self.take(Event::Reported(id, key.clone(), event.clone()));
        let passed = ups(&effects).contains(&(key.clone(), event.clone()));
        let pong = matches!(event, Reported::Pong(_));
        assert_eq!(passed, current && self.up && !pong, "{key}: {event:?}");
        // Whoever holds its state, or has failed by itself, is no longer waited for; who ends is.
        if let Some(process) = self
            .table
            .state
            .processes()
            .find(|process| process.id == id)
            && matches!(process.life, Life::Held { .. } | Life::Running(_))
        {
            self.deadline.remove(&id);
        }
    }

    fn take(&mut self, event: Event) -> Vec<Effect> {
        let now = self.table.now;
        let effects = self.table.apply(event);
        for effect in &effects {
            self.see(effect, now);
        }
        for (id, deadline) in &self.deadline {
            assert!(now < *deadline, "{id} outlives its grace");
        }
        let listed = self.table.state.running().count();
        assert_eq!(
            listed,
            self.alive.len(),
            "a registration lists whoever lives"
        );
        effects
    }

    fn see(&mut self, effect: &Effect, now: Instant) {
        match effect {
            Effect::Spawn(id, key, prepare) => {
                let taken = self.on(prepare.device);
                assert!(
                    taken.is_none(),
                    "two processes on device {}",
                    prepare.device
                );
                let former = self.alive.insert(*id, (prepare.device, vec![key.clone()]));
                assert!(former.is_none(), "{id} is used twice");
            }
            Effect::Tell(id, key, command) => {
                let (_, ranks) = self.alive.get_mut(id).expect("a command to one that lives");
                match command {
                    Command::Prepare(_) => {
                        let former = ranks.last().expect("it was started as one");
                        assert!(former.attempt < key.attempt, "attempts only grow");
                        assert_eq!(former.job, key.job);
                        self.owed.remove(former);
                        ranks.push(key.clone());
                        self.deadline.remove(id);
                    }
                    Command::Abort(_) => {
                        let by = now + PATIENCE.abort_grace;
                        let deadline = self.deadline.entry(*id).or_insert(by);
                        *deadline = by.min(*deadline);
                    }
                    _ => {}
                }
                assert_eq!(ranks.last(), Some(key), "told as the rank that it is");
            }
            Effect::Kill(id, _) => {
                assert!(self.alive.contains_key(id), "only who lives is killed");
                self.deadline.remove(id);
            }
            Effect::Up(key, Reported::Exited(exited)) => {
                self.owed
                    .insert(key.clone(), Reported::Exited(exited.clone()));
            }
            Effect::Up(..)
            | Effect::Leaving(_)
            | Effect::LinkLost(_)
            | Effect::Link(..)
            | Effect::Gone(..)
            | Effect::Unlink(_)
            | Effect::Refused(..) => {}
        }
    }

    /// Ended ranks are remembered for a while only.
    fn forget(&mut self) {
        let state = &self.table.state;
        let live: Vec<_> = state.processes().map(|process| &process.key).collect();
        self.owed
            .retain(|key, _| state.ended.contains_key(key) || live.contains(&key));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn promises_hold_in_any_order(ops in proptest::collection::vec(op(), 1..120)) {
        let mut world = World::new();
        for op in ops {
            world.run(op);
            world.forget();
        }
        // Whatever happened, a second signal ends it.
        for _ in 0..2 {
            world.run(Op::Stop);
        }
        world.run(Op::Later(PATIENCE.abort_grace.as_millis() as u64 + 10_000));
        for device in 0..2 {
            world.run(Op::Exit { device });
        }
        prop_assert!(world.table.state.may_leave());
    }
}
