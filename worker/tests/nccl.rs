//! NCCL between processes, on real GPUs.

use std::process::Command;

/// One JSON line of a bench.
fn bench(args: &[&str]) -> serde_json::Value {
    let done = Command::new(env!("CARGO_BIN_EXE_diptych-worker"))
        .arg("bench")
        .args(args)
        .output()
        .expect("the worker runs");
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "{args:?}: {errors}");
    serde_json::from_slice(&done.stdout).expect("one JSON line")
}

/// Not what NCCL supports: two ranks of one GPU that say that they are of two machines. It is the whole of our side of
/// it that is tried.
#[test]
#[ignore = "needs an NVIDIA GPU"]
fn two_ranks_on_one_gpu_reduce_and_gather() {
    for name in ["all-reduce", "all-gather"] {
        let line = bench(&[
            name, "--mib", "8", "--world", "2", "--device", "cuda", "--repeat", "3",
        ]);
        assert_eq!(line["world"], 2);
        assert!(line["mib_per_s"].as_f64().expect("a rate") > 0.0, "{line}");
    }
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn a_step_on_two_ranks_has_the_loss_of_the_host() {
    let step = |device: &str| {
        let line = bench(&[
            "step",
            "--model",
            "resnet18",
            "--image-size",
            "32",
            "--batch",
            "64",
            "--steps",
            "1",
            "--world",
            "2",
            "--device",
            device,
        ]);
        line["loss"].as_f64().expect("a loss")
    };
    // Random views differ between generators: both losses are those of an untrained network.
    let (host, device) = (step("cpu"), step("cuda"));
    assert!((host - device).abs() < 0.2 * host, "{host} and {device}");
}
