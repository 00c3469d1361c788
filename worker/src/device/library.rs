//! Shared libraries that a machine may or may not have: found at run time, every failure in the linker's own words.

use std::ffi::{CStr, OsStr};
use std::fmt;
use std::mem::ManuallyDrop;

use libloading::os::unix;

/// A loaded library. Never unloaded: CUDA's libraries leave threads and exit handlers behind.
pub(crate) struct Library {
    name: String,
    inner: ManuallyDrop<unix::Library>,
}

/// Who may use a library's symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Only who asks this handle.
    Local,
    /// Every library loaded later.
    Global,
}

/// Why a library cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LibraryError {
    /// None of the names could be loaded.
    #[error("{}", list(.0))]
    NotLoaded(Vec<Tried>),
    /// It is not the library that it is taken for, or another version.
    #[error("{library} lacks {}", symbols.join(", "))]
    Incomplete {
        /// The name that it was loaded by.
        library: String,
        /// Every symbol that was looked for and is not there.
        symbols: Vec<String>,
    },
}

/// One attempt to load a library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The name or path.
    pub name: String,
    /// What the dynamic linker said: it names the library that is really missing.
    pub said: String,
}

/// Looks symbols up, and remembers every one that is missing.
pub(crate) struct Lookup<'a> {
    library: &'a Library,
    missing: Vec<String>,
}

/// A struct of C functions, filled from a [`Library`]; an error names all that are missing.
///
/// ```text
/// functions! {
///     /// What it is.
///     struct Api {
///         get_version: unsafe extern "C" fn(*mut c_int) -> c_int = "ncclGetVersion",
///     }
/// }
/// ```
macro_rules! functions {
    ($(#[$doc:meta])* $visibility:vis struct $name:ident { $($field:ident: $kind:ty = $symbol:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        $visibility struct $name { $(pub(super) $field: $kind,)* }

        impl $name {
            /// # Safety
            /// The library's functions of these names have these types.
            pub(super) unsafe fn load(
                library: &$crate::device::Library,
            ) -> Result<Self, $crate::device::LibraryError> {
                let mut lookup = library.lookup();
                $(
                    // SAFETY: the caller vouches for the type.
                    let $field = unsafe {
                        lookup.find::<$kind>(const {
                            match ::std::ffi::CStr::from_bytes_with_nul(concat!($symbol, "\0").as_bytes()) {
                                Ok(name) => name,
                                Err(_) => panic!("a symbol's name holds no NUL"),
                            }
                        })
                    };
                )*
                match ($($field,)*) {
                    ($(Some($field),)*) => Ok(Self { $($field,)* }),
                    _ => Err(lookup.refuse()),
                }
            }
        }
    };
}
pub(crate) use functions;

// === impl Library ===

impl Library {
    /// Loads the first of `names` that can be. A bare name is searched for as the dynamic linker does (`LD_LIBRARY_PATH`,
    /// this program's run path, the system's); one that is already in the process is used as it is.
    ///
    /// # Errors
    /// [`LibraryError::NotLoaded`] with every name and what the linker said to it.
    pub(crate) fn open<S: AsRef<OsStr>>(
        names: &[S],
        visibility: Visibility,
    ) -> Result<Self, LibraryError> {
        let flags = libc::RTLD_NOW
            | match visibility {
                Visibility::Local => libc::RTLD_LOCAL,
                Visibility::Global => libc::RTLD_GLOBAL,
            };
        let mut tried = Vec::new();
        for name in names {
            let text = name.as_ref().to_string_lossy().into_owned();
            // SAFETY: loading runs the library's initialisers. These are the vendor's libraries, named by this program,
            // and looked for where the machine's owner lets every program look.
            match unsafe { unix::Library::open(Some(name.as_ref()), flags) } {
                Ok(inner) => {
                    return Ok(Self {
                        name: text,
                        inner: ManuallyDrop::new(inner),
                    });
                }
                Err(error) => tried.push(Tried {
                    said: said(&error),
                    name: text,
                }),
            }
        }
        Err(LibraryError::NotLoaded(tried))
    }

    /// The name that it was loaded by.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn lookup(&self) -> Lookup<'_> {
        Lookup {
            library: self,
            missing: Vec::new(),
        }
    }
}

impl fmt::Debug for Library {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Library").field(&self.name).finish()
    }
}

// === impl Lookup ===

impl Lookup<'_> {
    /// The address of a symbol.
    ///
    /// # Safety
    /// `T` is a function pointer of the symbol's type.
    pub(crate) unsafe fn find<T: Copy>(&mut self, name: &CStr) -> Option<T> {
        // SAFETY: the caller vouches for the type; the library stays loaded for ever.
        let found = unsafe { self.library.inner.get::<T>(name.to_bytes_with_nul()) };
        match found {
            Ok(symbol) => Some(*symbol),
            Err(_) => {
                self.missing.push(name.to_string_lossy().into_owned());
                None
            }
        }
    }

    /// The error for all that was not found.
    pub(crate) fn refuse(self) -> LibraryError {
        LibraryError::Incomplete {
            library: self.library.name.clone(),
            symbols: self.missing,
        }
    }
}

/// The linker's words, without the crate's around them.
fn said(error: &libloading::Error) -> String {
    match error {
        libloading::Error::DlOpen { source } => source.to_string(),
        other => other.to_string(),
    }
}

fn list(tried: &[Tried]) -> String {
    let lines = tried.iter().map(|Tried { name, said }| {
        if said.contains(name.as_str()) {
            said.clone()
        } else {
            format!("{name}: {said}")
        }
    });
    lines.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::ffi::{c_double, c_int};

    use super::*;

    functions! {
        /// Of the C library's mathematics.
        struct Mathematics {
            cosine: unsafe extern "C" fn(c_double) -> c_double = "cos",
        }
    }

    functions! {
        /// Not all of it exists.
        struct Wishes {
            cosine: unsafe extern "C" fn(c_double) -> c_double = "cos",
            first: unsafe extern "C" fn() -> c_int = "diptych_no_such_function",
            second: unsafe extern "C" fn() -> c_int = "diptych_nor_this_one",
        }
    }

    #[test]
    fn every_name_that_was_tried_is_told_with_the_linkers_words() {
        let names = ["libdiptych-first.so.1", "/nowhere/libdiptych-second.so"];
        let error = Library::open(&names, Visibility::Local).expect_err("neither exists");
        let text = error.to_string();
        for name in names {
            let verbatim =
                format!("{name}: cannot open shared object file: No such file or directory");
            assert!(text.contains(&verbatim), "{text}");
        }
    }

    #[test]
    fn the_first_name_that_loads_is_used() {
        let library = Library::open(&["libdiptych-none.so", "libm.so.6"], Visibility::Local)
            .expect("every machine has it");
        assert_eq!(library.name(), "libm.so.6");
        // SAFETY: C's `cos`.
        let mathematics = unsafe { Mathematics::load(&library) }.expect("cos is there");
        // SAFETY: takes any number.
        assert_eq!(unsafe { (mathematics.cosine)(0.0) }, 1.0);
    }

    #[test]
    fn all_missing_symbols_are_named_at_once() {
        let library =
            Library::open(&["libm.so.6"], Visibility::Local).expect("every machine has it");
        // SAFETY: C's `cos`; the others do not exist.
        let error = unsafe { Wishes::load(&library) }.map(|wishes| {
            let _all = (wishes.cosine, wishes.first, wishes.second);
        });
        let expected = LibraryError::Incomplete {
            library: "libm.so.6".to_owned(),
            symbols: vec![
                "diptych_no_such_function".to_owned(),
                "diptych_nor_this_one".to_owned(),
            ],
        };
        assert_eq!(error, Err(expected));
    }
}
