//! Submit → four phases → an exported student that predicts.

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::Cluster;
use diptych_tests::process::binary;
use diptych_tests::specs::{self, Small};

#[tokio::test]
async fn four_phases_end_in_a_student_that_predicts() -> Result<()> {
    let cluster = Cluster::start(&[1, 1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&Small::default().pipeline(cluster.dir()))?;
    let done = cluster.succeed(&job).await?;

    // Of four classes in equal numbers, guessing finds a quarter.
    for (phase, wanted, above) in [
        ("pretrain", "knn_top1", 0.6),
        ("pretrain", "probe_top1", 0.3),
        ("linear", "eval_top1", 0.4),
        ("tuned", "eval_top1", 0.6),
        ("student", "eval_top1", 0.5),
    ] {
        let status = done
            .phases
            .iter()
            .find(|status| status.name == phase)
            .context("phase is there")?;
        let result = status.results.iter().find(|point| point.name == wanted);
        let value = result
            .with_context(|| format!("{phase} reports {wanted}"))?
            .value;
        ensure!(
            value > above && value <= 1.0,
            "{phase} {wanted} = {value}, not above {above}"
        );
    }

    let listed = cluster.json(&["checkpoint", "list", &job])?;
    let rows = listed.as_array().context("a list of checkpoints")?;
    let finals = rows
        .iter()
        .filter(|row| row["final"] == true && row["state"] == "verified")
        .count();
    ensure!(
        finals == 4,
        "every phase has a verified final checkpoint: {listed:#}"
    );

    let file = cluster.dir().join("spec.yaml");
    let plan = cluster.json(&["plan", "-f", &file.display().to_string()])?;
    ensure!(
        plan["notes"] == serde_json::json!([]),
        "the data was read: {plan:#}"
    );
    for (planned, phase) in plan["phases"]
        .as_array()
        .context("phases")?
        .iter()
        .zip(&done.phases)
    {
        ensure!(planned["name"] == phase.name, "{planned:#}");
        ensure!(
            planned["steps"] == phase.total_steps,
            "{}: {} steps are planned, {} ran",
            phase.name,
            planned["steps"],
            phase.total_steps
        );
        let is_last = |row: &&serde_json::Value| row["phase"] == phase.name && row["final"] == true;
        let row = rows.iter().find(is_last).context("a final checkpoint")?;
        let (bytes, tensors) = (row["bytes"].as_u64(), planned["checkpoint_bytes"].as_u64());
        let beside = bytes
            .zip(tensors)
            .and_then(|(bytes, tensors)| bytes.checked_sub(tensors));
        // Headers and the manifest: some hundred bytes a tensor.
        ensure!(
            beside.is_some_and(|beside| beside < 200_000),
            "{}: {tensors:?} bytes are planned for {bytes:?}",
            phase.name
        );
    }

    let student = cluster
        .dir()
        .join("student.safetensors")
        .display()
        .to_string();
    cluster.json(&[
        "checkpoint",
        "export",
        &job,
        "--phase",
        "student",
        "--out",
        &student,
    ])?;
    let picture = cluster
        .dir()
        .join("images/test/shape-1/000.png")
        .display()
        .to_string();
    let output = std::process::Command::new(binary("diptych-worker")?)
        .args(["predict", "--model", &student, &picture, "-o", "json"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && text.contains("shape-"),
        "predict names a class: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );

    let metrics = cluster.diptych(&["metrics", &job, "-o", "csv"])?;
    let csv = String::from_utf8_lossy(&metrics.stdout);
    for (phase, steps, falls_below) in [
        ("pretrain", 12, f64::INFINITY),
        ("linear", 33, 1.25),
        ("tuned", 41, 0.9),
        ("student", 49, 1.1),
    ] {
        // phase,step,name,value
        let points = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let losses = points
            .filter(|point| point[0] == phase && point[2] == "loss")
            .map(|point| point[3].parse::<f64>().context("read a loss"))
            .collect::<Result<Vec<_>>>()?;
        let last = losses.last().context("a loss")?;
        ensure!(
            losses.len() == steps && *last < falls_below,
            "{phase} learns in {steps} steps, by its loss: {losses:?}"
        );
    }
    cluster.passed()
}
