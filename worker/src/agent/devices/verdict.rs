use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

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

/// Why no CUDA rank can run on this machine, as `program doctor` finds it; `None` where one can. In a process of its own:
/// libtorch's CUDA half takes memory for as long as a process lives, and a driver that is ill may never answer.
pub async fn verdict(program: &Path, patience: Duration) -> Option<String> {
    let doctor = Command::new(program)
        .args(["doctor", "--device", "cuda", "--quick", "--output", "json"])
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

    /// The verdict of a doctor that is this script.
    async fn of(script: &str, patience: Duration) -> Option<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("doctor");
        std::fs::write(&program, format!("#!/bin/bash\n{script}\n")).expect("written");
        let all = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, all).expect("executable");
        verdict(&program, patience).await
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
}
