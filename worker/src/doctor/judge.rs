use super::{Facts, GpuFacts, SilentGpu, Wanted};
use crate::agent::devices::{CudaView, Found};

/// What the facts mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// The kind of rank that was looked for.
    pub wanted: Wanted,
    /// Whether a job of that kind could run.
    pub runs: bool,
    /// How ranks of a CPU gang talk, and why so.
    pub cpu_collectives: String,
    /// How ranks of a CUDA gang talk, or why they cannot.
    pub cuda_collectives: String,
    /// Everything that is wrong, the worst first.
    pub problems: Vec<Problem>,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub weight: Weight,
    /// What, in the words of whoever refused.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// No job of the wanted kind can run.
    Fatal,
    /// Jobs run, but not all, or not as they should.
    Warning,
    /// Nothing is wrong for the wanted kind of rank.
    Note,
}

/// Less than this in `/dev/shm` is Docker's default, too little for NCCL's ranks of one machine.
const LEAST_SHARED: u64 = 512 << 20;
/// Sockets of a large gang, shards and logs.
const LEAST_FILES: u64 = 4096;
/// A CPU rank needs at least as much for libtorch and a small network.
const LEAST_MEMORY: u64 = 1 << 30;

/// Finds everything that is wrong for ranks of the wanted kind.
pub fn judge(facts: &Facts, wanted: Option<Wanted>) -> Diagnosis {
    let wanted = wanted.unwrap_or(match facts.has_gpu() || facts.cuda.is_ok() {
        true => Wanted::Cuda,
        false => Wanted::Cpu,
    });
    let mut problems = machine(facts);
    problems.extend(cuda(facts, wanted));
    problems.sort_by_key(|problem| problem.weight);
    let nccl = facts.nccl.as_ref();
    Diagnosis {
        wanted,
        runs: problems
            .iter()
            .all(|problem| problem.weight != Weight::Fatal),
        cpu_collectives: "tcp: it comes with the worker and needs nothing".to_owned(),
        cuda_collectives: match (nccl, &facts.cuda) {
            (Ok(nccl), Ok(_)) => format!(
                "nccl {} for device memory ({}), tcp for the host's",
                nccl.version, nccl.library
            ),
            (Ok(nccl), Err(_)) => format!("none: NCCL {} is here, but CUDA is not", nccl.version),
            (Err(_), Ok(_)) => {
                "none: NCCL is missing, so that a GPU can only train alone".to_owned()
            }
            (Err(_), Err(_)) => "none: there is neither CUDA nor NCCL".to_owned(),
        },
        problems,
    }
}

fn machine(facts: &Facts) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(memory) = facts.memory.filter(|memory| memory.get() < LEAST_MEMORY) {
        problems.push(warning(
            format!("this process may use {memory} of memory"),
            "raise the container's memory limit to at least 1 GiB a rank",
        ));
    }
    if let Some(files) = facts.open_files.filter(|files| *files < LEAST_FILES) {
        problems.push(warning(
            format!("this process may open {files} files"),
            "raise the limit to 4096 or more (ulimit -n; LimitNOFILE in systemd)",
        ));
    }
    problems
}

fn cuda(facts: &Facts, wanted: Wanted) -> Vec<Problem> {
    // On a machine for CPU ranks it is no fault that CUDA is not there.
    let missing = match wanted {
        Wanted::Cuda => Weight::Fatal,
        Wanted::Cpu => Weight::Note,
    };
    let mut problems = Vec::new();
    let mut lacks = |what: &str, remedy: &str| {
        problems.push(Problem {
            weight: missing,
            what: what.to_owned(),
            remedy: remedy.to_owned(),
        });
    };
    let (gpus, silent) = facts
        .management
        .as_ref()
        .map_or((&[][..], &[][..]), |facts| {
            (facts.gpus.as_slice(), facts.silent.as_slice())
        });
    if let Err(error) = &facts.management {
        lacks(
            &format!("NVIDIA management library: {error}"),
            "install the NVIDIA driver, or run the container with GPUs (docker run --gpus all; nvidia.com/gpu in \
             Kubernetes)",
        );
    }
    if let Err(error) = &facts.driver {
        lacks(
            &format!("CUDA driver: {error}"),
            "install an NVIDIA driver for CUDA 13 (R580 or newer)",
        );
    }
    // A driver that is not there has been told.
    let told = |error: &str| matches!(&facts.driver, Err(driver) if error.contains(driver));
    if let Some(error) = facts.cuda.as_ref().err().filter(|error| !told(error)) {
        let visible = facts.visible.as_deref();
        let remedy = match visible.filter(|visible| hides_all(visible, gpus)) {
            Some(visible) => format!(
                "CUDA_VISIBLE_DEVICES is {visible:?} and the machine has {} GPUs: unset or correct it",
                gpus.len()
            ),
            None => "use the worker image for CUDA".to_owned(),
        };
        lacks(error, &remedy);
    }
    if let Err(error) = &facts.nccl {
        let alone = facts.cuda.is_ok() && gpus.len() < 2;
        let weight = match missing {
            // One GPU can train alone.
            Weight::Fatal if alone => Weight::Warning,
            weight => weight,
        };
        problems.push(Problem {
            weight,
            what: error.clone(),
            remedy: "use the worker image for CUDA, or install nvidia-nccl-cu13 2.28.9".to_owned(),
        });
    }
    // One that does not answer keeps no job from the others.
    let mute = match gpus {
        [] => missing,
        _ => Weight::Warning,
    };
    problems.extend(silent.iter().map(|gpu| unheard(gpu, mute)));
    problems.extend(gpus.iter().flat_map(gpu));
    let shared = facts.shared_memory.filter(|size| size.get() < LEAST_SHARED);
    if let Some(size) = shared.filter(|_| gpus.len() > 1) {
        problems.push(warning(
            format!("/dev/shm has {size}"),
            "give the container at least 512 MiB (docker run --shm-size; an emptyDir of medium Memory in Kubernetes)",
        ));
    }
    problems
}

/// Whether none of the machine's devices is one that `CUDA_VISIBLE_DEVICES` shows.
fn hides_all(visible: &str, gpus: &[GpuFacts]) -> bool {
    let found = gpus.iter().map(|facts| Found {
        index: facts.gpu.index,
        gpu: Ok(facts.gpu.clone()),
        labels: facts.place.labels.clone(),
    });
    let view = CudaView {
        visible: Some(visible.to_owned()),
        order: None,
    };
    let shown = view.shown(&found.collect::<Vec<_>>());
    // In whatever order they are numbered, a number shows one.
    !gpus.is_empty() && shown.is_ok_and(|shown| shown.is_empty())
}

fn unheard(gpu: &SilentGpu, weight: Weight) -> Problem {
    Problem {
        weight,
        what: format!("GPU {} does not answer: {}", gpu.index, gpu.error),
        remedy: "look at `nvidia-smi` and the kernel's log, and restart the machine".to_owned(),
    }
}

/// What is wrong with one device.
fn gpu(facts: &GpuFacts) -> Vec<Problem> {
    let GpuFacts { gpu, load, .. } = facts;
    let name = format!("GPU {} ({})", gpu.index, gpu.name);
    let mut problems = Vec::new();
    if gpu.mig {
        problems.push(warning(
            format!("{name} is in MIG mode, and MIG instances are not lent"),
            &format!("turn that off: nvidia-smi -i {} -mig 0", gpu.index),
        ));
    }
    if let Some(errors @ 1..) = load.ecc_uncorrected {
        problems.push(warning(
            format!("{name}: {errors} memory errors that ECC could not correct since the driver started"),
            "drain the worker and reset the GPU (nvidia-smi --gpu-reset); replace it if they come back",
        ));
    }
    if load.used.get() * 10 > gpu.memory.get() {
        problems.push(warning(
            format!(
                "{name}: {} of {} are in use by other processes",
                load.used, gpu.memory
            ),
            "end them (nvidia-smi lists them), or lower what jobs may use here",
        ));
    }
    if gpu.capability < (8, 0) {
        problems.push(warning(
            format!(
                "{name}: compute capability {}.{} has no bf16 units",
                gpu.capability.0, gpu.capability.1
            ),
            "use `precision: fp32` here, or a GPU of capability 8.0 or newer",
        ));
    }
    problems
}

fn warning(what: String, remedy: &str) -> Problem {
    Problem {
        weight: Weight::Warning,
        what,
        remedy: remedy.to_owned(),
    }
}

impl Weight {
    /// A word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}
