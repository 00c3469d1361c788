//! Whether a file holds the network that is asked for, and every difference where it does not.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::checkpoint::Tensors;
use crate::checkpoint::export::head_layer;
use crate::network::{TensorInfo, encoder_tensors, head_tensors};
use crate::spec::{EncoderSpec, HeadSpec, flow};

use super::Form;

/// Every difference between a file's tensors and a network's.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub struct Misfit {
    /// Tensors of the network that the file lacks.
    pub missing: Vec<String>,
    /// Tensors of the file that the network has no place for.
    pub extra: Vec<String>,
    /// Tensors of other shapes.
    pub shapes: Vec<Shapes>,
    /// The fields of `encoder` that would make them fit, as in a spec.
    pub instead: Option<String>,
}

/// A tensor of another shape than the network's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes {
    /// The tensor.
    pub name: String,
    /// In the file.
    pub found: Vec<u64>,
    /// In the network.
    pub expected: Vec<u64>,
}

/// Compares a file's tensors with an encoder, and with the first layers of a projection head where some are used.
/// Classifiers, and a head that is not used, count for nothing.
///
/// # Errors
/// Every difference, and what would fit.
pub fn check(
    tensors: &Tensors,
    encoder: &EncoderSpec,
    head: Option<(&HeadSpec, u32)>,
) -> Result<(), Box<Misfit>> {
    let Some(mut misfit) = differences(tensors, encoder, head) else {
        return Ok(());
    };
    let held = Form::of(tensors, encoder).encoder;
    misfit.instead = held
        .filter(|held| held != encoder)
        .map(|held| fields(&held, encoder));
    Err(Box::new(misfit))
}

/// The differences alone.
pub(super) fn differences(
    tensors: &Tensors,
    encoder: &EncoderSpec,
    head: Option<(&HeadSpec, u32)>,
) -> Option<Misfit> {
    let mut network = encoder_tensors(encoder);
    if let Some((spec, layers)) = head {
        let used =
            |tensor: &TensorInfo| head_layer(&tensor.name).is_some_and(|layer| layer < layers);
        network.extend(head_tensors(encoder, spec).into_iter().filter(used));
    }
    let network: BTreeMap<String, Vec<u64>> = network
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape))
        .collect();
    let counts = |name: &str| match name.split('.').next() {
        Some("fc" | "fc_at" | "probe") => false,
        Some("head") => {
            head.is_some_and(|(_, layers)| head_layer(name).is_some_and(|layer| layer < layers))
        }
        _ => true,
    };
    let missing = network.keys().filter(|name| !tensors.contains_key(*name));
    let extra = tensors
        .keys()
        .filter(|name| counts(name) && !network.contains_key(*name));
    let shapes = network.iter().filter_map(|(name, expected)| {
        let found = &tensors.get(name)?.shape;
        (found != expected).then(|| Shapes {
            name: name.clone(),
            found: found.clone(),
            expected: expected.clone(),
        })
    });
    let misfit = Misfit {
        missing: missing.cloned().collect(),
        extra: extra.cloned().collect(),
        shapes: shapes.collect(),
        instead: None,
    };
    let same = misfit.missing.is_empty() && misfit.extra.is_empty() && misfit.shapes.is_empty();
    (!same).then_some(misfit)
}

/// The fields in which an encoder differs from another, as in a spec.
fn fields(held: &EncoderSpec, other: &EncoderSpec) -> String {
    let map = |spec: &EncoderSpec| match serde_json::to_value(spec) {
        Ok(Value::Object(map)) => map,
        _ => serde_json::Map::new(),
    };
    let (mut held, other) = (map(held), map(other));
    // A record leaves out flags that are off. (It leaves out the usual pool, too, which a form takes from `other`.)
    for field in other.keys() {
        held.entry(field.clone()).or_insert(Value::Bool(false));
    }
    held.retain(|field, value| other.get(field) != Some(value));
    format!("encoder: {}", flow(&held))
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("does not hold this network")?;
        if let Some(instead) = &self.instead {
            write!(f, ": with `{instead}` it would")?;
        }
        for (names, what) in [(&self.missing, "missing"), (&self.extra, "extra")] {
            if !names.is_empty() {
                write!(f, "\n  {what}: {}", names.join(", "))?;
            }
        }
        for shapes in &self.shapes {
            let Shapes {
                name,
                found,
                expected,
            } = shapes;
            write!(f, "\n  {name} is {found:?}, the network has {expected:?}")?;
        }
        Ok(())
    }
}
