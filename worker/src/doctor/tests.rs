use std::collections::BTreeMap;

use diptych_common::units::Bytes;

use super::*;
use crate::device::cuda::Cuda;
use crate::device::fake;
use crate::device::nvml::{Gpu, Load, Nvml, Place};

const GIB: u64 = 1 << 30;

fn gpu(index: u32) -> GpuFacts {
    GpuFacts {
        gpu: Gpu {
            index,
            name: "NVIDIA H200".to_owned(),
            uuid: format!("GPU-{index}"),
            bus_id: "00000000:01:00.0".to_owned(),
            memory: Bytes::new(140 * GIB),
            capability: (9, 0),
            mig: false,
            numa_node: Some(0),
            cores: Some("0-15".to_owned()),
        },
        load: Load {
            free: Bytes::new(139 * GIB),
            used: Bytes::new(GIB),
            busy_percent: Some(0),
            ecc_uncorrected: Some(0),
        },
        place: Place {
            labels: BTreeMap::from([("numa", "0".to_owned()), ("nvlink", "0".to_owned())]),
        },
    }
}

/// A machine of so many GPUs that work.
fn machine(gpus: u32) -> Facts {
    Facts {
        host: "node-1".to_owned(),
        cores: 16,
        memory: Some(Bytes::new(128 * GIB)),
        shared_memory: Some(Bytes::new(64 * GIB)),
        open_files: Some(65536),
        libtorch: (
            "2.11.0".to_owned(),
            Some("/opt/lib/libtorch_cpu.so".to_owned()),
        ),
        visible: None,
        management: Ok(ManagementFacts {
            driver: "580.82.07".to_owned(),
            gpus: (0..gpus).map(gpu).collect(),
            silent: Vec::new(),
        }),
        driver: Ok("13.0".to_owned()),
        cuda: Ok(Cuda {
            library: "libtorch_cuda.so".to_owned(),
            devices: gpus,
        }),
        nccl: Ok(CollectiveFacts {
            version: "2.28.9".to_owned(),
            library: "libnccl.so.2".to_owned(),
        }),
        figures: Vec::new(),
    }
}

fn without_gpu() -> Facts {
    Facts {
        management: Err("libnvidia-ml.so.1: cannot open shared object file".to_owned()),
        driver: Err("libcuda.so.1: cannot open shared object file".to_owned()),
        cuda: Err("libtorch_cuda.so: cannot open shared object file".to_owned()),
        nccl: Err("libnccl.so.2: cannot open shared object file".to_owned()),
        ..machine(0)
    }
}

fn weights(diagnosis: &Diagnosis) -> Vec<Weight> {
    diagnosis
        .problems
        .iter()
        .map(|problem| problem.weight)
        .collect()
}

#[test]
fn a_machine_of_gpus_that_work_has_no_problems() {
    let diagnosis = judge(&machine(8), None);
    assert_eq!((diagnosis.wanted, diagnosis.runs), (Wanted::Cuda, true));
    assert_eq!(diagnosis.problems, []);
    assert!(
        diagnosis.cuda_collectives.starts_with("nccl 2.28.9"),
        "{}",
        diagnosis.cuda_collectives
    );
}

#[test]
fn a_machine_without_gpus_runs_cpu_ranks_and_says_what_cuda_would_need() {
    let diagnosis = judge(&without_gpu(), None);
    assert_eq!((diagnosis.wanted, diagnosis.runs), (Wanted::Cpu, true));
    assert_eq!(weights(&diagnosis), [Weight::Note; 4]);
    for library in [
        "libnvidia-ml.so.1",
        "libcuda.so.1",
        "libtorch_cuda.so",
        "libnccl.so.2",
    ] {
        let told = diagnosis
            .problems
            .iter()
            .any(|problem| problem.what.contains(library));
        assert!(told, "{library}");
    }
}

#[test]
fn who_asks_for_cuda_ranks_is_told_everything_that_is_missing_at_once() {
    let diagnosis = judge(&without_gpu(), Some(Wanted::Cuda));
    assert!(!diagnosis.runs);
    assert_eq!(weights(&diagnosis), [Weight::Fatal; 4]);
}

#[test]
fn gpus_that_cannot_be_used_are_a_failure_unless_cpu_ranks_are_asked_for() {
    let facts = Facts {
        cuda: Err("libcudnn.so.9: cannot open shared object file".to_owned()),
        ..machine(2)
    };
    assert!(!judge(&facts, None).runs);
    assert!(judge(&facts, Some(Wanted::Cpu)).runs);
}

#[test]
fn hidden_gpus_are_told_by_the_variable_that_hides_them() {
    let facts = Facts {
        cuda: Err("no device".to_owned()),
        visible: Some("7".to_owned()),
        ..machine(2)
    };
    let diagnosis = judge(&facts, None);
    let remedy = &diagnosis.problems[0].remedy;
    assert!(remedy.contains("CUDA_VISIBLE_DEVICES is \"7\""), "{remedy}");
}

#[test]
fn a_variable_that_shows_a_gpu_is_not_what_cuda_lacks() {
    for visible in ["1", "GPU-1,GPU-0"] {
        let facts = Facts {
            cuda: Err("libcudnn.so.9: cannot open shared object file".to_owned()),
            visible: Some(visible.to_owned()),
            ..machine(2)
        };
        let diagnosis = judge(&facts, None);
        let remedy = &diagnosis.problems[0].remedy;
        assert!(!remedy.contains("CUDA_VISIBLE_DEVICES"), "{remedy}");
    }
}

/// What NVML's library, made with these options, says of its three GPUs.
fn managed(options: &[&str]) -> Facts {
    let library = fake::library("nvml", options);
    let nvml = Nvml::open_one_of(&[&library]).expect("it starts");
    Facts {
        management: Ok(ManagementFacts::gather(&nvml).expect("it counts its GPUs")),
        ..machine(3)
    }
}

#[test]
fn a_gpu_that_does_not_answer_is_warned_of_and_the_others_run() {
    // It fell off the bus, its neighbour tells no counters, and how far they are from each other is not known.
    let facts = managed(&["-DLOST=1", "-DFORBIDDEN=0", "-DTOPOLOGY=3"]);
    let management = facts.management.as_ref().expect("GPUs");
    let answering: Vec<_> = management.gpus.iter().map(|gpu| gpu.gpu.index).collect();
    assert_eq!(answering, [0, 2]);
    assert_eq!(management.gpus[0].load.ecc_uncorrected, None);
    let lost = SilentGpu {
        index: 1,
        error: "nvmlDeviceGetHandleByIndex: GPU is lost".to_owned(),
    };
    assert_eq!(management.silent, [lost]);
    let diagnosis = judge(&facts, Some(Wanted::Cuda));
    assert!(diagnosis.runs, "{:?}", diagnosis.problems);
    let told = |problem: &Problem| problem.what.starts_with("GPU 1 does not answer");
    assert!(diagnosis.problems.iter().any(told));
}

#[test]
fn a_machine_none_of_whose_gpus_answers_runs_no_cuda_ranks() {
    let mut facts = machine(1);
    let management = facts.management.as_mut().expect("GPUs");
    management.gpus.clear();
    management.silent.push(SilentGpu {
        index: 0,
        error: "GPU is lost".to_owned(),
    });
    assert!(facts.has_gpu());
    assert!(!judge(&facts, None).runs);
    assert!(judge(&facts, Some(Wanted::Cpu)).runs);
}

#[test]
fn a_gpu_in_mig_mode_is_warned_of() {
    let diagnosis = judge(&managed(&["-DMIG=1"]), Some(Wanted::Cuda));
    assert!(diagnosis.runs, "{:?}", diagnosis.problems);
    let mut problems = diagnosis.problems.iter();
    let told = problems.any(|problem| {
        problem
            .what
            .starts_with("GPU 1 (Fake GPU 1) is in MIG mode")
            && problem.remedy.contains("nvidia-smi -i 1 -mig 0")
    });
    assert!(told, "{:?}", diagnosis.problems);
}

#[test]
fn one_gpu_needs_no_nccl_and_two_do() {
    for (gpus, runs) in [(1, true), (2, false)] {
        let facts = Facts {
            nccl: Err("NCCL cannot be loaded".to_owned()),
            ..machine(gpus)
        };
        assert_eq!(judge(&facts, None).runs, runs, "{gpus} GPUs");
    }
}

#[test]
fn sick_busy_and_old_devices_are_warned_of() {
    let mut facts = machine(3);
    let gpus = &mut facts.management.as_mut().expect("GPUs").gpus;
    gpus[0].load.ecc_uncorrected = Some(3);
    gpus[1].load.used = Bytes::new(100 * GIB);
    gpus[2].gpu.capability = (7, 5);
    facts.shared_memory = Some(Bytes::new(64 << 20));
    facts.open_files = Some(1024);
    let diagnosis = judge(&facts, None);
    assert!(diagnosis.runs);
    assert_eq!(weights(&diagnosis), [Weight::Warning; 5]);
    let text: String = diagnosis
        .problems
        .iter()
        .map(|problem| problem.what.as_str())
        .collect();
    for word in [
        "3 memory errors",
        "100.0 GiB of 140.0 GiB",
        "7.5",
        "/dev/shm has 64.0 MiB",
        "1024 files",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
}

#[test]
fn both_forms_of_the_report_say_the_same() {
    let mut facts = machine(1);
    let management = facts.management.as_mut().expect("GPUs");
    management.silent.push(SilentGpu {
        index: 1,
        error: "GPU is lost".to_owned(),
    });
    let diagnosis = judge(&facts, None);
    let (mut table, mut json) = (Vec::new(), Vec::new());
    print::table(&facts, &diagnosis, &mut table).expect("written");
    print::json(&facts, &diagnosis, &mut json).expect("written");
    let table = String::from_utf8(table).expect("text");
    for part in [
        "580.82.07, for CUDA up to 13.0",
        "NVIDIA H200, 139.0 GiB of 140.0 GiB free",
        "nvlink 0",
        "does not answer: GPU is lost",
    ] {
        assert!(table.contains(part), "{part}: {table}");
    }
    assert!(table.ends_with("\nCUDA ranks can run here\n"), "{table}");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("a document");
    assert_eq!(json["runs"], true);
    assert_eq!(json["management"]["gpus"][0]["memory_bytes"], 140 * GIB);
    assert_eq!(json["management"]["silent"][0]["index"], 1);
    assert_eq!(json["nccl"]["version"], "2.28.9");
}

#[test]
fn this_machine_can_be_examined() {
    let facts = Facts::gather();
    assert!(facts.cores > 0);
    assert_eq!(facts.libtorch.0, "2.11.0");
    // CPU ranks run wherever this test does.
    assert!(judge(&facts, Some(Wanted::Cpu)).runs);
}

#[test]
fn a_missing_driver_is_told_once() {
    let why = "libcuda.so.1: cannot open shared object file";
    let facts = Facts {
        driver: Err(why.to_owned()),
        cuda: Err(format!("no usable NVIDIA driver: {why}. Install one")),
        ..without_gpu()
    };
    let problems = judge(&facts, Some(Wanted::Cuda)).problems;
    let told = problems.iter().filter(|problem| problem.what.contains(why));
    assert_eq!(told.count(), 1, "{problems:?}");
}
