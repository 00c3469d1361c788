use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use super::Found;
use super::survey::usable;

/// What of the doctor's report is asked for.
#[derive(Debug, Deserialize)]
struct Report {
    problems: Vec<Problem>,
}

#[derive(Debug, Deserialize)]
struct Problem {
    weight: String,
    what: String,
    remedy: String,
}

/// Why no CUDA rank can run on any of these GPUs, as `program doctor` finds it; `None` where one can, and where each has
/// a problem of its own already. In a process of its own: libtorch's CUDA half takes memory for as long as a process
/// lives, and a driver that is ill may never answer.
pub async fn verdict(program: &Path, gpus: &[Found], patience: Duration) -> Option<String> {
    let visible = usable(gpus);
    if visible.is_empty() {
        return None;
    }
    let doctor = Command::new(program)
        .args(["doctor", "--device", "cuda", "--quick", "--output", "json"])
        // As trainers get it, not as the agent did: one GPU that is ill or hidden is no fault of the others.
        .env("CUDA_VISIBLE_DEVICES", visible)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(patience, doctor).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Some(format!("{} doctor: {error}", program.display())),
        Err(_) => {
            return Some(format!(
                "`diptych-worker doctor` did not answer within {} s: look at `nvidia-smi` and the kernel's log",
                patience.as_secs()
            ));
        }
    };
    let report = match serde_json::from_slice::<Report>(&output.stdout) {
        Ok(report) => report,
        Err(_) => {
            let said = String::from_utf8_lossy(&output.stderr);
            let last = said.lines().last().unwrap_or("it said nothing").to_owned();
            return Some(format!(
                "`diptych-worker doctor` ended with {}: {last}",
                output.status
            ));
        }
    };
    let fatal = report
        .problems
        .iter()
        .filter(|problem| problem.weight == "fatal");
    let told: Vec<_> = fatal
        .map(|problem| format!("{}: {}", problem.what, problem.remedy))
        .collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::agent::devices::roster::samples::{LOST, gpu};

    /// The verdict on GPUs 0 and 2 of a doctor that is this script.
    async fn of(script: &str, patience: Duration) -> Option<String> {
        on(&[gpu(0, None), gpu(2, None)], script, patience).await
    }

    async fn on(gpus: &[Found], script: &str, patience: Duration) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("doctor");
        std::fs::write(&program, format!("#!/bin/bash\n{script}\n")).expect("written");
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, all).expect("executable");
        verdict(&program, gpus, patience).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn what_keeps_every_cuda_rank_from_running_is_told_with_its_remedy() {
        let report = r#"{"runs": false, "problems": [
            {"weight": "fatal", "what": "libtorch_cuda.so: not found", "remedy": "use the worker image for CUDA"},
            {"weight": "fatal", "what": "NCCL cannot be loaded", "remedy": "install it"},
            {"weight": "warning", "what": "/dev/shm has 64 MiB", "remedy": "raise it"}]}"#;
        assert_eq!(
            of(&format!("echo '{report}'; exit 1"), LONG)
                .await
                .as_deref(),
            Some(
                "libtorch_cuda.so: not found: use the worker image for CUDA; NCCL cannot be loaded: install it"
            )
        );
    }

    #[tokio::test]
    async fn warnings_keep_nothing_from_running() {
        let report = r#"{"problems": [{"weight": "warning", "what": "GPU 0 is old", "remedy": "use fp32"}]}"#;
        assert_eq!(of(&format!("echo '{report}'"), LONG).await, None);
    }

    #[tokio::test]
    async fn a_doctor_that_dies_or_never_answers_is_a_problem_of_its_own() {
        let died = of("echo 'CUDA is ill' >&2; kill -SEGV $$", LONG).await;
        let died = died.expect("a problem");
        assert!(
            died.contains("signal: 11") && died.ends_with("CUDA is ill"),
            "{died}"
        );
        let silent = of("exec sleep 600", Duration::from_millis(200)).await;
        let silent = silent.expect("a problem");
        assert!(silent.contains("did not answer"), "{silent}");
    }

    #[tokio::test]
    async fn the_doctor_is_asked_about_cuda_and_measures_nothing() {
        let echo = of("echo \"$*\" >&2", LONG).await.expect("no report");
        assert!(
            echo.ends_with("doctor --device cuda --quick --output json"),
            "{echo}"
        );
    }

    #[tokio::test]
    async fn the_doctor_sees_the_gpus_that_trainers_could_run_on() {
        let script = "echo \"sees $CUDA_VISIBLE_DEVICES\" >&2";
        let mut gpus = [0, 1, 2, 3].map(|index| gpu(index, None));
        gpus[1].gpu = Err(LOST);
        gpus[2].gpu.as_mut().expect("it answers").mig = true;
        let echo = on(&gpus, script, LONG).await.expect("no report");
        assert!(echo.ends_with("sees GPU-0,GPU-3"), "{echo}");
        // Nothing is asked about GPUs that are known to be of no use.
        assert_eq!(on(&gpus[1..3], script, LONG).await, None);
        assert_eq!(on(&[], script, LONG).await, None);
    }
}
