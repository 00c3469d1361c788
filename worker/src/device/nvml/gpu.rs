use std::ffi::c_int;
use std::fs;

use diptych_common::units::Bytes;

use super::functions::{Memory, NOT_SUPPORTED, Pci, Utilization};
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
    /// Percent of the last moment in which a kernel ran.
    pub busy_percent: Option<u32>,
    /// Errors that ECC could not correct, since the driver started; `None` where there is no ECC.
    pub ecc_uncorrected: Option<u64>,
}

/// `NVML_MEMORY_ERROR_TYPE_UNCORRECTED` and `NVML_VOLATILE_ECC`.
const UNCORRECTED: c_int = 1;
const SINCE_START: c_int = 0;

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
            memory: Bytes::new(self.memory(index)?.total),
            capability: (major.unsigned_abs(), minor.unsigned_abs()),
            // Linux writes -1 where there is one node.
            numa_node: near("numa_node").and_then(|text| text.parse().ok()),
            cores: near("local_cpulist"),
        })
    }

    /// All devices, in their order.
    ///
    /// # Errors
    /// As [`gpu`](Self::gpu).
    pub fn gpus(&self) -> Result<Vec<Gpu>, NvmlError> {
        (0..self.count()?).map(|index| self.gpu(index)).collect()
    }

    /// How device `index` is doing now.
    ///
    /// # Errors
    /// [`NvmlError::Call`]; what a device does not measure is `None`.
    pub fn load(&self, index: u32) -> Result<Load, NvmlError> {
        let handle = self.handle(index)?;
        let memory = self.memory(index)?;
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
            busy_percent: self.supported(
                "nvmlDeviceGetUtilizationRates",
                codes[0],
                utilization.gpu,
            )?,
            ecc_uncorrected: self.supported("nvmlDeviceGetTotalEccErrors", codes[1], errors)?,
        })
    }

    fn memory(&self, index: u32) -> Result<Memory, NvmlError> {
        let handle = self.handle(index)?;
        let mut memory = Memory::default();
        // SAFETY: a live handle and a place for the answer.
        let code = unsafe { (self.call.memory)(handle, &mut memory) };
        self.check("nvmlDeviceGetMemoryInfo", code)?;
        Ok(memory)
    }

    fn supported<T>(
        &self,
        call: &'static str,
        code: c_int,
        value: T,
    ) -> Result<Option<T>, NvmlError> {
        match code {
            NOT_SUPPORTED => Ok(None),
            code => self.check(call, code).map(|()| Some(value)),
        }
    }
}
