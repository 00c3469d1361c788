//! The CUDA driver: whether there is one, and what it says for itself. Makes no context and takes no device memory.

use std::ffi::{CStr, c_char, c_int, c_uint};

use super::library::{Library, LibraryError, Visibility, functions};

const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];

functions! {
    /// The driver's functions.
    #[derive(Debug)]
    struct Functions {
        init: unsafe extern "C" fn(c_uint) -> c_int = "cuInit",
        version: unsafe extern "C" fn(*mut c_int) -> c_int = "cuDriverGetVersion",
        count: unsafe extern "C" fn(*mut c_int) -> c_int = "cuDeviceGetCount",
        error_name: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int = "cuGetErrorName",
        error_text: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int = "cuGetErrorString",
    }
}

/// A driver that answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The newest CUDA that it supports, e.g. 13.0.
    pub cuda: CudaVersion,
    /// Devices that this process may use: `CUDA_VISIBLE_DEVICES` counts.
    pub devices: u32,
}

/// A version of CUDA.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CudaVersion {
    /// The first number.
    pub major: u32,
    /// The second.
    pub minor: u32,
}

/// Why the driver cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// It is not installed, or not mapped into this container.
    #[error(transparent)]
    Library(#[from] LibraryError),
    /// It refused a call.
    #[error("{call}: {name} ({text})")]
    Call {
        /// The function.
        call: &'static str,
        /// The error's name, e.g. `CUDA_ERROR_NO_DEVICE`.
        name: String,
        /// The driver's words.
        text: String,
    },
}

/// Asks the driver.
///
/// # Errors
/// [`DriverError`] with the linker's or the driver's words.
pub fn ask() -> Result<Driver, DriverError> {
    ask_one_of(&NAMES)
}

fn ask_one_of(names: &[&str]) -> Result<Driver, DriverError> {
    let library = Library::open(names, Visibility::Local)?;
    // SAFETY: the types of cuda.h, the same since CUDA 6.
    let driver = unsafe { Functions::load(&library) }?;
    let (mut version, mut devices) = (0, 0);
    // SAFETY: plain numbers and places for them.
    unsafe {
        driver.check("cuInit", (driver.init)(0))?;
        driver.check("cuDriverGetVersion", (driver.version)(&mut version))?;
        driver.check("cuDeviceGetCount", (driver.count)(&mut devices))?;
    }
    Ok(Driver {
        cuda: CudaVersion::of(version),
        devices: u32::try_from(devices).unwrap_or(0),
    })
}

// === impl Functions ===

impl Functions {
    fn check(&self, call: &'static str, code: c_int) -> Result<(), DriverError> {
        if code == 0 {
            return Ok(());
        }
        let words = |function: unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int| {
            let mut text = std::ptr::null();
            // SAFETY: a place for a pointer to a text that the driver keeps for ever, or null for an unknown code.
            unsafe { function(code, &mut text) };
            if text.is_null() {
                return format!("error {code}");
            }
            // SAFETY: not null, so a NUL-terminated text.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        Err(DriverError::Call {
            call,
            name: words(self.error_name),
            text: words(self.error_text),
        })
    }
}

// === impl CudaVersion ===

impl CudaVersion {
    /// From the driver's form, 1000 · major + 10 · minor.
    pub(crate) fn of(number: c_int) -> Self {
        let number = u32::try_from(number).unwrap_or(0);
        Self {
            major: number / 1000,
            minor: number % 1000 / 10,
        }
    }
}

impl std::fmt::Display for CudaVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake;

    #[test]
    fn a_driver_without_devices_is_told_in_its_own_words() {
        let library = fake::library("cuda", &["-DINIT=100"]);
        let error = ask_one_of(&[&library]).expect_err("it finds no device");
        assert_eq!(
            error.to_string(),
            "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected)"
        );
    }

    #[test]
    fn a_driver_says_its_cuda_and_its_devices() {
        let library = fake::library("cuda", &["-DINIT=0"]);
        let driver = ask_one_of(&[&library]).expect("it works");
        assert_eq!(
            (driver.cuda.to_string().as_str(), driver.devices),
            ("13.1", 2)
        );
    }

    #[test]
    fn no_driver_is_told_in_the_linkers_words() {
        let error = ask_one_of(&["libcuda-of-nobody.so.1"]).expect_err("there is none");
        assert_eq!(
            error.to_string(),
            "libcuda-of-nobody.so.1: cannot open shared object file: No such file or directory"
        );
    }
}
