use std::fs;
use std::thread;

use diptych_common::units::Bytes;

use super::Figure;
use crate::agent::devices::{Found, survey};
use crate::agent::identity::{host_name, memory_per_slot};
use crate::collective::nccl::Nccl;
use crate::device::nvml::{Gpu, Load, Nvml, NvmlError, Place};
use crate::device::{ask_driver, cuda, torch_version};

/// What a machine has. What it lacks is there as the reason, in the words of whoever refused.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// Name of the machine.
    pub host: String,
    /// Cores that this process may use.
    pub cores: usize,
    /// Memory that this process may use.
    pub memory: Option<Bytes>,
    /// Size of `/dev/shm`, over which NCCL's ranks of one machine talk.
    pub shared_memory: Option<Bytes>,
    /// Files that this process may have open.
    pub open_files: Option<u64>,
    /// Version of libtorch, and where it is.
    pub libtorch: (String, Option<String>),
    /// `CUDA_VISIBLE_DEVICES`, where it is set.
    pub visible: Option<String>,
    /// What NVIDIA's management library says.
    pub management: Result<ManagementFacts, String>,
    /// The newest CUDA that the driver supports.
    pub driver: Result<String, String>,
    /// libtorch's CUDA half.
    pub cuda: Result<cuda::Cuda, String>,
    /// How CUDA ranks talk.
    pub nccl: Result<CollectiveFacts, String>,
    /// Measurements.
    pub figures: Vec<Figure>,
}

/// GPUs as the driver manages them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagementFacts {
    /// Version of the driver.
    pub driver: String,
    /// All devices of the machine that answer.
    pub gpus: Vec<GpuFacts>,
    /// The others.
    pub silent: Vec<SilentGpu>,
}

/// A device that does not say what it is or how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentGpu {
    /// Its number on this machine.
    pub index: u32,
    /// What the library says instead.
    pub error: String,
}

/// One device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuFacts {
    /// What it is.
    pub gpu: Gpu,
    /// How it is doing.
    pub load: Load,
    /// What it is near to.
    pub place: Place,
}

/// A library for collectives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CollectiveFacts {
    /// Its version.
    pub version: String,
    /// The name that it was loaded by.
    pub library: String,
}

// === impl Facts ===

impl Facts {
    /// Looks at this machine. Loads what CUDA needs, so it comes before anything else that asks libtorch about CUDA.
    pub fn gather() -> Self {
        let cuda = cuda::load().cloned().map_err(|error| error.to_string());
        Self {
            host: host_name(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory: memory_per_slot(1),
            shared_memory: shared_memory(),
            open_files: nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE)
                .ok()
                .map(|(soft, _)| soft),
            libtorch: (
                torch_version(),
                cuda::libtorch().map(|path| path.display().to_string()),
            ),
            visible: std::env::var("CUDA_VISIBLE_DEVICES").ok(),
            management: Nvml::open()
                .and_then(|nvml| ManagementFacts::gather(&nvml))
                .map_err(|error| error.to_string()),
            driver: ask_driver()
                .map(|driver| driver.cuda.to_string())
                .map_err(|error| error.to_string()),
            nccl: Nccl::open()
                .map(|nccl| CollectiveFacts {
                    version: nccl.version().to_string(),
                    library: nccl.name().to_owned(),
                })
                .map_err(|error| error.to_string()),
            cuda,
            figures: Vec::new(),
        }
    }

    /// Whether the machine has a GPU, usable or not.
    pub fn has_gpu(&self) -> bool {
        self.management
            .as_ref()
            .is_ok_and(|facts| !facts.gpus.is_empty() || !facts.silent.is_empty())
    }
}

// === impl ManagementFacts ===

impl ManagementFacts {
    /// One by one: a device that does not answer says nothing about the others.
    pub(super) fn gather(nvml: &Nvml) -> Result<Self, NvmlError> {
        let mut facts = Self {
            driver: nvml.driver()?,
            gpus: Vec::new(),
            silent: Vec::new(),
        };
        for found in survey(nvml)? {
            let index = found.index;
            match GpuFacts::of(nvml, found) {
                Ok(gpu) => facts.gpus.push(gpu),
                Err(error) => facts.silent.push(SilentGpu {
                    index,
                    error: error.to_string(),
                }),
            }
        }
        Ok(facts)
    }
}

impl GpuFacts {
    fn of(nvml: &Nvml, found: Found) -> Result<Self, NvmlError> {
        Ok(Self {
            gpu: found.gpu?,
            load: nvml.load(found.index)?,
            place: Place {
                labels: found.labels,
            },
        })
    }
}

fn shared_memory() -> Option<Bytes> {
    // A machine without it has no such folder.
    fs::metadata("/dev/shm").ok()?;
    let place = nix::sys::statvfs::statvfs("/dev/shm").ok()?;
    Some(Bytes::new(place.blocks() * place.fragment_size()))
}
