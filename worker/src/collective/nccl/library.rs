use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr;
use std::sync::{Arc, OnceLock};

use crate::device::{Library, LibraryError, Visibility, functions};

/// The Python package and the images hold only the first; distributions' development packages add the second.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// Bytes of a unique id.
pub(super) const ID_BYTES: usize = 128;

/// Non-blocking communicators can be relied upon, and aborted from another thread, from here on.
const OLDEST: Version = Version::new(2, 26, 0);
/// From the first to the last of these, releases are unfit for use.
const BROKEN: (Version, Version) = (Version::new(2, 28, 3), Version::new(2, 28, 8));

/// `ncclComm_t`.
pub(super) type Comm = *mut c_void;
/// `cudaStream_t`.
pub(super) type RawStream = *mut c_void;

/// `ncclUniqueId`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct RawId(pub(super) [u8; ID_BYTES]);

/// `ncclConfig_t` as of 2.26, which every later version reads.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    blocking: c_int,
    cga_cluster_size: c_int,
    min_ctas: c_int,
    max_ctas: c_int,
    net_name: *const c_char,
    split_share: c_int,
    traffic_class: c_int,
}

functions! {
    /// What every version has.
    struct Versions {
        version: unsafe extern "C" fn(*mut c_int) -> c_int = "ncclGetVersion",
    }
}

functions! {
    /// The functions that this backend uses.
    #[derive(Debug)]
    pub(super) struct Functions {
        error: unsafe extern "C" fn(c_int) -> *const c_char = "ncclGetErrorString",
        last_error: unsafe extern "C" fn(Comm) -> *const c_char = "ncclGetLastError",
        unique_id: unsafe extern "C" fn(*mut RawId) -> c_int = "ncclGetUniqueId",
        init: unsafe extern "C" fn(*mut Comm, c_int, RawId, c_int, *mut Config) -> c_int = "ncclCommInitRankConfig",
        async_error: unsafe extern "C" fn(Comm, *mut c_int) -> c_int = "ncclCommGetAsyncError",
        abort: unsafe extern "C" fn(Comm) -> c_int = "ncclCommAbort",
        finalize: unsafe extern "C" fn(Comm) -> c_int = "ncclCommFinalize",
        destroy: unsafe extern "C" fn(Comm) -> c_int = "ncclCommDestroy",
        group_start: unsafe extern "C" fn() -> c_int = "ncclGroupStart",
        group_end: unsafe extern "C" fn() -> c_int = "ncclGroupEnd",
        all_reduce: unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream
        ) -> c_int = "ncclAllReduce",
        all_gather: unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_int, Comm, RawStream
        ) -> c_int = "ncclAllGather",
        broadcast: unsafe extern "C" fn(
            *const c_void, *mut c_void, usize, c_int, c_int, Comm, RawStream
        ) -> c_int = "ncclBroadcast",
    }
}

/// NCCL, loaded and of a version that is known to work.
#[derive(Debug)]
pub struct Nccl {
    pub(super) call: Functions,
    version: Version,
    name: String,
}

/// A version of NCCL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Why NCCL cannot be used, or gave up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NcclError {
    /// It is not there, or not whole.
    #[error(
        "NCCL cannot be loaded: {0}. It comes with the worker image for CUDA and with the package nvidia-nccl-cu13; \
         LD_LIBRARY_PATH must name its folder"
    )]
    Library(#[from] LibraryError),
    /// A version that does not do what is needed.
    #[error("{name} is NCCL {found}: {wanted} is needed, and {} to {} are broken", BROKEN.0, BROKEN.1)]
    Version {
        /// The library.
        name: String,
        /// Its version.
        found: Version,
        /// What is needed.
        wanted: &'static str,
    },
    /// A call failed, at once or later.
    #[error("{call}: {text}{}", detail(.last))]
    Call {
        /// The function.
        call: &'static str,
        /// Its code.
        code: i32,
        /// NCCL's words for the code.
        text: String,
        /// NCCL's last message, if it has one.
        last: String,
    },
    /// The bytes that rank 0 sent are no id.
    #[error("the id of the communicators has {0} bytes, not {expected}", expected = super::id::BYTES)]
    Id(usize),
    /// libtorch failed around a call.
    #[error("libtorch: {0}")]
    Torch(String),
}

/// NCCL's codes that are no failure.
pub(super) const SUCCESS: c_int = 0;
pub(super) const IN_PROGRESS: c_int = 7;

// === impl Nccl ===

impl Nccl {
    /// Finds NCCL; later calls return the first one's answer. Once libtorch's CUDA half is loaded it is the copy that
    /// libtorch uses.
    ///
    /// # Errors
    /// [`NcclError`] with the linker's words, or the version.
    pub fn open() -> Result<Arc<Self>, NcclError> {
        static NCCL: OnceLock<Result<Arc<Nccl>, NcclError>> = OnceLock::new();
        NCCL.get_or_init(|| Self::open_one_of(&NAMES).map(Arc::new))
            .clone()
    }

    pub(super) fn open_one_of(names: &[&str]) -> Result<Self, NcclError> {
        let library = Library::open(names, Visibility::Local)?;
        // SAFETY: its type in nccl.h, ever since.
        let versions = unsafe { Versions::load(&library) }?;
        let mut code = 0;
        // SAFETY: a place for a number.
        let failed = unsafe { (versions.version)(&mut code) };
        let version = Version::of(code);
        if failed != SUCCESS || !version.works() {
            return Err(NcclError::Version {
                name: library.name().to_owned(),
                found: version,
                wanted: "2.26 or newer",
            });
        }
        // SAFETY: the types of nccl.h of every version that works.
        let call = unsafe { Functions::load(&library) }?;
        Ok(Self {
            call,
            version,
            name: library.name().to_owned(),
        })
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The name that it was loaded by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The error of a failed call; `comm` is null where there is none.
    pub(super) fn error(&self, call: &'static str, code: c_int, comm: Comm) -> NcclError {
        let words = |text: *const c_char| {
            if text.is_null() {
                return String::new();
            }
            // SAFETY: not null, so one of NCCL's NUL-terminated texts, which stay.
            let text = unsafe { CStr::from_ptr(text) };
            text.to_string_lossy().trim().to_owned()
        };
        // SAFETY: any number; a live communicator or null.
        let (text, last) = unsafe { ((self.call.error)(code), (self.call.last_error)(comm)) };
        NcclError::Call {
            call,
            code,
            text: words(text),
            last: words(last),
        }
    }
}

// === impl Version ===

impl Version {
    const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// From NCCL's form: 10000 · major + 100 · minor + patch, with 1000 up to 2.8.
    fn of(code: c_int) -> Self {
        let code = u32::try_from(code).unwrap_or(0);
        let unit = if code < 10_000 { 1000 } else { 10_000 };
        Self::new(code / unit, code % unit / 100, code % 100)
    }

    fn works(self) -> bool {
        self >= OLDEST && !(BROKEN.0..=BROKEN.1).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

// === impl Config ===

impl Config {
    /// Everything as NCCL chooses, but no call waits.
    pub(super) fn without_waiting() -> Self {
        /// `NCCL_CONFIG_UNDEF_INT`.
        const CHOOSE: c_int = c_int::MIN;
        Self {
            size: size_of::<Self>(),
            magic: 0xcafe_beef,
            version: 22_600,
            blocking: 0,
            cga_cluster_size: CHOOSE,
            min_ctas: CHOOSE,
            max_ctas: CHOOSE,
            net_name: ptr::null(),
            split_share: CHOOSE,
            traffic_class: CHOOSE,
        }
    }
}

fn detail(last: &str) -> String {
    if last.is_empty() {
        String::new()
    } else {
        format!(" ({last})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fake;

    #[test]
    fn versions_are_read_in_both_of_nccls_forms() {
        for (code, text, works) in [
            (2_708, "2.7.8", false),
            (22_506, "2.25.6", false),
            (22_602, "2.26.2", true),
            (22_802, "2.28.2", true),
            (22_803, "2.28.3", false),
            (22_808, "2.28.8", false),
            (22_809, "2.28.9", true),
            (23_001, "2.30.1", true),
        ] {
            let version = Version::of(code);
            assert_eq!(
                (version.to_string().as_str(), version.works()),
                (text, works)
            );
        }
    }

    #[test]
    fn a_missing_library_is_told_in_the_linkers_words() {
        let names = ["libnccl-of-nobody.so.2", "libnccl-of-nobody.so"];
        let text = Nccl::open_one_of(&names)
            .expect_err("there is none")
            .to_string();
        for name in names {
            let verbatim =
                format!("{name}: cannot open shared object file: No such file or directory");
            assert!(text.contains(&verbatim), "{text}");
        }
        assert!(text.contains("nvidia-nccl-cu13"), "{text}");
    }

    #[test]
    fn an_old_or_broken_library_is_refused_by_its_version() {
        for (code, found) in [("22104", "2.21.4"), ("22805", "2.28.5")] {
            let library = fake::library("nccl", &["-DOLD", &format!("-DVERSION={code}")]);
            let error = Nccl::open_one_of(&[&library]).expect_err("it does not do");
            assert!(matches!(error, NcclError::Version { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains(&format!("is NCCL {found}: 2.26 or newer is needed")),
                "{text}"
            );
            assert!(text.contains("2.28.3 to 2.28.8 are broken"), "{text}");
        }
    }

    #[test]
    fn every_missing_function_is_named() {
        let library = fake::library("nccl", &["-DOLD"]);
        match Nccl::open_one_of(&[&library]).expect_err("it is not whole") {
            NcclError::Library(LibraryError::Incomplete { symbols, .. }) => {
                assert_eq!(symbols, ["ncclCommInitRankConfig", "ncclCommFinalize"]);
            }
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_configuration_has_nccls_size() {
        assert_eq!(size_of::<Config>(), 48);
    }

    #[test]
    #[ignore = "needs libnccl.so.2 on LD_LIBRARY_PATH"]
    fn the_real_library_loads_and_has_a_version_that_works() {
        let nccl = Nccl::open().expect("NCCL");
        assert!(nccl.version().works());
    }
}
