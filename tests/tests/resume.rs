//! `kill -9` of a trainer, of an agent and of the coordinator: the job ends with the weights of an undisturbed run.

use anyhow::{Result, ensure};
use diptych_proto::v1;
use diptych_tests::cluster::{Cluster, stepped};
use diptych_tests::process::kill_now;
use diptych_tests::specs::{self, Small};
use diptych_tests::weights::{self, Weights};

/// Long enough that what is killed in its first quarter still runs.
const LONG: Small = Small {
    ranks: 2,
    precision: "fp64",
    steps: 150,
    groups: (1, 1),
    save_every: 10,
};

async fn undisturbed(cluster: &Cluster) -> Result<Weights> {
    let job = cluster.submit(&LONG.pretraining(cluster.dir()))?;
    cluster.succeed(&job).await?;
    weights::export(cluster, &job, "pretrain")
}

fn same(left: &Weights, right: &Weights) -> Result<()> {
    let (gap, tensor) = weights::difference(left, right)?;
    ensure!(
        gap == 0.0,
        "{tensor} differs by {gap:e}; the same world repeats bitwise"
    );
    Ok(())
}

/// A job that trains, `seen` steps in.
async fn training(cluster: &Cluster, seen: u64) -> Result<String> {
    let job = cluster.submit(&LONG.pretraining(cluster.dir()))?;
    let now = cluster
        .wait(&job, |now| stepped(now, "pretrain", seen))
        .await?;
    ensure!(
        now.state() == v1::JobState::Running && now.phases[0].step < LONG.steps,
        "it still trains: {now:?}"
    );
    Ok(job)
}

#[tokio::test]
async fn a_killed_trainer_is_restarted_from_the_newest_checkpoint() -> Result<()> {
    let cluster = Cluster::start(&[1, 1]).await?;
    specs::images(cluster.dir())?;
    let reference = undisturbed(&cluster).await?;
    let job = training(&cluster, 25).await?;
    kill_now(cluster.trainer(1)?)?;
    let done = cluster.succeed(&job).await?;
    ensure!(done.phases[0].attempt >= 2, "a death starts a new attempt");
    same(&reference, &weights::export(&cluster, &job, "pretrain")?)?;
    cluster.passed()
}

#[tokio::test]
async fn a_killed_agent_takes_its_trainer_along_and_comes_back() -> Result<()> {
    let mut cluster = Cluster::start(&[1, 1]).await?;
    specs::images(cluster.dir())?;
    let reference = undisturbed(&cluster).await?;
    let job = training(&cluster, 25).await?;
    let trainer = cluster.trainer(0)?;
    cluster.restart_agent(0, 1)?;
    let done = cluster.succeed(&job).await?;
    ensure!(
        !std::fs::exists(format!("/proc/{trainer}"))?,
        "a trainer dies with its agent"
    );
    ensure!(
        done.phases[0].attempt >= 2,
        "the agent died in the middle of an attempt: {:?}",
        done.phases[0]
    );
    same(&reference, &weights::export(&cluster, &job, "pretrain")?)?;
    cluster.passed()
}

#[tokio::test]
async fn a_killed_coordinator_costs_nothing() -> Result<()> {
    let mut cluster = Cluster::start(&[1, 1]).await?;
    specs::images(cluster.dir())?;
    let reference = undisturbed(&cluster).await?;
    let job = training(&cluster, 15).await?;
    let before = cluster.trainers()?;
    ensure!(before.len() == 2, "two trainers: {before:?}");
    cluster.kill_coordinator()?;
    // Nobody can commit the last save now, so the phase cannot end before the coordinator is back.
    let alone = cluster.trainers()?;
    cluster.revive_coordinator().await?;
    let after = cluster.trainers()?;
    ensure!(
        before == alone && before == after,
        "the trainers went on: {before:?}, {alone:?}, {after:?}"
    );
    let done = cluster.succeed(&job).await?;
    ensure!(
        done.phases[0].attempt == 1,
        "the attempt went on: {:?}",
        done.phases[0]
    );
    same(&reference, &weights::export(&cluster, &job, "pretrain")?)?;
    cluster.passed()
}
