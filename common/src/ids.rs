//! Typed names and numbers: nothing in Diptych passes a bare string or integer where one of these is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is not a valid name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a valid {what}: use 1 to 63 lower-case letters, digits and '-', starting with a letter or digit and not ending with '-'"
)]
pub struct NameError {
    /// The kind of name, e.g. `job name`.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

fn check_name(what: &'static str, text: &str) -> Result<(), NameError> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ok = (1..=63).contains(&text.len())
        && text.chars().all(legal)
        && text.starts_with(ends)
        && text.ends_with(ends);
    if ok {
        Ok(())
    } else {
        Err(NameError {
            what,
            text: text.to_owned(),
        })
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check_name($what, text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// A job, unique in one coordinator: the spec's `name` and a short suffix that the coordinator adds.
    JobId, "job id"
);
name_type!(
    /// A phase, unique in its job.
    PhaseName, "phase name"
);
name_type!(
    /// A worker (agent), stable over restarts of its process.
    WorkerId, "worker id"
);
name_type!(
    /// A key of the spec's `data` map.
    DataName, "data name"
);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $repr:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name($repr);

        impl $name {
            /// Wraps a number.
            pub const fn new(value: $repr) -> Self {
                Self(value)
            }

            /// The bare number, for arithmetic and the wire.
            pub const fn get(self) -> $repr {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_type!(
    /// Position of a phase in its job's spec, from 0. Part of object keys and of every random stream.
    PhaseIndex, u32
);
number_type!(
    /// One placement of a phase on a gang. Issued by the coordinator, only ever grows within a job, and fences
    /// every message, object key and data-plane handshake. 0 is never issued.
    Attempt, u64
);
number_type!(
    /// Index of a device in its gang, `0..world`.
    Rank, u32
);
number_type!(
    /// Number of optimiser steps committed; the sample cursor follows from it.
    Step, u64
);

impl Attempt {
    /// The attempt that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Step {
    /// The step that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_dns_labels() {
        for good in ["a", "digits-0", "7", "a-b-c"] {
            assert!(good.parse::<JobId>().is_ok(), "{good}");
        }
        for bad in ["", "A", "a_b", "-a", "a-", "../x", &"a".repeat(64)] {
            assert!(bad.parse::<JobId>().is_err(), "{bad}");
        }
    }
}
