//! Parity with the ecosystem: torchvision, timm's names, the conversions of SimCLR, lightly, onnxruntime and TensorBoard,
//! each as it is installed. `make parity` runs it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use diptych_tests::cluster::Cluster;
use diptych_tests::process::binary;
use diptych_tests::specs;

/// A few steps of a real ResNet on 32-pixel images; the classifier reads this layer of the head.
fn spec(dir: &Path, encoder: &str, head_layer: u32) -> String {
    format!(
        "apiVersion: diptych/v1
name: parity
storage: file://{dir}/store
data:
  train: {{ url: 'file://{dir}/images/train' }}
  test: {{ url: 'file://{dir}/images/test' }}
encoder: {{ {encoder} }}
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
  head_layer: {head_layer}
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

/// Trains and exports, and has onnxruntime compute the same; torchvision, too, where it has the network. Its gradients
/// become golden cases then.
async fn exports_agree(encoder: &str, head_layer: u32, torchvision: bool) -> Result<()> {
    let worker = binary("diptych-worker")?;
    let cluster = Cluster::start(&[1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&spec(cluster.dir(), encoder, head_layer))?;
    cluster.succeed(&job).await?;
    let golden = cluster.dir().join("golden");
    std::fs::create_dir(&golden)?;
    for phase in ["pretrain", "tuned"] {
        let tensors = export(&cluster, &job, phase, "safetensors")?;
        if torchvision {
            let mut script = python("load_in_torchvision.py")?;
            script.arg(&tensors).arg("--worker").arg(&worker);
            if phase == "tuned" {
                script.arg("--golden").arg(&golden);
            }
            run(&mut script)?;
        }
        let graph = export(&cluster, &job, phase, "onnx")?;
        run(python("run_in_onnxruntime.py")?
            .arg(&graph)
            .arg("--safetensors")
            .arg(&tensors)
            .arg("--worker")
            .arg(&worker))?;
    }
    if torchvision {
        verify(&golden, 1)?;
    }
    cluster.passed()
}

#[tokio::test]
#[ignore = "needs torchvision and onnxruntime: make parity"]
async fn a_resnet_18_is_torchvisions_forward_and_backward() -> Result<()> {
    exports_agree("depth: 18", 0, true).await
}

#[tokio::test]
#[ignore = "needs torchvision and onnxruntime: make parity"]
async fn a_resnet_50_is_torchvisions_forward_and_backward() -> Result<()> {
    exports_agree("depth: 50", 0, true).await
}

#[tokio::test]
#[ignore = "needs onnxruntime: make parity"]
async fn selective_kernels_and_a_kept_head_run_in_onnxruntime() -> Result<()> {
    let encoder = "depth: 50, width: 0.25, selective_kernel: true, max_pool: tensorflow";
    exports_agree(encoder, 1, false).await
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

#[tokio::test]
#[ignore = "needs the tensorboard Python package: make parity"]
async fn tensorboard_reads_what_a_job_measured() -> Result<()> {
    let cluster = Cluster::start(&[1]).await?;
    specs::images(cluster.dir())?;
    let job = cluster.submit(&spec(cluster.dir(), "depth: 18", 0))?;
    cluster.succeed(&job).await?;
    for (number, phase) in ["pretrain", "tuned"].into_iter().enumerate() {
        let measured = cluster.dir().join(format!("{phase}.json"));
        let points = cluster.json(&["metrics", &job, "--phase", phase])?;
        std::fs::write(&measured, points.to_string())?;
        let events = format!("store/{job}/{number:02}-{phase}/tensorboard");
        let mut script = python("read_in_tensorboard.py")?;
        script.arg(cluster.dir().join(events));
        run(script.arg("--measured").arg(&measured))?;
    }
    cluster.passed()
}
