//! Checkpoints side by side, as exports.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors};

use crate::cluster::Cluster;

/// The tensors of an export in double precision, by name.
pub type Weights = BTreeMap<String, Vec<f64>>;

/// Exports a phase's newest checkpoint and reads it.
///
/// # Errors
/// When the export fails or is not a safetensors file.
pub fn export(cluster: &Cluster, job: &str, phase: &str) -> Result<Weights> {
    let path = cluster.dir().join(format!("{job}-{phase}.safetensors"));
    let text = path.display().to_string();
    cluster.json(&[
        "checkpoint",
        "export",
        job,
        "--phase",
        phase,
        "--out",
        &text,
    ])?;
    read(&path)
}

/// Reads a safetensors file.
///
/// # Errors
/// When it is not one, or holds integers other than counters.
pub fn read(path: &Path) -> Result<Weights> {
    let bytes = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes)?;
    let mut weights = Weights::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data
                .chunks_exact(4)
                .map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
                .collect(),
            Dtype::F64 => data
                .chunks_exact(8)
                .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect(),
            Dtype::I64 => continue,
            other => bail!("{name} is {other:?}"),
        };
        weights.insert(name, values);
    }
    ensure!(!weights.is_empty(), "{} holds no weights", path.display());
    Ok(weights)
}

/// The largest difference in norm over all tensors, relative to the first's norm, and where it is.
///
/// # Errors
/// When the two do not hold the same tensors.
pub fn difference(a: &Weights, b: &Weights) -> Result<(f64, String)> {
    ensure!(
        a.keys().eq(b.keys()),
        "different tensors: {:?} and {:?}",
        a.keys(),
        b.keys()
    );
    let mut worst = (0.0, String::new());
    for (name, left) in a {
        let right = &b[name];
        ensure!(
            left.len() == right.len(),
            "{name} has {} and {} elements",
            left.len(),
            right.len()
        );
        let norm = left.iter().map(|x| x * x).sum::<f64>().sqrt();
        let gap = left
            .iter()
            .zip(right)
            .map(|(x, y)| (x - y) * (x - y))
            .sum::<f64>()
            .sqrt();
        let relative = if gap == 0.0 {
            0.0
        } else {
            gap / norm.max(1e-12)
        };
        if relative > worst.0 || !relative.is_finite() {
            worst = (relative, name.clone());
        }
    }
    Ok(worst)
}
