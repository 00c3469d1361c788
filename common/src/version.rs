//! Which versions of the programs work together: one minor version apart at most, so that a cluster can be upgraded, and
//! rolled back, one process after the other.

use std::fmt;
use std::str::FromStr;

/// A released version; what follows the numbers (`-rc.1`, `+commit`) does not matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u64,
    minor: u64,
    patch: u64,
}

/// A text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a version such as 0.1.0")]
pub struct VersionError(String);

/// Two programs that are too far apart.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{who} is of version {theirs} and this coordinator of {ours}: they may be one minor version apart, no more. {}",
    advice(who, *theirs, *ours)
)]
pub struct TooFarApart {
    /// The one that calls, e.g. `worker w1`.
    pub who: String,
    /// Its version.
    pub theirs: Version,
    /// The coordinator's.
    pub ours: Version,
}

impl Version {
    /// Of this build.
    pub fn own() -> Self {
        // Cargo makes sure of three numbers.
        env!("CARGO_PKG_VERSION").parse().unwrap_or(Self {
            major: 0,
            minor: 0,
            patch: 0,
        })
    }

    /// Whether a coordinator of this version works with `who` of another.
    ///
    /// # Errors
    /// They are more than one minor version apart: names both, and which to upgrade.
    pub fn meets(self, who: impl Into<String>, theirs: Self) -> Result<(), TooFarApart> {
        if self.major == theirs.major && self.minor.abs_diff(theirs.minor) <= 1 {
            return Ok(());
        }
        Err(TooFarApart {
            who: who.into(),
            theirs,
            ours: self,
        })
    }
}

fn advice(who: &str, theirs: Version, ours: Version) -> String {
    let (older, target) = if theirs < ours {
        (who, ours)
    } else {
        ("the coordinator", theirs)
    };
    format!("Upgrade {older} to {}.{}", target.major, target.minor)
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let numbers = text.split(['-', '+']).next().unwrap_or_default();
        let mut parts = numbers.split('.').map(str::parse::<u64>);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor)), Some(Ok(patch)), None) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(VersionError(text.to_owned())),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_minor_version_apart_works_in_both_directions() {
        for (ours, theirs, works) in [
            ("0.1.0", "0.1.7", true),
            ("0.1.0", "0.2.0", true),
            ("0.2.3", "0.1.0", true),
            ("0.1.0", "0.0.9", true),
            ("0.3.0", "0.1.9", false),
            ("0.1.9", "0.3.0", false),
            ("1.0.0", "0.9.0", false),
            ("0.9.0", "1.0.0", false),
            ("1.4.2", "1.5.0-rc.1+abc", true),
            ("1.4.2-dev", "1.6.0", false),
        ] {
            let (ours, theirs): (Version, Version) =
                (ours.parse().unwrap(), theirs.parse().unwrap());
            assert_eq!(ours.meets("x", theirs).is_ok(), works, "{ours} {theirs}");
        }
    }

    #[test]
    fn a_refusal_says_which_of_the_two_to_upgrade() {
        let refused = |ours: &str, theirs: &str| {
            let ours: Version = ours.parse().unwrap();
            let refused = ours.meets("worker w1", theirs.parse().unwrap());
            refused.unwrap_err().to_string()
        };
        assert_eq!(
            refused("0.3.1", "0.1.0"),
            "worker w1 is of version 0.1.0 and this coordinator of 0.3.1: they may be one minor version apart, no more. \
             Upgrade worker w1 to 0.3"
        );
        let older = refused("0.1.0", "0.3.1");
        assert!(older.ends_with("Upgrade the coordinator to 0.3"), "{older}");
    }

    #[test]
    fn what_is_no_version_is_refused() {
        for text in ["", "1", "1.2", "1.2.3.4", "a.b.c", "-1.0.0"] {
            assert!(text.parse::<Version>().is_err(), "{text:?}");
        }
        assert_eq!(Version::own().to_string(), env!("CARGO_PKG_VERSION"));
    }
}
