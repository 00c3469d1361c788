//! CUDA, found when it is asked for: this program is not linked to it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::driver::{self, CudaVersion, DriverError};
use super::library::{Library, LibraryError, Visibility};
use super::stream;

/// libtorch's CUDA half. Everything else that CUDA needs comes with it.
const LIBRARY: &str = "libtorch_cuda.so";

/// CUDA, ready for use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cuda {
    /// Where libtorch's CUDA half was found.
    pub library: String,
    /// Devices that this process may use: `CUDA_VISIBLE_DEVICES` counts.
    pub devices: u32,
}

/// Why there is no CUDA.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// libtorch's CUDA half, or a library that it needs, is not there.
    #[error(
        "libtorch's CUDA part cannot be loaded: {0}. Use the worker image for CUDA, or name the folders of a CUDA \
         libtorch {version} and of its nvidia-* packages in LD_LIBRARY_PATH",
        version = stream::torch_version()
    )]
    Libtorch(LibraryError),
    /// No driver, or one that refuses.
    #[error(
        "no usable NVIDIA driver: {0}. Install one, or run the container with GPUs (docker run --gpus all; \
         nvidia.com/gpu in Kubernetes)"
    )]
    Driver(DriverError),
    /// A driver without devices for this process.
    #[error("the NVIDIA driver offers no device to this process: {0}")]
    NoDevice(String),
    /// libtorch refuses devices that the driver offers.
    #[error(
        "libtorch cannot use the {devices} devices of a driver for CUDA {cuda}: {reason}. It was built for CUDA \
         {NEEDED}: update the driver"
    )]
    Unusable {
        /// Devices that the driver offers.
        devices: u32,
        /// The newest CUDA that it supports.
        cuda: CudaVersion,
        /// libtorch's words.
        reason: String,
    },
    /// libtorch refuses a setting.
    #[error("libtorch: {0}")]
    Settings(String),
    /// An index beyond the devices.
    #[error("there is no device cuda:{asked}: this process has {devices}, from cuda:0")]
    NoSuchDevice {
        /// The index asked for.
        asked: u32,
        /// How many there are.
        devices: u32,
    },
}

/// What every CUDA rank of this process does: whether fp32 products may round their factors to TF32, and whether
/// convolutions give the same bits in every run.
///
/// # Errors
/// [`CudaError::Settings`].
pub fn configure(tf32: bool, deterministic: bool) -> Result<(), CudaError> {
    stream::set_tf32(tf32)
        .and_then(|()| stream::set_repeatable(deterministic))
        .map_err(|error| CudaError::Settings(error.to_string()))
}

/// The CUDA that the pinned libtorch was built with.
const NEEDED: &str = "13.0";

/// Loads libtorch's CUDA half and finds the devices; later calls return the first one's answer.
///
/// Call it before anything asks libtorch about CUDA (seeding its generator does): a question before is answered with
/// "no" until the process ends.
///
/// # Errors
/// [`CudaError`], with what is missing in the linker's or the driver's own words.
pub fn load() -> Result<&'static Cuda, CudaError> {
    static CUDA: OnceLock<Result<Cuda, CudaError>> = OnceLock::new();
    CUDA.get_or_init(first_load)
        .as_ref()
        .map_err(CudaError::clone)
}

fn first_load() -> Result<Cuda, CudaError> {
    let library = Library::open(&candidates(), Visibility::Global).map_err(CudaError::Libtorch)?;
    let found = stream::devices();
    if let Ok(devices @ 1..) = found {
        return Ok(Cuda {
            library: library.name().to_owned(),
            devices,
        });
    }
    let driver = driver::ask().map_err(CudaError::Driver)?;
    if driver.devices == 0 {
        return Err(CudaError::NoDevice(nothing_visible()));
    }
    Err(CudaError::Unusable {
        devices: driver.devices,
        cuda: driver.cuda,
        reason: found.map_or_else(|error| error.to_string(), |_| "it counts none".to_owned()),
    })
}

/// Beside the libtorch in use, where a CUDA libtorch has it; then wherever the linker looks.
fn candidates() -> Vec<PathBuf> {
    let beside = libtorch().and_then(|path| Some(path.parent()?.join(LIBRARY)));
    beside
        .into_iter()
        .filter(|path| path.exists())
        .chain([PathBuf::from(LIBRARY)])
        .collect()
}

/// The libtorch in use.
pub(crate) fn libtorch() -> Option<PathBuf> {
    mapped("libtorch_cpu.so")
}

/// Where a library of this process was loaded from.
pub(crate) fn mapped(name: &str) -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.find('/').map(|at| Path::new(&line[at..])))
        .find(|path| path.file_name().is_some_and(|file| file == name))
        .map(Path::to_path_buf)
}

fn nothing_visible() -> String {
    match std::env::var("CUDA_VISIBLE_DEVICES") {
        Ok(visible) => format!("CUDA_VISIBLE_DEVICES={visible} leaves none"),
        Err(_) => "it counts none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libtorch_in_use_is_found() {
        // Something of libtorch must be in use.
        let _ = stream::torch_version();
        let path = libtorch().expect("this program is linked to it");
        assert!(path.is_file(), "{}", path.display());
    }

    #[test]
    fn what_cuda_lacks_is_told_with_what_to_do() {
        let missing = Library::open(&["libcusparse-of-nobody.so.12"], Visibility::Local);
        let text = CudaError::Libtorch(missing.expect_err("there is none")).to_string();
        assert!(
            text.contains("libcusparse-of-nobody.so.12: cannot open shared object file: No such file or directory")
                && text.contains("LD_LIBRARY_PATH"),
            "{text}"
        );
    }

    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn a_machine_with_a_gpu_has_devices() {
        let cuda = load().expect("CUDA");
        assert!(cuda.devices > 0);
        let memory = stream::memory(0).expect("figures");
        assert!(
            memory.total >= memory.free && memory.total > 1 << 30,
            "{memory:?}"
        );
    }
}
