//! What all hosts of one simulation stand on: dice, disk, bucket, clock and processes; and the promises that were broken.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diptych_common::clock::Wall;
use diptych_proto::v1;
use diptych_worker::agent::core::ProcessId;
use diptych_worker::agent::trainers::TrainerEvent;
use object_store::memory::InMemory;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::bucket::Mood;
use crate::journal::Rows;

/// When simulations take place.
const EPOCH: Duration = Duration::from_secs(1_700_000_000);

/// Everything.
#[derive(Debug)]
pub(crate) struct World {
    dice: Mutex<ChaCha8Rng>,
    rows: Mutex<Rows>,
    pub(crate) objects: Arc<InMemory>,
    mood: Mutex<Mood>,
    flip: AtomicBool,
    /// Seconds by which the wall clock is wrong.
    wrong: AtomicI64,
    ports: AtomicU16,
    processes: Mutex<BTreeMap<(&'static str, ProcessId), Running>>,
    stops: Mutex<BTreeMap<&'static str, mpsc::UnboundedSender<String>>>,
    broken: Mutex<Vec<String>>,
    /// Asked for and told once a simulation has failed.
    standing: Mutex<Standing>,
}

/// A trainer's process.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) fate: watch::Sender<Fate>,
    pub(crate) task: AbortHandle,
    pub(crate) events: mpsc::Sender<TrainerEvent>,
}

/// What every unfinished job waits for.
#[derive(Debug, Clone, Default)]
pub(crate) enum Standing {
    #[default]
    NotAsked,
    Asked,
    Told(Vec<String>),
}

/// Whether a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Alive,
    /// SIGSTOP.
    Frozen,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .expect("one thread, which goes on to report a panic")
}

impl World {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            dice: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            rows: Mutex::default(),
            objects: Arc::default(),
            mood: Mutex::default(),
            flip: AtomicBool::default(),
            wrong: AtomicI64::default(),
            ports: AtomicU16::new(20_000),
            processes: Mutex::default(),
            stops: Mutex::default(),
            broken: Mutex::default(),
            standing: Mutex::default(),
        })
    }

    pub(crate) fn dice(&self, range: Range<u64>) -> u64 {
        lock(&self.dice).random_range(range)
    }

    /// Any of these; `None` of none.
    pub(crate) fn one_of<T: Copy>(&self, all: &[T]) -> Option<T> {
        let nth = self.dice(0..all.len().max(1) as u64);
        all.get(usize::try_from(nth).ok()?).copied()
    }

    pub(crate) fn rows(&self) -> MutexGuard<'_, Rows> {
        lock(&self.rows)
    }

    // The bucket.

    pub(crate) fn mood(&self) -> Mood {
        *lock(&self.mood)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        *lock(&self.mood) = mood;
    }

    /// One bit of the next object that is written will be another.
    pub(crate) fn flip_next_write(&self) {
        self.flip.store(true, Ordering::Relaxed);
    }

    pub(crate) fn flips_next_write(&self) -> bool {
        self.flip.swap(false, Ordering::Relaxed)
    }

    // Time.

    pub(crate) fn set_wall_wrong(&self, seconds: i64) {
        self.wrong.store(seconds, Ordering::Relaxed);
    }

    // Processes.

    /// A port that no trainer had before.
    pub(crate) fn port(&self) -> u16 {
        self.ports.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn started(&self, host: &'static str, id: ProcessId, running: Running) {
        lock(&self.processes).insert((host, id), running);
    }

    pub(crate) fn ended(&self, host: &'static str, id: ProcessId) {
        lock(&self.processes).remove(&(host, id));
    }

    /// SIGKILL.
    pub(crate) fn kill(&self, host: &'static str, id: ProcessId) {
        let Some(running) = lock(&self.processes).remove(&(host, id)) else {
            return;
        };
        running.task.abort();
        let exited = v1::Exited {
            signal: Some(9),
            ..v1::Exited::default()
        };
        drop(running.events.try_send(TrainerEvent::Exited(id, exited)));
    }

    /// All that runs on a host is gone with it.
    pub(crate) fn power_off(&self, host: &'static str) {
        lock(&self.processes).retain(|(on, _), _| *on != host);
        lock(&self.stops).remove(host);
    }

    pub(crate) fn kill_one(&self, host: &'static str) {
        if let Some(id) = self.pick(host) {
            self.kill(host, id);
        }
    }

    pub(crate) fn freeze_one(&self, host: &'static str) {
        if let Some(id) = self.pick(host)
            && let Some(running) = lock(&self.processes).get(&(host, id))
        {
            running.fate.send_replace(Fate::Frozen);
        }
    }

    pub(crate) fn thaw_all(&self) {
        for running in lock(&self.processes).values() {
            running.fate.send_replace(Fate::Alive);
        }
    }

    fn pick(&self, host: &'static str) -> Option<ProcessId> {
        let processes = lock(&self.processes);
        let own: Vec<ProcessId> = processes
            .keys()
            .filter(|(on, _)| *on == host)
            .map(|(_, id)| *id)
            .collect();
        drop(processes);
        self.one_of(&own)
    }

    /// The way to ask a host's agent to leave.
    pub(crate) fn listens(&self, host: &'static str) -> mpsc::UnboundedReceiver<String> {
        let (stop, stops) = mpsc::unbounded_channel();
        lock(&self.stops).insert(host, stop);
        stops
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self, host: &'static str) {
        if let Some(stop) = lock(&self.stops).get(host) {
            drop(stop.send("SIGTERM".to_owned()));
        }
    }

    // Promises.

    pub(crate) fn holds(&self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            lock(&self.broken).push(otherwise());
        }
    }

    pub(crate) fn standing(&self) -> MutexGuard<'_, Standing> {
        lock(&self.standing)
    }

    /// # Panics
    /// A promise was broken.
    pub(crate) fn check(&self) {
        let broken = lock(&self.broken);
        assert!(broken.is_empty(), "{}", broken.join("\n"));
    }
}

/// The wall clock of every host.
#[derive(Debug)]
pub(crate) struct WorldClock(pub(crate) Arc<World>);

impl Wall for WorldClock {
    fn now(&self) -> SystemTime {
        let right = EPOCH + turmoil::sim_elapsed().unwrap_or_default();
        let wrong = self.0.wrong.load(Ordering::Relaxed);
        let by = Duration::from_secs(wrong.unsigned_abs());
        let seen = if wrong < 0 { right - by } else { right + by };
        UNIX_EPOCH + seen
    }
}
