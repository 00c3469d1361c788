//! Names, digests and fields that must be there.

use std::fmt::Display;
use std::str::FromStr;

use diptych_common::error::{Coded, ServiceCode};

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Its name.
        field: &'static str,
    },
    /// A field holds something impossible.
    #[error("{field}: {reason}")]
    Invalid {
        /// Its name.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Coded for WireError {
    fn code(&self) -> ServiceCode {
        ServiceCode::InvalidArgument
    }
}

/// A field that must be there.
///
/// # Errors
/// [`WireError::Missing`].
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, WireError> {
    value.ok_or(WireError::Missing { field })
}

/// A text that must be a name, a digest or another parsed type.
///
/// # Errors
/// [`WireError::Missing`] for an empty text, [`WireError::Invalid`] for a malformed one.
pub fn name<T>(field: &'static str, text: &str) -> Result<T, WireError>
where
    T: FromStr,
    T::Err: Display,
{
    if text.is_empty() {
        return Err(WireError::Missing { field });
    }
    text.parse().map_err(|error: T::Err| WireError::Invalid {
        field,
        reason: error.to_string(),
    })
}
