use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use crate::device::driver::CudaVersion;
use crate::device::library::{Library, LibraryError, Visibility, functions};

const NAMES: [&str; 2] = ["libnvidia-ml.so.1", "libnvidia-ml.so"];
/// Bytes that hold every text of the library (`NVML_DEVICE_NAME_V2_BUFFER_SIZE`, the longest, is 96).
const TEXT: usize = 128;

/// An opaque device.
pub(super) type Handle = *mut c_void;
/// An opaque set of events.
pub(super) type EventSet = *mut c_void;

/// `nvmlMemory_t`, in bytes.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) total: c_ulonglong,
    pub(super) free: c_ulonglong,
    pub(super) used: c_ulonglong,
}

/// `nvmlUtilization_t`, in percent.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Utilization {
    pub(super) gpu: c_uint,
    pub(super) memory: c_uint,
}

/// `nvmlPciInfo_t`.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct Pci {
    legacy: [c_char; 16],
    pub(super) domain: c_uint,
    pub(super) bus: c_uint,
    pub(super) device: c_uint,
    ids: [c_uint; 2],
    bus_id: [c_char; 32],
}

/// `nvmlEventData_t`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct EventData {
    pub(super) device: Handle,
    pub(super) kind: c_ulonglong,
    pub(super) data: c_ulonglong,
    instances: [c_uint; 2],
}

functions! {
    /// The library's functions, all of driver R450 or older.
    #[derive(Debug)]
    pub(super) struct Functions {
        init: unsafe extern "C" fn() -> c_int = "nvmlInit_v2",
        shutdown: unsafe extern "C" fn() -> c_int = "nvmlShutdown",
        error: unsafe extern "C" fn(c_int) -> *const c_char = "nvmlErrorString",
        driver: unsafe extern "C" fn(*mut c_char, c_uint) -> c_int = "nvmlSystemGetDriverVersion",
        cuda: unsafe extern "C" fn(*mut c_int) -> c_int = "nvmlSystemGetCudaDriverVersion_v2",
        count: unsafe extern "C" fn(*mut c_uint) -> c_int = "nvmlDeviceGetCount_v2",
        handle: unsafe extern "C" fn(c_uint, *mut Handle) -> c_int = "nvmlDeviceGetHandleByIndex_v2",
        name: unsafe extern "C" fn(Handle, *mut c_char, c_uint) -> c_int = "nvmlDeviceGetName",
        uuid: unsafe extern "C" fn(Handle, *mut c_char, c_uint) -> c_int = "nvmlDeviceGetUUID",
        memory: unsafe extern "C" fn(Handle, *mut Memory) -> c_int = "nvmlDeviceGetMemoryInfo",
        utilization: unsafe extern "C" fn(Handle, *mut Utilization) -> c_int = "nvmlDeviceGetUtilizationRates",
        pci: unsafe extern "C" fn(Handle, *mut Pci) -> c_int = "nvmlDeviceGetPciInfo_v3",
        capability: unsafe extern "C" fn(Handle, *mut c_int, *mut c_int) -> c_int = "nvmlDeviceGetCudaComputeCapability",
        ecc: unsafe extern "C" fn(Handle, c_int, c_int, *mut c_ulonglong) -> c_int = "nvmlDeviceGetTotalEccErrors",
        ancestor: unsafe extern "C" fn(Handle, Handle, *mut c_int) -> c_int = "nvmlDeviceGetTopologyCommonAncestor",
        peer: unsafe extern "C" fn(Handle, Handle, c_int, *mut c_int) -> c_int = "nvmlDeviceGetP2PStatus",
        events_create: unsafe extern "C" fn(*mut EventSet) -> c_int = "nvmlEventSetCreate",
        events_register: unsafe extern "C" fn(Handle, c_ulonglong, EventSet) -> c_int = "nvmlDeviceRegisterEvents",
        events_wait: unsafe extern "C" fn(EventSet, *mut EventData, c_uint) -> c_int = "nvmlEventSetWait_v2",
        events_free: unsafe extern "C" fn(EventSet) -> c_int = "nvmlEventSetFree",
    }
}

/// `nvmlDeviceGetMigMode`: the mode now, and after the next reset.
pub(super) type MigMode = unsafe extern "C" fn(Handle, *mut c_uint, *mut c_uint) -> c_int;

/// The open library. The devices of this machine are numbered from 0, in the order of their PCI addresses.
#[derive(Debug)]
pub struct Nvml {
    pub(super) call: Functions,
    /// Old drivers do not know of MIG.
    pub(super) mig_mode: Option<MigMode>,
}

/// Why the library does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NvmlError {
    /// It is not installed, or not mapped into this container.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// It refused a call.
    #[error("{call}: {text}")]
    Call {
        /// The function.
        call: &'static str,
        /// Its code.
        code: i32,
        /// The library's words.
        text: String,
    },
}

/// A device does not have what was asked for (consumer GPUs have no ECC).
pub(super) const NOT_SUPPORTED: c_int = 3;
/// Nothing happened in the time given.
pub(super) const TIMEOUT: c_int = 10;
/// A device fell off the bus, or cannot be reached for another reason.
pub(super) const GPU_IS_LOST: c_int = 15;

// === impl Nvml ===

impl Nvml {
    /// Finds and starts the library.
    ///
    /// # Errors
    /// [`NvmlError`] with the linker's or the library's words.
    pub fn open() -> Result<Self, NvmlError> {
        Self::open_one_of(&NAMES)
    }

    pub(crate) fn open_one_of(names: &[&str]) -> Result<Self, NvmlError> {
        let library = Library::open(names, Visibility::Local)?;
        // SAFETY: the types of nvml.h.
        let call = unsafe { Functions::load(&library) }?;
        // SAFETY: as above.
        let mig_mode = unsafe { library.lookup().find::<MigMode>(c"nvmlDeviceGetMigMode") };
        // SAFETY: takes nothing. Each start is undone by one shutdown, in `drop`.
        let started = unsafe { (call.init)() };
        check(&call, "nvmlInit", started)?;
        Ok(Self { call, mig_mode })
    }

    /// The driver's version, e.g. `580.82.07`.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn driver(&self) -> Result<String, NvmlError> {
        // SAFETY: room and its size.
        self.text("nvmlSystemGetDriverVersion", |room, size| unsafe {
            (self.call.driver)(room, size)
        })
    }

    /// The newest CUDA that the driver supports.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn cuda(&self) -> Result<CudaVersion, NvmlError> {
        let mut number = 0;
        // SAFETY: a place for a number.
        let code = unsafe { (self.call.cuda)(&mut number) };
        self.check("nvmlSystemGetCudaDriverVersion", code)?;
        Ok(CudaVersion::of(number))
    }

    /// How many devices there are.
    ///
    /// # Errors
    /// [`NvmlError::Call`].
    pub fn count(&self) -> Result<u32, NvmlError> {
        let mut count = 0;
        // SAFETY: a place for a number.
        let code = unsafe { (self.call.count)(&mut count) };
        self.check("nvmlDeviceGetCount", code)?;
        Ok(count)
    }

    pub(super) fn handle(&self, index: u32) -> Result<Handle, NvmlError> {
        let mut handle = std::ptr::null_mut();
        // SAFETY: a place for a handle, which stays valid while the library runs.
        let code = unsafe { (self.call.handle)(index, &mut handle) };
        self.check("nvmlDeviceGetHandleByIndex", code)?;
        Ok(handle)
    }

    pub(super) fn text(
        &self,
        call: &'static str,
        fill: impl FnOnce(*mut c_char, c_uint) -> c_int,
    ) -> Result<String, NvmlError> {
        let mut room = [0; TEXT];
        self.check(call, fill(room.as_mut_ptr(), TEXT as c_uint))?;
        Ok(words(&room))
    }

    pub(super) fn check(&self, call: &'static str, code: c_int) -> Result<(), NvmlError> {
        check(&self.call, call, code)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        // SAFETY: started in `open_one_of`; nobody is left to use it.
        unsafe { (self.call.shutdown)() };
    }
}

// === impl NvmlError ===

impl NvmlError {
    /// Whether the device is gone, rather than unwilling to answer.
    pub(super) fn is_lost(&self) -> bool {
        matches!(
            self,
            Self::Call {
                code: GPU_IS_LOST,
                ..
            }
        )
    }
}

// === impl Pci ===

impl Pci {
    /// As the driver and `nvidia-smi` write it.
    pub(super) fn bus_id(&self) -> String {
        words(&self.bus_id)
    }

    /// Where Linux keeps what it knows of the device.
    pub(super) fn sysfs(&self) -> String {
        let Self {
            domain,
            bus,
            device,
            ..
        } = self;
        format!("/sys/bus/pci/devices/{domain:04x}:{bus:02x}:{device:02x}.0")
    }
}

// === impl EventData ===

impl EventData {
    pub(super) fn none() -> Self {
        Self {
            device: std::ptr::null_mut(),
            kind: 0,
            data: 0,
            instances: [0; 2],
        }
    }
}

fn check(functions: &Functions, call: &'static str, code: c_int) -> Result<(), NvmlError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: any number; the text is the library's own and constant.
    let text = unsafe { (functions.error)(code) };
    let text = if text.is_null() {
        format!("error {code}")
    } else {
        // SAFETY: not null, so a NUL-terminated text.
        unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .into_owned()
    };
    Err(NvmlError::Call { call, code, text })
}

/// A text up to its NUL.
fn words(room: &[c_char]) -> String {
    let bytes: Vec<u8> = room
        .iter()
        .take_while(|&&c| c != 0)
        .map(|&c| c as u8)
        .collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
