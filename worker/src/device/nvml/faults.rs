use std::collections::VecDeque;
use std::ffi::c_ulonglong;
use std::fmt;
use std::thread;
use std::time::Duration;

use super::functions::{EventData, EventSet, GPU_IS_LOST, Handle, NOT_SUPPORTED, TIMEOUT};
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
    /// The device does not answer any more, whether or not there was an Xid 79 of it.
    Lost,
}

/// Listens to the faults of all devices that report them.
#[derive(Debug)]
pub struct Faults<'a> {
    nvml: &'a Nvml,
    /// `None` after a device was lost: a set that holds a lost device tells nothing of the others.
    set: Option<EventSet>,
    /// Devices that are listened to, with their numbers.
    heard: Vec<(u32, Handle)>,
    /// Faults that were found otherwise than by an event.
    untold: VecDeque<Fault>,
}

/// `nvmlEventTypeDoubleBitEccError` and `nvmlEventTypeXidCriticalError`.
const ECC: c_ulonglong = 2;
const XID: c_ulonglong = 8;

// === impl Nvml ===

impl Nvml {
    /// Starts to listen; what happened before is not told, but for devices that are lost already. A device that refuses
    /// keeps nobody from listening to the others.
    ///
    /// # Errors
    /// [`NvmlError::Call`] where the library does not count the devices, or makes no set of events.
    pub fn faults(&self) -> Result<Faults<'_>, NvmlError> {
        let mut faults = Faults {
            nvml: self,
            set: None,
            heard: Vec::new(),
            untold: VecDeque::new(),
        };
        for index in 0..self.count()? {
            match self.handle(index) {
                Ok(handle) => faults.heard.push((index, handle)),
                Err(error) => faults.leave_out(index, &error),
            }
        }
        faults.register()?;
        Ok(faults)
    }

    /// Adds a device to a set; `false` where it reports no faults.
    fn register(&self, handle: Handle, set: EventSet) -> Result<bool, NvmlError> {
        // A device may report Xids, and no ECC errors; asked for both, it refuses both.
        for kinds in [ECC | XID, XID] {
            // SAFETY: a live device and a live set.
            match unsafe { (self.call.events_register)(handle, kinds, set) } {
                NOT_SUPPORTED => {}
                code => {
                    self.check("nvmlDeviceRegisterEvents", code)?;
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

// === impl Faults ===

impl Faults<'_> {
    /// How many devices report faults. Nothing is heard any more where there is none.
    pub fn devices(&self) -> u32 {
        self.heard.len() as u32
    }

    /// The next fault; `None` if there was none in this time, or no device is left to report one.
    ///
    /// # Errors
    /// [`NvmlError::Call`]; not for a lost device, which is a fault.
    pub fn wait(&mut self, longest: Duration) -> Result<Option<Fault>, NvmlError> {
        if self.set.is_none() && self.untold.is_empty() {
            self.register()?;
        }
        if let Some(fault) = self.untold.pop_front() {
            return Ok(Some(fault));
        }
        let Some(set) = self.set.filter(|_| !self.heard.is_empty()) else {
            return Ok(None);
        };
        let millis = u32::try_from(longest.as_millis()).unwrap_or(u32::MAX);
        let mut data = EventData::none();
        // SAFETY: a live set and a place for the event.
        match unsafe { (self.nvml.call.events_wait)(set, &mut data, millis) } {
            TIMEOUT => Ok(None),
            GPU_IS_LOST => {
                self.part_with_lost();
                let fault = self.untold.pop_front();
                if fault.is_none() {
                    // No device admits to it: asked again at once, the library would say the same again.
                    thread::sleep(longest);
                }
                Ok(fault)
            }
            code => {
                self.nvml.check("nvmlEventSetWait", code)?;
                Ok(self.fault(&data))
            }
        }
    }

    fn fault(&self, event: &EventData) -> Option<Fault> {
        let (gpu, _) = self
            .heard
            .iter()
            .find(|(_, handle)| *handle == event.device)?;
        let kind = match event.kind {
            XID => FaultKind::Xid(event.data),
            _ => FaultKind::Ecc,
        };
        Some(Fault { gpu: *gpu, kind })
    }

    /// Registers all devices that are listened to with a new set, and listens no more to those that refuse.
    fn register(&mut self) -> Result<(), NvmlError> {
        let mut set = std::ptr::null_mut();
        // SAFETY: a place for the set, which is freed once, in `free`.
        let code = unsafe { (self.nvml.call.events_create)(&mut set) };
        self.nvml.check("nvmlEventSetCreate", code)?;
        self.set = Some(set);
        for (gpu, handle) in std::mem::take(&mut self.heard) {
            match self.nvml.register(handle, set) {
                Ok(true) => self.heard.push((gpu, handle)),
                Ok(false) => {}
                Err(error) => self.leave_out(gpu, &error),
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, gpu: u32, error: &NvmlError) {
        if error.is_lost() {
            let kind = FaultKind::Lost;
            self.untold.push_back(Fault { gpu, kind });
        } else {
            tracing::warn!(gpu, %error, "faults of this GPU are not told");
        }
    }

    /// Asks every device whether it is lost, and gives up the set that holds those that are.
    fn part_with_lost(&mut self) {
        self.free();
        for (gpu, handle) in std::mem::take(&mut self.heard) {
            match self.nvml.memory(handle) {
                Err(error) if error.is_lost() => self.leave_out(gpu, &error),
                Ok(_) | Err(_) => self.heard.push((gpu, handle)),
            }
        }
    }

    fn free(&mut self) {
        if let Some(set) = self.set.take() {
            // SAFETY: made in `register`, and nobody has it any more.
            unsafe { (self.nvml.call.events_free)(set) };
        }
    }
}

impl Drop for Faults<'_> {
    fn drop(&mut self) {
        self.free();
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FaultKind::Xid(number) => write!(f, "GPU {}: Xid {number}", self.gpu),
            FaultKind::Ecc => write!(f, "GPU {}: uncorrectable memory error (ECC)", self.gpu),
            FaultKind::Lost => write!(f, "GPU {}: lost", self.gpu),
        }
    }
}
