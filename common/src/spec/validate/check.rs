//! Collects errors while a draft is walked; a bad field yields a stand-in, so that the walk goes on.

use std::fmt;

use super::super::suggest;
use super::{FieldError, SpecErrors};

/// The path of a field.
#[derive(Debug, Clone, Default)]
pub(super) struct At(String);

/// Errors so far.
#[derive(Debug, Default)]
pub(super) struct Check {
    errors: Vec<FieldError>,
}

impl At {
    pub(super) fn root() -> Self {
        Self::default()
    }

    pub(super) fn field(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Self(name.to_owned())
        } else {
            Self(format!("{}.{name}", self.0))
        }
    }

    pub(super) fn item(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Check {
    /// Refuses, once: what all phases share is looked at with each of them.
    pub(super) fn refuse(&mut self, at: &At, message: impl Into<String>) {
        let error = FieldError::new(at.0.clone(), message);
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// Refuses unless `holds`.
    pub(super) fn require(&mut self, at: &At, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.refuse(at, message());
        }
    }

    pub(super) fn finish(self) -> Result<(), SpecErrors> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(SpecErrors(self.errors))
        }
    }

    /// A real number in `low..=high`; NaN and infinity are in no range.
    pub(super) fn within(&mut self, at: &At, value: f64, low: f64, high: f64) -> f64 {
        self.require(at, (low..=high).contains(&value), || {
            format!("{value} is not between {low} and {high}")
        });
        value
    }

    /// A finite number above 0 and at most `high`.
    pub(super) fn positive(&mut self, at: &At, value: f64, high: f64) -> f64 {
        self.require(at, value > 0.0 && value <= high, || {
            format!("{value} is not above 0 and at most {high}")
        });
        value
    }

    /// A count in `low..=high`.
    pub(super) fn count<N: Into<u64> + Copy>(
        &mut self,
        at: &At,
        value: N,
        low: u64,
        high: u64,
    ) -> N {
        let count: u64 = value.into();
        self.require(at, (low..=high).contains(&count), || {
            if count < low {
                format!("{count} is less than {low}")
            } else {
                format!("{count} is more than {high}")
            }
        });
        value
    }

    /// One of a few words. The first stands in for an unknown one.
    pub(super) fn choice<T: Copy>(&mut self, at: &At, word: &str, options: &[(&str, T)]) -> T {
        self.choice_or(at, word, options).unwrap_or(options[0].1)
    }

    /// One of a few words, or `None` for an unknown one.
    pub(super) fn choice_or<T: Copy>(
        &mut self,
        at: &At,
        word: &str,
        options: &[(&str, T)],
    ) -> Option<T> {
        if let Some((_, value)) = options.iter().find(|(option, _)| *option == word) {
            return Some(*value);
        }
        let words = || options.iter().map(|(option, _)| *option);
        let allowed = words()
            .map(|option| format!("`{option}`"))
            .collect::<Vec<_>>()
            .join(", ");
        let found = if word.is_empty() {
            "is required".to_owned()
        } else {
            format!("`{word}` is unknown")
        };
        self.refuse(
            at,
            format!("{found}: one of {allowed}{}", suggest::hint(word, words())),
        );
        None
    }

    /// A name of one of the types in [`crate::ids`].
    pub(super) fn name<N>(&mut self, at: &At, text: &str) -> Option<N>
    where
        N: std::str::FromStr<Err = crate::ids::NameError>,
    {
        match text.parse() {
            Ok(name) => Some(name),
            Err(_) if text.is_empty() => {
                self.refuse(
                    at,
                    "is required: a name of lower-case letters, digits and '-'",
                );
                None
            }
            Err(error) => {
                self.refuse(at, error.to_string());
                None
            }
        }
    }
}
