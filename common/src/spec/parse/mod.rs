//! YAML text to draft: syntax, then structure (unknown fields, wrong types, missing fields), all at once.

mod structure; // a document against the schema

use serde::Deserialize as _;
use serde_norway::Value;

use super::{FieldError, JobDraft, JobSpec, SpecErrors, overrides, variables};

impl JobDraft {
    /// Reads a spec's text.
    ///
    /// # Errors
    /// Everything that is wrong with its form; and then also what is wrong with the fields that can be read, so that
    /// nothing is left for a second round.
    pub fn from_yaml(text: &str) -> Result<Self, SpecErrors> {
        Self::from_value(document(text)?)
    }

    /// Reads a document.
    ///
    /// # Errors
    /// As [`from_yaml`](Self::from_yaml).
    pub fn from_value(value: Value) -> Result<Self, SpecErrors> {
        read(value, Vec::new())
    }
}

/// Parses YAML, with anchors, aliases and merge keys (`<<: *name`) resolved.
///
/// # Errors
/// Where the text is not YAML; at most one error, with line and column.
pub fn document(text: &str) -> Result<Value, SpecErrors> {
    let not_yaml = |error: serde_norway::Error| {
        FieldError::new("", format!("the text is not valid YAML: {error}"))
    };
    let mut value =
        Value::deserialize(serde_norway::Deserializer::from_str(text)).map_err(not_yaml)?;
    value.apply_merge().map_err(not_yaml)?;
    Ok(value)
}

/// The whole way that a command goes: text, then `path=value` overrides, then `${VAR}` from `lookup`, then the draft.
///
/// # Errors
/// Everything that is wrong.
pub fn load(
    text: &str,
    sets: &[String],
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<JobDraft, SpecErrors> {
    let mut value = document(text)?;
    let mut errors: Vec<FieldError> = sets
        .iter()
        .filter_map(|set| overrides::apply(&mut value, set).err())
        .collect();
    if let Err(SpecErrors(unset)) = variables::expand(&mut value, lookup) {
        errors.extend(unset);
    }
    read(value, errors)
}

fn read(mut value: Value, mut errors: Vec<FieldError>) -> Result<JobDraft, SpecErrors> {
    errors.extend(structure::prune(&mut value));
    let draft = serde_norway::from_value::<JobDraft>(value);
    match draft {
        Ok(draft) if errors.is_empty() => Ok(draft),
        Ok(draft) => {
            if let Err(SpecErrors(more)) = JobSpec::try_from(draft) {
                let form = errors.len();
                let news = |error: &FieldError| {
                    !errors[..form]
                        .iter()
                        .any(|known| error.is_within(&known.path))
                };
                let more: Vec<FieldError> = more.into_iter().filter(news).collect();
                errors.extend(more);
            }
            Err(SpecErrors(errors))
        }
        Err(_) if !errors.is_empty() => Err(SpecErrors(errors)),
        Err(error) => Err(FieldError::new("", error.to_string()).into()),
    }
}
