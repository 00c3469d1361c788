use std::ffi::c_ulonglong;
use std::fmt;
use std::time::Duration;

use super::functions::{EventData, EventSet, Handle, NOT_SUPPORTED, TIMEOUT};
use super::{Nvml, NvmlError};

/// Something that went wrong with a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The device.
    pub gpu: u32,
    /// What.
    pub kind: FaultKind,
}

/// What goes wrong with devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The driver's error report of this number: 79 is a device that fell off the bus, 48 and 95 are lost memory
    /// contents, 31 and 43 are most often a program's own.
    Xid(u64),
    /// ECC found an error that it could not correct.
    Ecc,
}

/// Listens to the faults of all devices that report them.
#[derive(Debug)]
pub struct Faults<'a> {
    nvml: &'a Nvml,
    set: EventSet,
    handles: Vec<Handle>,
    /// Devices that are listened to.
    heard: u32,
}

/// `nvmlEventTypeDoubleBitEccError` and `nvmlEventTypeXidCriticalError`.
const ECC: c_ulonglong = 2;
const XID: c_ulonglong = 8;

// === impl Nvml ===

impl Nvml {
    /// Starts to listen; what happened before is not told.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn faults(&self) -> Result<Faults<'_>, NvmlError> {
        let mut set = std::ptr::null_mut();
        // SAFETY: a place for the set, which is freed once, in `drop`.
        let code = unsafe { (self.call.events_create)(&mut set) };
        self.check("nvmlEventSetCreate", code)?;
        let mut faults = Faults {
            nvml: self,
            set,
            handles: Vec::new(),
            heard: 0,
        };
        for index in 0..self.count()? {
            let handle = self.handle(index)?;
            faults.handles.push(handle);
            // SAFETY: a live device and a live set.
            match unsafe { (self.call.events_register)(handle, ECC | XID, set) } {
                NOT_SUPPORTED => {}
                code => {
                    self.check("nvmlDeviceRegisterEvents", code)?;
                    faults.heard += 1;
                }
            }
        }
        Ok(faults)
    }
}

// === impl Faults ===

impl Faults<'_> {
    /// How many devices report faults.
    pub fn devices(&self) -> u32 {
        self.heard
    }

    /// The next fault; `None` if there was none in this time.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn wait(&self, longest: Duration) -> Result<Option<Fault>, NvmlError> {
        let millis = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
        let mut data = EventData::none();
        // SAFETY: a live set and a place for the event.
        let code = unsafe { (self.nvml.call.events_wait)(self.set, &mut data, millis) };
        if code == TIMEOUT {
            return Ok(None);
        }
        self.nvml.check("nvmlEventSetWait", code)?;
        let gpu = self
            .handles
            .iter()
            .position(|&handle| handle == data.device);
        let kind = match data.kind {
            XID => FaultKind::Xid(data.data),
            _ => FaultKind::Ecc,
        };
        Ok(gpu.map(|gpu| Fault {
            gpu: gpu as u32,
            kind,
        }))
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        // SAFETY: made in `faults`, freed once.
        unsafe { (self.nvml.call.events_free)(self.set) };
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::Xid(number) => write!(f, "GPU {}: Xid {number}", self.gpu),
            FaultKind::Ecc => write!(f, "GPU {}: uncorrectable memory error (ECC)", self.gpu),
        }
    }
}
