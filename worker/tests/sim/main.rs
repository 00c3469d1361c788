//! A whole cluster in one thread and in virtual time: the coordinator and the agents as they are in production, over real
//! gRPC on a simulated network, with a disk, a bucket, a wall clock and trainers that go wrong. The promises (I1 to I12)
//! are checked at every turn, and at the end every phase's state must be what an undisturbed run would have.
//!
//! `SIM_SEEDS=10000` runs so many (`make sim`), `SIM_SEED=7` runs one again, step by step the same.

mod entropy; // chance from the seed
mod net; // the network as tonic wants it
mod world; // what all hosts stand on
mod journal; // the coordinator's disk
mod bucket; // the object store
mod save; // checkpoints
mod gang; // the trainers' data plane
mod trainer; // a process over attempts
mod hosts; // coordinator and agents
mod client; // who submits and waits
mod storm; // weather, and what must hold after it

use std::ops::Range;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use storm::{Storm, Trace};

/// Seeds where nobody says otherwise.
const SEEDS: u64 = 200;
/// Tokio's own chance depends on how many runtimes a process had before. So a process runs the seeds of one row, in
/// order, and a seed is had again by its row up to it.
const ROW: u64 = 10;
/// The range that a process of a row runs.
const RANGE: &str = "SIM_RANGE";

/// Names the seed of a simulation that broke a promise.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("a promise was broken; again with SIM_SEED={}", self.0);
    }
}

fn simulate(seed: u64) -> Trace {
    let told = Told(seed);
    let trace = entropy::seeded(seed, || Storm::new(seed).run());
    std::mem::forget(told);
    trace
}

/// What a process of a row does: the story of its last seed is what it prints.
fn run(seeds: Range<u64>) {
    let mut last = None;
    for seed in seeds {
        last = Some(simulate(seed));
    }
    if let Some(trace) = last {
        println!("{}\n{:?}", trace.story.join("\n"), trace.took);
    }
}

fn number(text: &str) -> u64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text:?} is not a number"))
}

fn row_of(seed: u64) -> Range<u64> {
    seed - seed % ROW..seed + 1
}

/// Runs seeds in a process of their own.
fn process(seeds: &Range<u64>) -> Output {
    let own = std::env::current_exe().expect("the path of this test");
    Command::new(own)
        .args(["promises_hold_on_a_bad_network", "--exact", "--nocapture"])
        .env(RANGE, format!("{}-{}", seeds.start, seeds.end))
        .output()
        .expect("a process")
}

/// Rows side by side, until one breaks a promise.
fn all(seeds: u64) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let start = next.fetch_add(ROW, Ordering::Relaxed);
                    if start >= seeds {
                        return;
                    }
                    let ran = process(&(start..seeds.min(start + ROW)));
                    if !ran.status.success() {
                        next.store(seeds, Ordering::Relaxed);
                        panic!("{}", String::from_utf8_lossy(&ran.stderr));
                    }
                }
            });
        }
    });
}

#[test]
fn promises_hold_on_a_bad_network() {
    let told = |name| std::env::var(name).ok();
    match (told(RANGE), told("SIM_SEED"), told("SIM_SEEDS")) {
        (Some(range), ..) => {
            let (start, end) = range.split_once('-').expect("start-end");
            run(number(start)..number(end));
        }
        (None, Some(seed), _) => run(row_of(number(&seed))),
        (None, None, seeds) => all(seeds.map_or(SEEDS, |seeds| number(&seeds))),
    }
}

#[test]
fn a_seed_is_the_same_simulation_every_time() {
    let story = || {
        let ran = process(&row_of(3));
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        let lines = text.lines().map(str::to_owned);
        lines
            .filter(|line| line.contains("StoredEvent"))
            .collect::<Vec<_>>()
    };
    let once = story();
    assert!(once.len() > 20, "{once:?}");
    assert_eq!(once, story());
}
