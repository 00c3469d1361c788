//! A cluster that is upgraded, or rolled back, under a running job, one process after the other: what that costs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::cluster::{Cluster, Setting};
use crate::ledger::Ledger;
use crate::specs::{self, Small};
use crate::weights::{self, Weights};

/// Two builds of the programs, as folders.
#[derive(Debug, Clone)]
pub struct Versions {
    /// The one that a cluster runs.
    pub from: PathBuf,
    /// The one that replaces it.
    pub to: PathBuf,
}

/// The job's `resources.ranks`: whether it may go on while a worker is exchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ranks {
    /// Two, always: it waits for the worker.
    Fixed,
    /// One or two: it goes on without the worker.
    Elastic,
}

/// A process of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The coordinator.
    Coordinator,
    /// A worker, by position.
    Worker(usize),
}

/// What the exchange of one process cost.
#[derive(Debug)]
pub struct Exchange {
    /// The job's ranks.
    pub ranks: Ranks,
    /// Which process.
    pub part: Part,
    /// From SIGTERM to its end, in seconds.
    pub leave_s: f64,
    /// From SIGTERM to the first step that all ranks took afterwards, in seconds.
    pub whole_s: f64,
    /// Steps that were taken meanwhile.
    pub meanwhile: u64,
    /// Steps that had to be taken again.
    pub again: u64,
}

const WORKERS: usize = 2;
/// Steps between two exchanges.
const APART: u64 = 150;
const PARTS: [Part; 3] = [Part::Coordinator, Part::Worker(0), Part::Worker(1)];
const STEPS: u64 = APART * (PARTS.len() as u64 + 2);
/// Final weights in double precision, whatever the world.
const TOLERANCE: f64 = 1e-8;
const PHASE: &str = "pretrain";

/// Takes a cluster from one version to the other, once for each kind of ranks, and tells the cost of each exchange as it
/// comes. Returns the largest relative difference of a final tensor to that of an undisturbed run.
///
/// # Errors
/// A promise that was not kept, by name; or the harness fails.
pub async fn measure(versions: &Versions, tell: impl Fn(&Exchange)) -> Result<f64> {
    let mut cluster = start(&versions.to).await?;
    let undisturbed = submit(&cluster, Ranks::Fixed)?;
    cluster.succeed(&undisturbed).await?;
    let wanted = weights::export(&cluster, &undisturbed, PHASE)?;
    cluster.passed()?;

    let mut worst = 0.0_f64;
    for ranks in [Ranks::Fixed, Ranks::Elastic] {
        cluster = start(&versions.from).await?;
        let gap = journey(&mut cluster, versions, ranks, &wanted, &tell).await?;
        worst = worst.max(gap);
        cluster.passed()?;
    }
    Ok(worst)
}

async fn start(programs: &Path) -> Result<Cluster> {
    let folder = tempfile::Builder::new()
        .prefix("diptych-upgrade-")
        .tempdir()?;
    specs::images(folder.path())?;
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let setting = Setting {
        // A gang grows again before the next exchange.
        coordinator: words(&["--grow-after", "1s"]),
        agents: words(&["--log", "info,diptych_worker=debug"]),
        programs: Some(programs.to_owned()),
        ..Setting::default()
    };
    Cluster::start_in(folder, &[1; WORKERS], setting).await
}

fn submit(cluster: &Cluster, ranks: Ranks) -> Result<String> {
    let small = Small {
        precision: "fp64",
        steps: STEPS,
        save_every: 100,
        ..Small::default()
    };
    let ranks = match ranks {
        Ranks::Fixed => "resources.ranks=2",
        Ranks::Elastic => "resources.ranks={min: 1, max: 2}",
    };
    cluster.submit_with(&small.pretraining(cluster.dir()), &[ranks])
}

async fn journey(
    cluster: &mut Cluster,
    versions: &Versions,
    ranks: Ranks,
    wanted: &Weights,
    tell: impl Fn(&Exchange),
) -> Result<f64> {
    let job = submit(cluster, ranks)?;
    let mut ledger = Ledger::new(cluster.dir(), WORKERS, &job);
    cluster.take_programs_from(&versions.to);
    for (number, part) in PARTS.into_iter().enumerate() {
        let due = APART * (number as u64 + 1);
        ledger.until(|so_far| so_far.step() >= due).await?;
        let cost = exchange(cluster, &mut ledger, ranks, part).await;
        tell(&cost.with_context(|| format!("{ranks:?} ranks, {part:?}\n{}", cluster.story(&job)))?);
        ensure!(ledger.step() < STEPS, "the job ended before the exchange");
        for programs in [&versions.from, &versions.to] {
            check_commands(cluster, programs, &job)?;
        }
    }
    cluster.succeed(&job).await?;
    check_story(cluster, versions, &job).await?;
    let (gap, tensor) = weights::difference(wanted, &weights::export(cluster, &job, PHASE)?)?;
    ensure!(
        gap <= TOLERANCE,
        "{ranks:?} ranks: {tensor} differs from that of the undisturbed run by {gap:.1e}"
    );
    Ok(gap)
}

async fn exchange(
    cluster: &mut Cluster,
    ledger: &mut Ledger,
    ranks: Ranks,
    part: Part,
) -> Result<Exchange> {
    let (before, again) = (ledger.step(), ledger.taken_again());
    let spared: BTreeSet<Pid> = cluster.trainers()?.into_iter().collect();
    let started = Instant::now();
    match part {
        Part::Coordinator => cluster.stop_coordinator().await?,
        Part::Worker(index) => cluster.stop_agent(index).await?,
    }
    let leave_s = started.elapsed().as_secs_f64();
    ledger.refresh()?;
    let attempt = ledger.attempt();
    match part {
        Part::Coordinator => cluster.revive_coordinator().await?,
        Part::Worker(index) => cluster.revive_agent(index)?,
    }
    let reached = ledger.step();
    ledger
        .until(|so_far| match part {
            Part::Coordinator => so_far.step() > reached + 3,
            Part::Worker(_) => so_far.attempt() > attempt && so_far.ranks() == WORKERS,
        })
        .await?;
    let whole_s = started.elapsed().as_secs_f64();
    if part == Part::Coordinator {
        let now: BTreeSet<Pid> = cluster.trainers()?.into_iter().collect();
        ensure!(
            spared == now,
            "trainers were restarted: {spared:?} before, {now:?} after"
        );
    }
    let cost = Exchange {
        ranks,
        part,
        leave_s,
        whole_s,
        meanwhile: ledger.step() - before,
        again: ledger.taken_again() - again,
    };
    ensure!(cost.again == 0, "{} steps were taken again", cost.again);
    Ok(cost)
}

/// Command lines of both versions read the job from whatever coordinator there is.
fn check_commands(cluster: &Cluster, programs: &Path, job: &str) -> Result<()> {
    for words in [
        &["list"][..],
        &["describe", job],
        &["explain", job],
        &["worker", "list"],
    ] {
        let output = cluster.diptych_from(Some(programs), words)?;
        ensure!(
            output.status.success(),
            "diptych of {} {words:?}: {}",
            programs.display(),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

/// Nothing failed on the way, and every worker is of the new version.
async fn check_story(cluster: &Cluster, versions: &Versions, job: &str) -> Result<()> {
    let events = cluster.events(job).await?;
    let failed = events.iter().filter(|event| event.kind == "attempt_failed");
    ensure!(
        failed.count() == 0,
        "a failure was counted\n{}",
        cluster.story(job)
    );
    let new = version(&versions.to)?;
    let workers = cluster.json(&["worker", "list"])?;
    let listed = workers.to_string();
    let times = listed.matches(&format!("\"{new}\"")).count();
    ensure!(
        times == WORKERS,
        "{times} workers are of version {new}: {listed}"
    );
    Ok(())
}

/// What the programs in a folder call their version.
///
/// # Errors
/// When there are none.
pub fn version(programs: &Path) -> Result<String> {
    let program = programs.join("diptych");
    let output = Command::new(&program).arg("--version").output();
    let output = output.with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.split_whitespace().nth(1).map(str::to_owned);
    version.with_context(|| format!("{} says no version: {text}", program.display()))
}
