//! What every backend promises, run for each of them at several worlds: every rank is a thread, and a watchdog turns a
//! hang into a failure.

mod agreement; // disagreements are told to every rank
mod failure; // aborts, deaths and departures free everyone
mod values; // what comes out
mod settled; // a backend that queues, seen by who waits for every call
mod cuda; // the same on a GPU

use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use diptych_common::ids::{Attempt, Rank};

use super::nccl::pretend::Pretend;
use super::{Collective, CollectiveError, Gang, solo, tcp};

/// Longest that any test body may take on any rank: far more than it needs on a busy machine.
const WATCHDOG: Duration = Duration::from_secs(60);

/// Makes the gangs of all ranks of a world; `None` if the backend has no such world.
type Backend = fn(world: usize) -> Option<Vec<Gang>>;

const BACKENDS: [(&str, Backend); 3] = [
    ("solo", solo_gangs),
    ("tcp", tcp_gangs),
    ("nccl (a fake library)", pretend_gangs),
];
/// Those that have more than one rank.
const DISTRIBUTED: [(&str, Backend); 2] = [BACKENDS[1], BACKENDS[2]];
const WORLDS: [usize; 4] = [1, 2, 3, 4];

fn solo_gangs(world: usize) -> Option<Vec<Gang>> {
    (world == 1).then(|| vec![solo::gang()])
}

fn tcp_gangs(world: usize) -> Option<Vec<Gang>> {
    Some(connected(world, |listener, identity, peers, deadline| {
        listener.connect(identity, peers, deadline)
    }))
}

/// Gangs over NCCL's backend and a fake library, for operands in the host's memory.
pub(crate) fn pretend_gangs(world: usize) -> Option<Vec<Gang>> {
    static LIBRARY: OnceLock<Pretend> = OnceLock::new();
    let pretend = LIBRARY.get_or_init(Pretend::new).clone();
    let id = pretend.id();
    let gangs = connected(world, move |listener, identity, peers, deadline| {
        pretend.connect(listener, (identity, peers), &id, deadline)
    });
    Some(gangs.into_iter().map(settled::gang).collect())
}

/// Connects ranks over loopback, each on a thread of its own.
fn connected(
    world: usize,
    connect: impl Fn(tcp::Listener, tcp::Identity, &[String], Instant) -> Result<Gang, CollectiveError>
    + Send
    + Sync
    + 'static,
) -> Vec<Gang> {
    let listeners: Vec<tcp::Listener> = (0..world)
        .map(|_| tcp::Listener::bind("127.0.0.1:0").expect("bind a loopback port"))
        .collect();
    let peers: Vec<String> = listeners.iter().map(tcp::Listener::endpoint).collect();
    let deadline = Instant::now() + WATCHDOG;
    let connect = Arc::new(connect);
    let joins: Vec<_> = listeners
        .into_iter()
        .zip(0..)
        .map(|(listener, rank)| {
            let (peers, connect) = (peers.clone(), Arc::clone(&connect));
            thread::spawn(move || connect(listener, identity(rank, world), &peers, deadline))
        })
        .collect();
    let connected = joins
        .into_iter()
        .map(|join| join.join().expect("no panic").expect("connect"));
    connected.collect()
}

fn identity(rank: u32, world: usize) -> tcp::Identity {
    tcp::Identity {
        job: "conformance-000000".parse().expect("a job id"),
        attempt: Attempt::new(3),
        rank: Rank::new(rank),
        world: world as u32,
        secret: tcp::Secret::from([7; 32]),
    }
}

/// Runs `body` on every rank of every world of every backend.
fn everywhere(body: impl Fn(&Gang) + Send + Sync + 'static) {
    let body: Arc<dyn Fn(&Gang) + Send + Sync> = Arc::new(body);
    for (name, backend) in BACKENDS {
        for world in WORLDS {
            if let Some(gangs) = backend(world) {
                let body = Arc::clone(&body);
                on_ranks(&format!("{name}, world {world}"), gangs, move |gang| {
                    body(&gang)
                });
            }
        }
    }
}

/// Runs `body` on every rank at once and returns the results in rank order.
fn on_ranks<T: Send + 'static>(
    what: &str,
    gangs: Vec<Gang>,
    body: impl Fn(Gang) -> T + Send + Sync + 'static,
) -> Vec<T> {
    let body = Arc::new(body);
    let (sender, results) = mpsc::channel();
    for (rank, gang) in gangs.into_iter().enumerate() {
        let (body, sender) = (Arc::clone(&body), sender.clone());
        thread::spawn(move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(gang)));
            // The test has ended if nobody listens.
            let _ = sender.send((rank, result));
        });
    }
    drop(sender);
    let deadline = Instant::now() + WATCHDOG;
    let mut all: Vec<(usize, T)> = Vec::new();
    while let Ok((rank, result)) =
        results.recv_timeout(deadline.saturating_duration_since(Instant::now()))
    {
        match result {
            Ok(result) => all.push((rank, result)),
            Err(_) => panic!("{what}: rank {rank} panicked"),
        }
    }
    assert!(
        Instant::now() < deadline,
        "{what}: a rank hangs; {} came back",
        all.len()
    );
    all.sort_by_key(|(rank, _)| *rank);
    all.into_iter().map(|(_, result)| result).collect()
}

fn rank_of(collective: &dyn Collective) -> i64 {
    i64::from(collective.rank().get())
}
