//! One simulation: bad weather for a while, then fine weather until every job has succeeded.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use diptych_common::checkpoint::{CheckpointKey, CheckpointRef};
use diptych_common::ids::{PhaseIndex, Step};
use diptych_coordinator::core::CheckpointState;
use object_store::ObjectStore;
use tempfile::TempDir;
use tokio::sync::mpsc;
use turmoil::Sim;

use crate::bucket::Mood;
use crate::client::{Wish, client};
use crate::hosts;
use crate::save::{self, State};
use crate::trainer::STEPS;
use crate::world::{Standing, World};

const COORDINATOR: &str = "coordinator";
const WORKERS: [&str; 3] = ["worker-0", "worker-1", "worker-2"];
/// One turn of every host.
const TICK: Duration = Duration::from_millis(5);
/// Between two throws of the dice.
const SPELL: Duration = Duration::from_millis(200);
const WEATHER: Duration = Duration::from_secs(30);
/// By then everything has ended, the weather being fine.
const CALM: Duration = Duration::from_secs(500);
/// As the network is without faults.
const LATENCY: Duration = Duration::from_millis(15);

/// A simulation.
pub(crate) struct Storm {
    sim: Sim<'static>,
    world: Arc<World>,
    wishes: mpsc::UnboundedSender<Wish>,
    repairs: Vec<(Duration, Repair)>,
    _dir: TempDir,
}

/// What ends a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repair {
    Start(&'static str),
    Connect(&'static str, &'static str),
    Release(&'static str, &'static str),
    Hasten(&'static str, &'static str),
    Store,
    Disk,
    Clock,
    Thaw,
}

/// What was left of a simulation: equal for equal seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trace {
    /// Everything that happened, and when.
    pub(crate) story: Vec<String>,
    /// Virtual time that it took.
    pub(crate) took: Duration,
}

impl Storm {
    pub(crate) fn new(seed: u64) -> Self {
        let mut sim = turmoil::Builder::new()
            .rng_seed(seed)
            .tick_duration(TICK)
            .simulation_duration(WEATHER + CALM + CALM)
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(LATENCY)
            .tcp_capacity(1 << 12)
            .build();
        let world = World::new(seed);
        let temporary = tempfile::tempdir().expect("a directory");
        let dir: Arc<Path> = temporary.path().into();
        let (on, at) = (Arc::clone(&world), Arc::clone(&dir));
        sim.host(COORDINATOR, move || {
            hosts::coordinator(Arc::clone(&on), Arc::clone(&at))
        });
        for name in WORKERS {
            let (on, at) = (Arc::clone(&world), Arc::clone(&dir));
            sim.host(name, move || {
                hosts::agent(Arc::clone(&on), Arc::clone(&at), name)
            });
        }
        let (wishes, received) = mpsc::unbounded_channel();
        sim.client("client", client(Arc::clone(&world), received));
        Self {
            sim,
            world,
            wishes,
            repairs: Vec::new(),
            _dir: temporary,
        }
    }

    /// # Panics
    /// A promise was broken.
    pub(crate) fn run(mut self) -> Trace {
        let mut next = SPELL;
        while self.sim.elapsed() < WEATHER {
            if self.sim.elapsed() >= next {
                next += SPELL;
                if self.world.dice(0..100) < 20 {
                    self.fault();
                }
            }
            self.repair(self.sim.elapsed());
            if self.step() {
                return self.trace();
            }
        }
        self.clear_up();
        while !self.step() {
            let now = self.sim.elapsed();
            if now >= WEATHER + CALM {
                *self.world.standing() = Standing::Asked;
                for _ in 0..20 {
                    self.step();
                }
            }
            assert!(
                now < WEATHER + CALM,
                "I11: not all jobs have succeeded by {now:?}: {}",
                self.last()
            );
        }
        self.trace()
    }

    /// Whether the client has got all that it wants.
    fn step(&mut self) -> bool {
        let over = self.sim.step();
        self.world.check();
        over.unwrap_or_else(|error| panic!("a host ended: {error}"))
    }

    fn fault(&mut self) {
        let now = self.sim.elapsed();
        let world = Arc::clone(&self.world);
        let (Some(one), Some(other)) = (world.one_of(&WORKERS), world.one_of(&WORKERS)) else {
            return;
        };
        let other = if one == other { COORDINATOR } else { other };
        let short = now + Duration::from_millis(world.dice(200..5_000));
        let long = now + Duration::from_millis(world.dice(8_000..20_000));
        match world.dice(0..19) {
            0..3 => world.kill_one(one),
            3 => {
                world.freeze_one(one);
                self.until(long, Repair::Thaw);
            }
            4 => self.crash(one, short),
            5 => self.crash(COORDINATOR, short),
            6 => self.crash(COORDINATOR, long),
            7 => {
                self.sim.partition(one, other);
                self.until(long, Repair::Connect(one, other));
            }
            8 => {
                self.sim.partition_oneway(one, other);
                self.until(long, Repair::Connect(one, other));
            }
            9 => {
                self.sim.partition_oneway(other, one);
                self.until(long, Repair::Connect(one, other));
            }
            10 => {
                self.sim.hold(one, other);
                self.until(short, Repair::Release(one, other));
            }
            11 => {
                let late = Duration::from_millis(world.dice(100..400));
                self.sim.set_link_max_message_latency(one, other, late);
                self.until(long, Repair::Hasten(one, other));
            }
            12 => {
                let mood = world.one_of(&[Mood::Down, Mood::Flaky, Mood::Slow]);
                world.set_mood(mood.unwrap_or_default());
                self.until(long, Repair::Store);
            }
            13 => world.flip_next_write(),
            14 => {
                world.rows().full = true;
                self.until(short, Repair::Disk);
            }
            15 => {
                let hour = 3_600;
                world.set_wall_wrong(if world.dice(0..2) == 0 { hour } else { -hour });
                self.until(long, Repair::Clock);
            }
            16 => {
                world.terminate(one);
                self.until(long, Repair::Start(one));
            }
            17 => {
                let job = world.one_of(&[0, 1]).unwrap_or_default();
                let min = world.one_of(&[1, 2]).unwrap_or(1);
                let max = min + world.one_of(&[0, 1, 2, 3]).unwrap_or(1);
                self.wish(Wish::Scale { job, min, max });
            }
            _ if world.dice(0..2) == 0 => self.wish(Wish::Drain { worker: one }),
            _ => self.wish(Wish::Cordon {
                worker: one,
                cordoned: true,
            }),
        }
    }

    fn crash(&mut self, host: &'static str, back: Duration) {
        if self.sim.is_host_running(host) {
            self.sim.crash(host);
            self.world.power_off(host);
        }
        self.until(back, Repair::Start(host));
    }

    fn until(&mut self, at: Duration, repair: Repair) {
        self.repairs.push((at, repair));
    }

    fn wish(&self, wish: Wish) {
        // A client that has all that it wants is past listening.
        drop(self.wishes.send(wish));
    }

    fn repair(&mut self, now: Duration) {
        let due = self.repairs.extract_if(.., |(at, _)| *at <= now);
        for (_, repair) in due.collect::<Vec<_>>() {
            match repair {
                Repair::Start(host) => {
                    self.world.power_off(host);
                    self.sim.bounce(host);
                }
                Repair::Connect(one, other) => self.sim.repair(one, other),
                Repair::Release(one, other) => self.sim.release(one, other),
                Repair::Hasten(one, other) => {
                    self.sim.set_link_max_message_latency(one, other, LATENCY);
                }
                Repair::Store => self.world.set_mood(Mood::Fine),
                Repair::Disk => self.world.rows().full = false,
                Repair::Clock => self.world.set_wall_wrong(0),
                Repair::Thaw => self.world.thaw_all(),
            }
        }
    }

    /// The weather is fine from now on, and what people closed is open.
    fn clear_up(&mut self) {
        self.repair(Duration::MAX);
        for host in WORKERS {
            if !self.sim.is_host_running(host) {
                self.world.power_off(host);
                self.sim.bounce(host);
            }
        }
        for worker in WORKERS {
            self.wish(Wish::Cordon {
                worker,
                cordoned: false,
            });
        }
        for job in 0..2 {
            self.wish(Wish::Scale {
                job,
                min: 1,
                max: 4,
            });
        }
    }

    /// Every checkpoint that was verified is whole, every phase's last one is what the undisturbed run has.
    fn trace(&self) -> Trace {
        let jobs = self.world.rows().stored.jobs.clone();
        for job in &jobs {
            for (number, (_, checkpoints)) in (0..).zip(&job.phases) {
                let phase = PhaseIndex::new(number);
                let verified = checkpoints
                    .iter()
                    .filter(|checkpoint| checkpoint.state == CheckpointState::Verified);
                let mut last = None;
                for checkpoint in verified {
                    let key: CheckpointKey =
                        CheckpointKey::of_object(&checkpoint.manifest).expect("a manifest's key");
                    let reference = CheckpointRef {
                        phase: key.name.clone(),
                        manifest: key.manifest(),
                        digest: checkpoint.digest.parse().expect("a digest"),
                        step: checkpoint.id.step,
                    };
                    let loaded = self.load(&reference);
                    let right = State::after(&job.record.id, phase, checkpoint.id.step.get());
                    assert_eq!(loaded, right, "I4: {}", checkpoint.manifest);
                    last = Some(checkpoint.id.step);
                }
                assert_eq!(last, Some(Step::new(STEPS)), "{} {phase}", job.record.id);
            }
        }
        let rows = self.world.rows();
        let lines = rows.events.iter();
        let story: Vec<String> = lines
            .map(|(job, event)| format!("{job} {event:?}"))
            .collect();
        Trace {
            story,
            took: self.sim.elapsed(),
        }
    }

    fn load(&self, reference: &CheckpointRef) -> State {
        let objects: Arc<dyn ObjectStore> =
            Arc::<object_store::memory::InMemory>::clone(&self.world.objects);
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().expect("a runtime");
        let loaded = runtime.block_on(save::load(objects, reference));
        loaded.unwrap_or_else(|error| panic!("I4: {}: {error}", reference.manifest))
    }

    fn last(&self) -> String {
        let standing = match &*self.world.standing() {
            Standing::Told(lines) => lines.join("\n"),
            Standing::NotAsked | Standing::Asked => String::new(),
        };
        let rows = self.world.rows();
        let lines = rows.events.iter().rev().take(300).rev();
        let lines: String = lines
            .map(|(job, event)| {
                format!(
                    "\n{job} {} {}: {}",
                    event.attempt, event.kind, event.message
                )
            })
            .collect();
        format!("{standing}{lines}")
    }
}
