//! Draft to valid: every error at once, each with the path of its field.

mod check; // paths and collected errors
mod data; // data sets and URLs
mod network; // encoder, head
mod augment; // views
mod optim; // optimiser and length
mod gang; // devices, lanes, groups
mod labels; // which labels
mod layers; // which layers classifiers read
mod kind; // what a phase trains
mod judge; // early stop, and which checkpoint is the result
mod phase; // one phase
mod room; // memory limits
mod job; // all of it

use std::fmt;

/// One thing that is wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where, e.g. `phases[2].labels.share`; empty for the document as a whole.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything that is wrong with a spec; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct SpecErrors(pub Vec<FieldError>);

impl FieldError {
    /// One error.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
        }
    }

    /// Whether this error is about the field at `path` or one inside it.
    pub fn is_within(&self, path: &str) -> bool {
        self.path
            .strip_prefix(path)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

impl From<FieldError> for SpecErrors {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.message)
        } else {
            write!(f, "{}: {}", self.path, self.message)
        }
    }
}

impl fmt::Display for SpecErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (line, error) in self.0.iter().enumerate() {
            if line > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}
