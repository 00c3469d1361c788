//! Training while the object store is slow, and while it is dead: steps per second, memory and saves, window by window.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use diptych_common::clock;
use diptych_proto::v1;

use crate::chaos::account::spread;
use crate::cluster::{Cluster, Setting};
use crate::ledger::Ledger;
use crate::process::resident;
use crate::proxy::{Proxy, Wire};
use crate::s3::{self, S3};
use crate::specs::{self, Small};

/// How long each window is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Before, between and after.
    pub calm: Duration,
    /// At 1 MB/s.
    pub slow: Duration,
    /// With connections reset.
    pub dead: Duration,
    /// With connections that carry nothing.
    pub silent: Duration,
}

/// One window.
#[derive(Debug, Clone)]
pub struct Window {
    /// How the store was.
    pub name: &'static str,
    /// Seconds.
    pub seconds: f64,
    /// Steps that rank 0 committed.
    pub steps: usize,
    /// Seconds between its steps.
    pub gaps: Vec<f64>,
    /// Largest resident memory of a trainer at its start and its end, in MiB.
    pub memory: (f64, f64),
    /// Events of kinds `checkpoint_committed`, `save_skipped` and `save_failed`.
    pub saves: (usize, usize, usize),
}

/// All windows, and how long the first checkpoint took once the store was back for good.
#[derive(Debug)]
pub struct Report {
    /// In order.
    pub windows: Vec<Window>,
    /// Seconds.
    pub committed_after: f64,
}

const PHASE: &str = "pretrain";
/// Steps from one save to the next.
const SAVE_EVERY: usize = 25;
const RATE: u64 = 1_000_000;
const TICK: Duration = Duration::from_millis(100);
/// A save that began while the store was dead gives up after its retries; then the next must come through.
const BACK: Duration = Duration::from_secs(300);

/// Trains on two workers through all windows.
///
/// # Errors
/// When training stops, a trainer dies, or no checkpoint is committed in the end.
pub async fn measure(options: Options) -> Result<Report> {
    let folder = tempfile::Builder::new().prefix("diptych-slow-").tempdir()?;
    let bucket = S3::start("127.0.0.1", &folder.path().join("s3")).await?;
    let store = Proxy::start("127.0.0.1", &bucket.address().to_string()).await?;
    let setting = Setting {
        agents: [
            "--log",
            "info,diptych_worker=debug",
            "--threads-per-device",
            "1",
        ]
        .map(str::to_owned)
        .to_vec(),
        environment: s3::environment(store.address()),
        ..Setting::default()
    };
    specs::images(folder.path())?;
    let cluster = Cluster::start_in(folder, &[1, 1], setting).await?;
    let small = Small {
        steps: 1_000_000,
        precision: "fp64",
        save_every: SAVE_EVERY as u64,
        ..Small::default()
    };
    let storage = format!("storage=s3://{}/jobs", s3::BUCKET);
    let spec = small.pretraining(cluster.dir());
    let job = cluster.submit_with(&spec, &[&storage, "phases[0].probe=false"])?;
    cluster
        .wait(&job, |now| crate::cluster::stepped(now, PHASE, 50))
        .await?;

    let mut windows = Vec::new();
    let silence = Wire::Frozen {
        up: true,
        down: true,
    };
    // However slow the machine is: a save comes due in silence while another one is being written.
    let two_saves = 2 * SAVE_EVERY + 1;
    for (name, wire, length, least) in [
        ("calm", Wire::Open, options.calm, 0),
        ("1 MB/s", Wire::Slow(RATE), options.slow, 0),
        ("calm", Wire::Open, options.calm, 0),
        ("dead", Wire::Cut, options.dead, 0),
        ("silent", silence, options.silent, two_saves),
        ("calm", Wire::Open, options.calm, 0),
    ] {
        store.set(wire);
        windows.push(window(&cluster, &job, name, (length, least)).await?);
    }
    let last = windows.last().context("there are windows")?.seconds;
    let opened = now() - last;
    let committed_after = committed_since(&cluster, &job, opened).await?;
    cluster.json(&["cancel", &job])?;
    cluster.passed()?;
    Ok(Report {
        windows,
        committed_after,
    })
}

/// A window of this length, and longer where rank 0 has not committed so many steps in it.
async fn window(
    cluster: &Cluster,
    job: &str,
    name: &'static str,
    (length, least): (Duration, usize),
) -> Result<Window> {
    let (from, before) = (now(), memory(cluster)?);
    let since = |until: f64| -> Result<Vec<f64>> {
        let ledger = Ledger::read(cluster.dir(), 2, job)?;
        let commits = ledger
            .commits()
            .filter(|entry| entry.rank == 0 && entry.at >= from && entry.at < until);
        Ok(commits.map(|entry| entry.at).collect())
    };
    let (mut to, mut wait) = (from, length);
    let times = loop {
        while now() - to < wait.as_secs_f64() {
            tokio::time::sleep(TICK).await;
        }
        (to, wait) = (now(), Duration::from_secs(1));
        let times = since(to)?;
        if times.len() >= least {
            break times;
        }
        ensure!(
            to - from < BACK.as_secs_f64(),
            "{name}: {} steps",
            times.len()
        );
    };
    let after = memory(cluster)?;
    let inside = |at: f64| at >= from && at < to;
    let events = cluster.events(job).await?;
    let count = |kind: &str| {
        let here = |event: &&v1::Event| event.kind == kind && inside(at(event));
        events.iter().filter(here).count()
    };
    ensure!(
        count("attempt_failed") == 0,
        "{name}: the attempt ended\n{}",
        cluster.story(job)
    );
    Ok(Window {
        name,
        seconds: to - from,
        steps: times.len(),
        gaps: times.windows(2).map(|two| two[1] - two[0]).collect(),
        memory: (before, after),
        saves: (
            count("checkpoint_committed"),
            count("save_skipped"),
            count("save_failed"),
        ),
    })
}

async fn committed_since(cluster: &Cluster, job: &str, since: f64) -> Result<f64> {
    let seek = async {
        loop {
            let events = cluster.events(job).await?;
            let committed =
                |event: &&v1::Event| event.kind == "checkpoint_committed" && at(event) >= since;
            if let Some(event) = events.iter().find(committed) {
                return Ok(at(event) - since);
            }
            tokio::time::sleep(TICK).await;
        }
    };
    tokio::time::timeout(BACK, seek)
        .await
        .unwrap_or_else(|_| Err(anyhow::anyhow!("no checkpoint\n{}", cluster.story(job))))
}

fn now() -> f64 {
    clock::unix_millis(clock::now()) as f64 / 1000.0
}

fn at(event: &v1::Event) -> f64 {
    event
        .at
        .map_or(0.0, |at| at.seconds as f64 + f64::from(at.nanos) / 1e9)
}

/// The largest trainer's, in MiB.
fn memory(cluster: &Cluster) -> Result<f64> {
    let trainers = cluster.trainers()?;
    ensure!(trainers.len() == 2, "a trainer died: {trainers:?} are left");
    let sizes = trainers.into_iter().filter_map(resident);
    Ok(sizes.max().unwrap_or(0) as f64 / f64::from(1 << 20))
}

impl Window {
    /// Steps per second.
    pub fn rate(&self) -> f64 {
        self.steps as f64 / self.seconds
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let calm: Vec<&Window> = self.windows.iter().filter(|w| w.name == "calm").collect();
        let steps: usize = calm.iter().map(|window| window.steps).sum();
        let seconds: f64 = calm.iter().map(|window| window.seconds).sum();
        writeln!(
            f,
            "| store | seconds | steps/s | of calm | step p50 / p95 / max (s) | memory MiB, from - to | committed | skipped | failed |\n\
             |---|---|---|---|---|---|---|---|---|"
        )?;
        for window in &self.windows {
            let (committed, skipped, failed) = window.saves;
            writeln!(
                f,
                "| {} | {:.0} | {:.2} | {:.3} | {} | {:.0} - {:.0} | {committed} | {skipped} | {failed} |",
                window.name,
                window.seconds,
                window.rate(),
                window.rate() / (steps as f64 / seconds),
                spread(window.gaps.clone()),
                window.memory.0,
                window.memory.1,
            )?;
        }
        write!(
            f,
            "first checkpoint {:.1} s after the store was back",
            self.committed_after
        )
    }
}
