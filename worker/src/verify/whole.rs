//! A whole network, forward and backward, against another program's.
//!
//! A case is `{"encoder": {…}, "file": NAME, "labels": […], "loss": x}`, and NAME is a safetensors file beside it, all
//! float64: `state.*` (weights and running statistics of encoder and `fc`, by our names), `images` [N, 3, H, W], and the
//! answers `evaluation.features` and `evaluation.logits` with running statistics, `training.logits` with the batch's,
//! and `gradient.*` of `loss`, the mean cross-entropy of those at `labels`, for every parameter.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use diptych_common::import;
use diptych_common::spec::{EncoderSpec, Precision};
use tch::{Device, Kind, Tensor, no_grad};

use super::number::Case;
use crate::checkpoint::load;
use crate::collective::solo;
use crate::device::{Compute, shim};
use crate::encode::{Mode, TrainMode};
use crate::loss::cross_entropy;
use crate::project::{Model, ModelSpec, Reader};

/// Largest ‖x − y‖ / ‖y‖ of a tensor: float64 in two orders of summation.
const TOLERANCE: f64 = 1e-9;
/// A gradient's rounding is of the size of the whole gradient's, however small the tensor's own.
const FLOOR: f64 = 1e-6;

/// Runs one case; its file is in `folder`.
pub(super) fn check(case: Case<'_>, folder: &Path) -> anyhow::Result<()> {
    let encoder: EncoderSpec = serde_json::from_value(case.get("encoder")?.clone())?;
    let name = case.get("file")?.as_str().context("file is no text")?;
    let path = folder.join(name);
    let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    let (_, tensors) = import::tensors(&Bytes::from(bytes), Some(&path))?;
    let file = File(load::to_tensors(&tensors)?);

    let compute = Compute::on(case.device, Precision::Fp64);
    let mut model = Model::new(&spec(encoder, &file)?, 0, compute)?;
    model.load(&file.under("state."), |_| true)?;
    let images = model.compute().place(file.get("images")?)?;
    let evaluated = no_grad(|| model.forward(&images, Mode::Eval))?;
    let features = evaluated.layers.first().context("no features")?;
    file.expect("evaluation.features", features, 0.0)?;
    let logits = evaluated.logits.context("no classifier")?;
    file.expect("evaluation.logits", &logits, 0.0)?;

    let rows = images.size()[0];
    let gang = solo::gang();
    let mode = TrainMode::new(vec![rows], false, Arc::clone(&gang.statistics));
    let trained = model.forward(&images, Mode::Train(&mode))?;
    let logits = trained.logits.context("no classifier")?;
    file.expect("training.logits", &logits, 0.0)?;
    let labels = case.tensor("labels")?.f_to_kind(Kind::Int64)?;
    let loss = cross_entropy(&logits, &labels)? / rows as f64;
    case.expect_tensor("loss", &loss)?;
    shim::backward(&[(&loss, &loss.f_ones_like()?)])?;
    let floor = FLOOR * file.whole_gradient()?;
    for parameter in model.parameters() {
        let gradient = parameter.tensor.f_grad()?;
        anyhow::ensure!(gradient.defined(), "{} has no gradient", parameter.name);
        file.expect(&format!("gradient.{}", parameter.name), &gradient, floor)?;
    }
    Ok(())
}

fn spec(encoder: EncoderSpec, file: &File) -> anyhow::Result<ModelSpec> {
    let classes = file.get("state.fc.bias")?.size()[0];
    Ok(ModelSpec {
        classifier: Some(Reader {
            layer: 0,
            classes: u32::try_from(classes)?,
        }),
        ..ModelSpec::bare(encoder)
    })
}

/// The tensors of a case.
struct File(BTreeMap<String, Tensor>);

impl File {
    fn get(&self, name: &str) -> anyhow::Result<&Tensor> {
        self.0
            .get(name)
            .with_context(|| format!("tensor {name} is missing"))
    }

    /// The tensors behind a prefix.
    fn under(&self, prefix: &str) -> BTreeMap<String, Tensor> {
        let behind = self.0.iter().filter_map(|(name, tensor)| {
            let name = name.strip_prefix(prefix)?;
            Some((name.to_owned(), tensor.shallow_clone()))
        });
        behind.collect()
    }

    fn whole_gradient(&self) -> anyhow::Result<f64> {
        let mut sum = 0.0;
        for gradient in self.under("gradient.").values() {
            sum += norm(gradient)?.powi(2);
        }
        Ok(sum.sqrt())
    }

    /// Compares in norm. Where the answer is smaller than `floor`, the difference is compared with that.
    fn expect(&self, name: &str, got: &Tensor, floor: f64) -> anyhow::Result<()> {
        let expected = self.get(name)?;
        anyhow::ensure!(
            got.size() == expected.size(),
            "{name} has shape {:?}, expected {:?}",
            got.size(),
            expected.size()
        );
        let got = got
            .f_detach()?
            .f_to_device(Device::Cpu)?
            .f_to_kind(Kind::Double)?;
        let (gap, size) = (norm(&got.f_sub(expected)?)?, norm(expected)?);
        let near = gap <= TOLERANCE * size.max(floor);
        anyhow::ensure!(near, "{name} differs by {gap:e} in norm, of {size:e}");
        Ok(())
    }
}

fn norm(tensor: &Tensor) -> anyhow::Result<f64> {
    Ok(tensor.f_norm()?.f_double_value(&[])?)
}

#[cfg(test)]
mod tests;
