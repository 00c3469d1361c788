use std::fs;
use std::thread;

use diptych_common::units::Bytes;

use super::Figure;
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
    /// All devices of the machine.
    pub gpus: Vec<GpuFacts>,
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
            management: ManagementFacts::gather().map_err(|error| error.to_string()),
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
            .is_ok_and(|facts| !facts.gpus.is_empty())
    }
}

impl ManagementFacts {
    fn gather() -> Result<Self, NvmlError> {
        let nvml = Nvml::open()?;
        let gpus = nvml.gpus()?;
        let places = nvml.places(&gpus)?;
        let facts = gpus.into_iter().zip(places).map(|(gpu, place)| {
            let load = nvml.load(gpu.index)?;
            Ok(GpuFacts { gpu, load, place })
        });
        Ok(Self {
            driver: nvml.driver()?,
            gpus: facts.collect::<Result<_, NvmlError>>()?,
        })
    }
}

fn shared_memory() -> Option<Bytes> {
    // A machine without it has no such folder.
    fs::metadata("/dev/shm").ok()?;
    let place = nix::sys::statvfs::statvfs("/dev/shm").ok()?;
    Some(Bytes::new(place.blocks() * place.fragment_size()))
}
