//! Wrong input is refused whole, in words, with every problem listed; a retried submit is one job.

use anyhow::{Context, Result, ensure};
use diptych_proto::v1;
use diptych_tests::cluster::Cluster;
use diptych_tests::specs::{self, Small};

#[tokio::test]
async fn the_same_request_id_twice_is_one_job() -> Result<()> {
    let cluster = Cluster::start(&[]).await?;
    let path = cluster.dir().join("spec.yaml");
    std::fs::write(&path, Small::default().pretraining(cluster.dir()))?;
    let file = path.display().to_string();
    let submit = |extra: &[&str]| {
        cluster.json(&[&["submit", "-f", &file, "--request-id", "retry-1"], extra].concat())
    };
    let first = submit(&[])?;
    let second = submit(&[])?;
    ensure!(
        first["job"] == second["job"] && second["created"] == false,
        "{first} then {second}"
    );

    let other = cluster.diptych(&[
        "submit",
        "-f",
        &file,
        "--request-id",
        "retry-1",
        "--set",
        "seed=8",
    ])?;
    ensure!(
        other.status.code() == Some(7),
        "another spec under the same id is a conflict: {other:?}"
    );
    ensure!(
        cluster.json(&["list"])?.as_array().map(Vec::len) == Some(1),
        "one job"
    );
    cluster.passed()
}

#[tokio::test]
async fn a_malformed_spec_lists_every_error() -> Result<()> {
    let cluster = Cluster::start(&[]).await?;
    let path = cluster.dir().join("spec.yaml");
    let broken = Small {
        groups: (5, 2),
        ..Small::default()
    }
    .pipeline(cluster.dir())
    .replace("from: pretrain", "from: nothing")
    .replace(
        "kind: lars, learning_rate: 0.3",
        "kind: larch, learning_rate: -1.0",
    );
    std::fs::write(&path, broken)?;
    let output = cluster.diptych(&["-o", "json", "submit", "-f", &path.display().to_string()])?;
    ensure!(output.status.code() == Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    for field in [
        "phases[0].groups",
        "phases[0].micro_batch_groups",
        "phases[0].optimizer.kind",
        "phases[0].optimizer.learning_rate",
        "phases[1].from",
        "phases[2].from",
    ] {
        ensure!(text.contains(field), "{field} is missing from:\n{text}");
    }
    ensure!(
        cluster.json(&["list"])?.as_array().map(Vec::len) == Some(0),
        "nothing was queued"
    );
    cluster.passed()
}

#[tokio::test]
async fn unusable_data_fails_the_job_before_any_training() -> Result<()> {
    let cluster = Cluster::start(&[1, 1]).await?;
    specs::images(cluster.dir())?;
    std::fs::create_dir_all(cluster.dir().join("images/empty"))?;
    for (from, to, says) in [
        ("images/train'", "images/missing'", "missing"),
        ("images/test'", "images/empty'", "empty"),
        (
            "batch: 24\n  steps",
            "batch: 960\n  lanes: 12\n  steps",
            "96",
        ),
    ] {
        let mut spec = Small::default()
            .pretraining(cluster.dir())
            .replacen(from, to, 1);
        if to.contains("lanes") {
            spec = spec.replacen("  lanes: 12\n  groups", "  groups", 1);
        }
        let job = cluster.submit(&spec)?;
        let ended = cluster
            .wait(&job, |now| now.state() == v1::JobState::Failed)
            .await?;
        ensure!(
            ended.phases[0].step == 0 && ended.phases[0].attempt == 1,
            "refused at once: {ended:?}"
        );
        let why = cluster.diptych(&["explain", &job])?;
        let text = String::from_utf8_lossy(&why.stdout);
        ensure!(
            text.contains(says),
            "explain names the cause ({says}): {text}"
        );
    }
    cluster.passed()
}

#[tokio::test]
async fn a_job_that_does_not_fit_says_what_it_waits_for() -> Result<()> {
    let cluster = Cluster::start(&[1]).await?;
    let job = cluster.submit(
        &Small {
            ranks: 4,
            ..Small::default()
        }
        .pretraining(cluster.dir()),
    )?;
    let explained = cluster.json(&["explain", &job])?;
    let codes = explained["reasons"].as_array().context("reasons")?;
    ensure!(
        codes
            .iter()
            .any(|reason| reason["code"] == "not_enough_devices"),
        "{explained:#}"
    );
    cluster.json(&["cancel", &job])?;
    cluster
        .wait(&job, |now| now.state() == v1::JobState::Cancelled)
        .await?;
    cluster.passed()
}
