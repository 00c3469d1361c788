//! Parity with the ecosystem: torchvision, timm's names, the conversions of SimCLR, lightly and onnxruntime, each as it is
//! installed. `make parity` runs it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::Cluster;
use diptych_tests::process::binary;
use diptych_tests::specs;

/// A few steps of a real ResNet on 32-pixel images.
fn spec(dir: &Path, depth: u32) -> String {
    format!(
        "apiVersion: diptych/v1
name: parity
storage: file://{dir}/store
data:
  train: {{ url: 'file://{dir}/images/train' }}
  test: {{ url: 'file://{dir}/images/test' }}
encoder: {{ depth: {depth} }}
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

/// Runs a program to its end and prints what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {told}");
    println!("{told}");
    Ok(told)
}

/// A script of `tests/parity`, in the interpreter that has the peers.
fn python(script: &str) -> Result<Command> {
    let python = std::env::var("PARITY_PYTHON")
        .context("PARITY_PYTHON names an interpreter with torchvision: run `make parity`")?;
    let mut command = Command::new(python);
    command.arg("-B").arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("parity")
            .join(script),
    );
    Ok(command)
}

/// `diptych-worker verify`: every case of the folder passes, and none is skipped.
fn verify(folder: &Path, cases: usize) -> Result<()> {
    let told = run(Command::new(binary("diptych-worker")?)
        .arg("verify")
        .arg(folder))?;
    let closing = format!("{cases} passed, 0 failed\n");
    ensure!(told.ends_with(&closing), "expected {closing:?}");
    Ok(())
}

/// Exports a phase and returns where it is.
fn export(cluster: &Cluster, job: &str, phase: &str, format: &str) -> Result<std::path::PathBuf> {
    let path = cluster.dir().join(format!("{phase}.{format}"));
    let out = path.display().to_string();
    let which = ["checkpoint", "export", job, "--phase", phase];
    cluster.json(&[&which[..], &["--format", format, "--out", &out]].concat())?;
    Ok(path)
}

/// Trains, exports, and has torchvision and onnxruntime compute the same; torchvision's gradients become golden cases.
async fn exports_agree(depth: u32) -> Result<()> {
    let worker = binary("diptych-worker")?;
    let cluster = Cluster::start(&[1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&spec(cluster.dir(), depth))?;
    cluster.succeed(&job).await?;
    let golden = cluster.dir().join("golden");
    std::fs::create_dir(&golden)?;
    for phase in ["pretrain", "tuned"] {
        let tensors = export(&cluster, &job, phase, "safetensors")?;
        let mut torchvision = python("load_in_torchvision.py")?;
        torchvision.arg(&tensors).arg("--worker").arg(&worker);
        if phase == "tuned" {
            torchvision.arg("--golden").arg(&golden);
        }
        run(&mut torchvision)?;
        let graph = export(&cluster, &job, phase, "onnx")?;
        run(python("run_in_onnxruntime.py")?
            .arg(&graph)
            .arg("--safetensors")
            .arg(&tensors)
            .arg("--worker")
            .arg(&worker))?;
    }
    verify(&golden, 1)?;
    cluster.passed()
}

#[tokio::test]
#[ignore = "needs torchvision and onnxruntime: make parity"]
async fn a_resnet_18_is_torchvisions_forward_and_backward() -> Result<()> {
    exports_agree(18).await
}

#[tokio::test]
#[ignore = "needs torchvision and onnxruntime: make parity"]
async fn a_resnet_50_is_torchvisions_forward_and_backward() -> Result<()> {
    exports_agree(50).await
}

#[test]
#[ignore = "needs torch and lightly: make parity"]
fn nt_xent_is_lightlys_and_lars_is_its_formula() -> Result<()> {
    let folder = tempfile::tempdir()?;
    run(python("write_golden.py")?.arg(folder.path()))?;
    verify(folder.path(), 4 + 8)
}

#[test]
#[ignore = "needs torchvision: make parity"]
fn weights_of_other_programs_are_what_they_compute() -> Result<()> {
    let mut script = python("import_conversions.py")?;
    script.arg("--worker").arg(binary("diptych-worker")?);
    script.arg("--cli").arg(binary("diptych")?);
    run(&mut script).map(drop)
}
