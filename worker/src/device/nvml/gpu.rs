use std::ffi::{c_int, c_uint};
use std::fs;

use diptych_common::units::Bytes;

use super::functions::{Handle, Memory, Pci, Utilization};
use super::{Nvml, NvmlError};

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Its number on this machine.
    pub index: u32,
    /// The vendor's name, e.g. `NVIDIA H200`.
    pub name: String,
    /// `GPU-…`: the same after a restart, and what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// Its PCI address.
    pub bus_id: String,
    /// All of its memory.
    pub memory: Bytes,
    /// Compute capability, e.g. (9, 0).
    pub capability: (u32, u32),
    /// Whether it is cut into MIG instances; then it cannot be used as a whole.
    pub mig: bool,
    /// The NUMA node whose cores are near, where the machine has more than one.
    pub numa_node: Option<u32>,
    /// The cores that are near, as Linux lists them (`0-15,32-47`).
    pub cores: Option<String>,
}

/// How a device is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Load {
    /// Memory that nothing holds.
    pub free: Bytes,
    /// Memory that is held, by any process.
    pub used: Bytes,
    /// Percent of the last moment in which a kernel ran; `None` where that is not measured, or not told to this user.
    pub busy_percent: Option<u32>,
    /// Errors that ECC could not correct, since the driver started; `None` where there is no ECC, or they are not told
    /// to this user.
    pub ecc_uncorrected: Option<u64>,
}

/// `NVML_MEMORY_ERROR_TYPE_UNCORRECTED` and `NVML_VOLATILE_ECC`.
const UNCORRECTED: c_int = 1;
const SINCE_START: c_int = 0;
/// `NVML_DEVICE_MIG_ENABLE`.
const CUT: c_uint = 1;

// === impl Nvml ===

impl Nvml {
    /// What device `index` is.
    ///
    /// # Errors
    /// [`NvmlError::Call`], for example where the device fell off the bus.
    pub fn gpu(&self, index: u32) -> Result<Gpu, NvmlError> {
        let handle = self.handle(index)?;
        let (mut major, mut minor, mut pci) = (0, 0, Pci::default());
        // SAFETY: a live handle and places for the answers.
        let codes = unsafe {
            [
                (self.call.capability)(handle, &mut major, &mut minor),
                (self.call.pci)(handle, &mut pci),
            ]
        };
        self.check("nvmlDeviceGetCudaComputeCapability", codes[0])?;
        self.check("nvmlDeviceGetPciInfo", codes[1])?;
        let near = |file: &str| {
            let text = fs::read_to_string(format!("{}/{file}", pci.sysfs())).ok()?;
            Some(text.trim().to_owned()).filter(|text| !text.is_empty())
        };
        Ok(Gpu {
            index,
            // SAFETY: a live handle, room and its size.
            name: self.text("nvmlDeviceGetName", |room, size| unsafe {
                (self.call.name)(handle, room, size)
            })?,
            // SAFETY: as above.
            uuid: self.text("nvmlDeviceGetUUID", |room, size| unsafe {
                (self.call.uuid)(handle, room, size)
            })?,
            bus_id: pci.bus_id(),
            memory: Bytes::new(self.memory(handle)?.total),
            capability: (major.unsigned_abs(), minor.unsigned_abs()),
            mig: self.in_mig_mode(handle),
            // Linux writes -1 where there is one node.
            numa_node: near("numa_node").and_then(|text| text.parse().ok()),
            cores: near("local_cpulist"),
        })
    }

    /// How device `index` is doing now.
    ///
    /// # Errors
    /// [`NvmlError::Call`] where it does not even tell its memory; a counter that it does not tell is `None`.
    pub fn load(&self, index: u32) -> Result<Load, NvmlError> {
        let handle = self.handle(index)?;
        let memory = self.memory(handle)?;
        let (mut utilization, mut errors) = (Utilization::default(), 0);
        // SAFETY: a live handle and places for the answers.
        let codes = unsafe {
            [
                (self.call.utilization)(handle, &mut utilization),
                (self.call.ecc)(handle, UNCORRECTED, SINCE_START, &mut errors),
            ]
        };
        Ok(Load {
            free: Bytes::new(memory.free),
            used: Bytes::new(memory.used),
            busy_percent: told(codes[0], utilization.gpu),
            ecc_uncorrected: told(codes[1], errors),
        })
    }

    pub(super) fn memory(&self, handle: Handle) -> Result<Memory, NvmlError> {
        let mut memory = Memory::default();
        // SAFETY: a live handle and a place for the answer.
        let code = unsafe { (self.call.memory)(handle, &mut memory) };
        self.check("nvmlDeviceGetMemoryInfo", code)?;
        Ok(memory)
    }

    /// A driver or a device that does not know of MIG is not in its mode.
    fn in_mig_mode(&self, handle: Handle) -> bool {
        let (mut current, mut pending) = (0, 0);
        self.mig_mode.is_some_and(|ask| {
            // SAFETY: a live handle and places for the answers.
            let code = unsafe { ask(handle, &mut current, &mut pending) };
            code == 0 && current == CUT
        })
    }
}

/// A counter, unless the library refused it: devices lack some, and containers and users may not read all. None of them
/// is needed for a job.
fn told<T>(code: c_int, counter: T) -> Option<T> {
    (code == 0).then_some(counter)
}
