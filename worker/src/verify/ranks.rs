use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use diptych_common::ids::{Attempt, Rank};

use crate::collective::{CollectiveError, Gang, solo, tcp};

/// Longest that loopback connections may take on a busy machine.
const CONNECT: Duration = Duration::from_secs(60);

/// The gangs of all ranks of a world, connected over loopback TCP inside this process; a gang of one is solo.
pub(crate) fn rank_gangs(world: usize) -> anyhow::Result<Vec<Gang>> {
    if world == 1 {
        return Ok(vec![solo::gang()]);
    }
    let listeners = (0..world).map(|_| tcp::Listener::bind("127.0.0.1:0"));
    let listeners: Vec<tcp::Listener> = listeners.collect::<Result<_, CollectiveError>>()?;
    let peers: Vec<String> = listeners.iter().map(tcp::Listener::endpoint).collect();
    let secret = tcp::Secret::from(rand::random::<[u8; 32]>());
    let deadline = Instant::now() + CONNECT;
    let job = "verify-000000".parse().context("name the job")?;
    let identity = |rank: usize| tcp::Identity {
        job: Clone::clone(&job),
        attempt: Attempt::new(1),
        rank: Rank::new(rank as u32),
        world: world as u32,
        secret,
    };
    let work = listeners
        .into_iter()
        .enumerate()
        .map(|(rank, listener)| (identity(rank), listener));
    let gangs = on_ranks(work.collect(), |(identity, listener)| {
        listener.connect(identity, &peers, deadline)
    })?;
    Ok(gangs.into_iter().collect::<Result<_, CollectiveError>>()?)
}

/// Runs `body` for every rank on a thread of its own; results in rank order.
///
/// # Errors
/// A rank that panicked.
pub(crate) fn on_ranks<A: Send, T: Send>(
    ranks: Vec<A>,
    body: impl Fn(A) -> T + Sync,
) -> anyhow::Result<Vec<T>> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|rank| scope.spawn(move || body(rank)))
            .collect();
        let results = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| anyhow!("a rank panicked")));
        results.collect()
    })
}
