//! What other people's programs read of ours: the real torchvision loads an export strictly and computes the same; the
//! real TensorBoard reads a job's curves.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::Cluster;
use diptych_tests::process::binary;
use diptych_tests::specs;

/// A few steps of a real ResNet-18 on 32-pixel images.
fn spec(dir: &Path) -> String {
    format!(
        "apiVersion: diptych/v1
name: parity
storage: file://{dir}/store
data:
  train: {{ url: 'file://{dir}/images/train' }}
  test: {{ url: 'file://{dir}/images/test' }}
encoder: {{ depth: 18 }}
phases:
- name: pretrain
  kind: pretrain
  batch: 16
  steps: 3
  optimizer: {{ kind: lars, learning_rate: 0.3 }}
  augment: {{ image_size: 32 }}
- name: tuned
  kind: finetune
  from: pretrain
  batch: 16
  steps: 4
  optimizer: {{ kind: sgd, learning_rate: 0.2 }}
  augment: {{ image_size: 32 }}
",
        dir = dir.display()
    )
}

#[tokio::test]
#[ignore = "needs torch and torchvision: make parity"]
async fn torchvision_loads_an_export_and_computes_the_same() -> Result<()> {
    let python = std::env::var("PARITY_PYTHON")
        .context("PARITY_PYTHON names an interpreter with torchvision: run `make parity`")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/load_in_torchvision.py");
    let cluster = Cluster::start(&[1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&spec(cluster.dir()))?;
    cluster.succeed(&job).await?;
    for phase in ["pretrain", "tuned"] {
        let export = cluster.dir().join(format!("{phase}.safetensors"));
        let out = export.display().to_string();
        cluster.json(&[
            "checkpoint",
            "export",
            &job,
            "--phase",
            phase,
            "--out",
            &out,
        ])?;
        let output = Command::new(&python)
            .arg(&script)
            .arg(&export)
            .arg("--worker")
            .arg(binary("diptych-worker")?)
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{phase}: {told}");
        println!("{phase}: {told}");
    }
    cluster.passed()
}

#[tokio::test]
#[ignore = "needs the tensorboard Python package: make parity"]
async fn tensorboard_reads_what_a_job_measured() -> Result<()> {
    let python = std::env::var("PARITY_PYTHON")
        .context("PARITY_PYTHON names an interpreter with tensorboard: run `make parity`")?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("parity/read_in_tensorboard.py");
    let cluster = Cluster::start(&[1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&spec(cluster.dir()))?;
    cluster.succeed(&job).await?;
    for phase in ["pretrain", "tuned"] {
        let measured = cluster.dir().join(format!("{phase}.json"));
        let points = cluster.json(&["metrics", &job, "--phase", phase])?;
        std::fs::write(&measured, points.to_string())?;
        let number = if phase == "pretrain" { 0 } else { 1 };
        let run = cluster
            .dir()
            .join(format!("store/{job}/{number:02}-{phase}/tensorboard"));
        let output = Command::new(&python)
            .arg(&script)
            .arg(&run)
            .arg("--measured")
            .arg(&measured)
            .output()?;
        let told = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{phase}: {told}");
        println!("{phase}: {told}");
    }
    cluster.passed()
}
