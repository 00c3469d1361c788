//! The coordinator killed at chosen moments and away for chosen times: what that costs. Nothing, is the promise.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use crate::cluster::{Cluster, Setting, stepped};
use crate::ledger::Ledger;
use crate::process::kill_now;
use crate::specs::{self, Small};

/// When it is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A job trains, and nothing is asked of the coordinator.
    Idle,
    /// Clients are submitting.
    MidSubmit,
    /// A part of a checkpoint is in the store, and its manifest is not.
    MidCommit,
    /// A trainer was killed just before.
    MidRecovery,
}

/// What one outage cost.
#[derive(Debug)]
pub struct Cost {
    /// When it was killed.
    pub moment: Moment,
    /// How long it was away.
    pub away: Duration,
    /// Steps that were taken meanwhile.
    pub alone: u64,
    /// Steps that had to be taken again.
    pub lost: u64,
    /// From its start until it answers.
    pub ready: Duration,
    /// Submits that were acknowledged, before the kill and at once after the return.
    pub submitted: usize,
}

impl Moment {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Idle,
        Self::MidSubmit,
        Self::MidCommit,
        Self::MidRecovery,
    ];
}

/// Enough steps that the job outlives every outage.
const STEPS: u64 = 1_000_000;
const WORKERS: usize = 2;
/// Submits around each outage.
const SUBMITS: usize = 8;
const TICK: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs all outages against one cluster, and tells the cost of each as it comes.
///
/// # Errors
/// A promise that was not kept, by name; or the harness fails.
pub async fn measure(away: &[Duration], tell: impl Fn(&Cost)) -> Result<()> {
    let folder = tempfile::Builder::new()
        .prefix("diptych-outage-")
        .tempdir()?;
    specs::images(folder.path())?;
    let words = |list: &[&str]| list.iter().map(|word| (*word).to_owned()).collect();
    let setting = Setting {
        coordinator: words(&["--suspect-after", "0"]),
        agents: words(&["--log", "info,diptych_worker=debug"]),
        ..Setting::default()
    };
    let mut cluster = Cluster::start_in(folder, &[1; WORKERS], setting).await?;
    let small = Small {
        steps: STEPS,
        save_every: 20,
        ..Small::default()
    };
    let spec = small.pretraining(cluster.dir());
    let job = cluster.submit_with(&spec, &["resources.ranks={min: 1, max: 2}"])?;
    cluster
        .wait(&job, |now| stepped(now, "pretrain", 3))
        .await?;
    let mut ledger = Ledger::new(cluster.dir(), WORKERS, &job);
    for moment in Moment::ALL {
        for &away in away {
            let cost = outage(&mut cluster, &mut ledger, (&job, &spec), moment, away).await;
            tell(&cost.with_context(|| format!("{moment:?}, away {away:?}"))?);
        }
    }
    cluster.passed()
}

async fn outage(
    cluster: &mut Cluster,
    ledger: &mut Ledger,
    (job, spec): (&str, &str),
    moment: Moment,
    away: Duration,
) -> Result<Cost> {
    // Both ranks are back from what was done to them before.
    ledger.until(|so_far| so_far.ranks() == WORKERS).await?;
    let mut acknowledged = Vec::new();
    let mut spared = trainers(cluster)?;
    match moment {
        Moment::Idle => {}
        Moment::MidSubmit => {
            for _ in 0..SUBMITS {
                acknowledged.push(submit(cluster, spec)?);
            }
        }
        Moment::MidCommit => torn_save(cluster, job).await?,
        Moment::MidRecovery => {
            let victim = *spared.iter().next_back().context("a trainer runs")?;
            spared.remove(&victim);
            kill_now(victim)?;
        }
    }
    ledger.refresh()?;
    let (before, lost) = (ledger.step(), ledger.taken_again());
    cluster.kill_coordinator()?;
    tokio::time::sleep(away).await;
    ledger.refresh()?;
    let alone = ledger.step().saturating_sub(before);
    let started = Instant::now();
    cluster.revive_coordinator().await?;
    cluster.state(job).await.context("it answers")?;
    let ready = started.elapsed();
    if moment == Moment::MidSubmit {
        acknowledged.push(submit(cluster, spec)?);
    }
    check_jobs(cluster, &acknowledged)?;
    let reached = ledger.step().max(before);
    ledger.until(|so_far| so_far.step() > reached + 3).await?;
    let after = trainers(cluster)?;
    ensure!(
        spared.is_subset(&after),
        "trainers were restarted: {spared:?} before, {after:?} after"
    );
    for id in &acknowledged {
        cluster.json(&["cancel", id])?;
    }
    let submitted = acknowledged.len();
    Ok(Cost {
        moment,
        away,
        alone,
        lost: ledger.taken_again() - lost,
        ready,
        submitted,
    })
}

fn trainers(cluster: &Cluster) -> Result<BTreeSet<Pid>> {
    Ok(cluster.trainers()?.into_iter().collect())
}

fn submit(cluster: &Cluster, spec: &str) -> Result<String> {
    // They wait: the gang that trains has all devices.
    cluster.submit_with(spec, &["resources.ranks=2"])
}

/// Every acknowledged job is there once.
fn check_jobs(cluster: &Cluster, acknowledged: &[String]) -> Result<()> {
    let text = cluster.json(&["list"])?.to_string();
    for id in acknowledged {
        let times = text.matches(&format!("\"{id}\"")).count();
        ensure!(
            times == 1,
            "job {id} was acknowledged and is listed {times} times"
        );
    }
    Ok(())
}

/// Until a save is between its first part and its manifest.
async fn torn_save(cluster: &Cluster, job: &str) -> Result<()> {
    let folder = cluster.dir().join("store").join(job).join("00-pretrain");
    let started = Instant::now();
    loop {
        let saves = std::fs::read_dir(&folder).into_iter().flatten();
        let torn = saves.filter_map(Result::ok).any(|save| {
            let path = save.path();
            path.join("shard-00000.safetensors").exists() && !path.join("manifest.json").exists()
        });
        if torn {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "no save was seen half done");
        tokio::time::sleep(TICK).await;
    }
}
