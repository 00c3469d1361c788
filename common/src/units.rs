//! Quantities that carry their unit, and the texts that people write for them (`30s`, `4GiB`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes; written `512`, `64KiB`, `16MiB`, `4GiB` or `1TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes(u64);

impl Bytes {
    /// Wraps a byte count.
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The byte count.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct UnitError {
    /// What was expected, with an example.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

const SUFFIXES: [(&str, u64); 4] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
];

impl FromStr for Bytes {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError {
            what: "a size such as 64KiB, 16MiB or 4GiB",
            text: text.to_owned(),
        };
        let (digits, scale) = SUFFIXES
            .iter()
            .find_map(|(suffix, scale)| Some((text.strip_suffix(suffix)?, *scale)))
            .unwrap_or((text, 1));
        let count: u64 = digits.trim().parse().map_err(|_| error())?;
        count.checked_mul(scale).map(Self).ok_or_else(error)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SUFFIXES.iter().find(|(_, scale)| self.0 >= *scale) {
            Some((suffix, scale)) => write!(f, "{:.1} {suffix}", self.0 as f64 / *scale as f64),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Reads a duration such as `30s`, `5m` or `1h 30m`.
///
/// # Errors
/// Names the text when it is not a duration.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    humantime::parse_duration(text).map_err(|_| UnitError {
        what: "a duration such as 30s, 5m or 1h",
        text: text.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_parse_and_print() {
        assert_eq!("4GiB".parse(), Ok(Bytes::new(4 << 30)));
        assert_eq!("12".parse(), Ok(Bytes::new(12)));
        assert!("4 GB".parse::<Bytes>().is_err());
        assert!("99999999999TiB".parse::<Bytes>().is_err());
        assert_eq!(Bytes::new(1536).to_string(), "1.5 KiB");
    }
}
