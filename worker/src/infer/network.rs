//! An export as a network that answers.

use std::path::Path;

use anyhow::{Context as _, bail};
use diptych_common::checkpoint::{NetworkDescription, Preprocessing};
use diptych_common::spec::Precision;
use diptych_common::store::file_url;
use diptych_images::augment::{Scratch, evaluation};
use diptych_images::decode::Image;
use tch::{Kind, Tensor, no_grad};

use crate::checkpoint::load;
use crate::device::Compute;
use crate::encode::Mode;
use crate::phase::blueprint;
use crate::project::{Model, ModelSpec, Outputs};

/// Images that go through the network at once.
pub const BATCH: usize = 64;

/// An export in memory.
#[derive(Debug)]
pub struct Network {
    model: Model,
    classes: Vec<String>,
    preprocessing: Preprocessing,
}

impl Network {
    /// Opens an export by path or URL; its metadata says what it is.
    ///
    /// # Errors
    /// A file that cannot be read, is no export, or does not hold the network that it describes.
    pub fn open(place: &str) -> anyhow::Result<Self> {
        let url = if place.contains("://") {
            place.to_owned()
        } else {
            let path = Path::new(place)
                .canonicalize()
                .with_context(|| format!("open {place}"))?;
            file_url(&path)?
        };
        let (imported, tensors) = load::import(&url)?;
        let Some(info) = imported.info else {
            bail!(
                "{place} does not say what network it holds: export one with `diptych checkpoint export`"
            );
        };
        let (spec, classes) = plan(&info.network, place)?;
        let mut model = Model::new(&spec, 0, Compute::cpu(Precision::Fp32))?;
        model
            .load(&tensors, |_| true)
            .with_context(|| format!("load {place}"))?;
        Ok(Self {
            model,
            classes,
            preprocessing: info.preprocessing,
        })
    }

    /// Class names in label order.
    ///
    /// # Errors
    /// Where the network has no classifier.
    pub fn classes(&self) -> anyhow::Result<&[String]> {
        if self.classes.is_empty() {
            bail!(
                "the export has no classifier: use `embed`, or export a finetune, linear_eval or distill phase"
            );
        }
        Ok(&self.classes)
    }

    /// The `top` most probable classes of each image with their probabilities.
    ///
    /// # Errors
    /// Where libtorch fails, or there is no classifier.
    pub fn predict(&self, images: &[&Image], top: usize) -> anyhow::Result<Vec<Vec<(usize, f64)>>> {
        let Some(logits) = self.forward(images)?.map(|outputs| outputs.logits) else {
            return Ok(Vec::new());
        };
        let logits = logits.context("the export has no classifier")?;
        let (probability, class) = logits.f_softmax(-1, Kind::Double)?.f_topk(
            (top.max(1) as i64).min(logits.size()[1]),
            1,
            true,
            true,
        )?;
        let (probability, class) = (
            Vec::<Vec<f64>>::try_from(probability)?,
            Vec::<Vec<i64>>::try_from(class)?,
        );
        let pairs = |(classes, probabilities): (Vec<i64>, Vec<f64>)| {
            classes
                .into_iter()
                .map(|class| class as usize)
                .zip(probabilities)
                .collect()
        };
        Ok(class.into_iter().zip(probability).map(pairs).collect())
    }

    /// The encoder's features of each image.
    ///
    /// # Errors
    /// Where libtorch fails.
    pub fn features(&self, images: &[&Image]) -> anyhow::Result<Vec<Vec<f32>>> {
        let Some(outputs) = self.forward(images)? else {
            return Ok(Vec::new());
        };
        let features = outputs
            .layers
            .first()
            .context("the network gave no features")?;
        Ok(Vec::<Vec<f32>>::try_from(features.f_to_kind(Kind::Float)?)?)
    }

    fn forward(&self, images: &[&Image]) -> anyhow::Result<Option<Outputs>> {
        if images.is_empty() {
            return Ok(None);
        }
        let mut scratch = Scratch::default();
        let side = self.preprocessing.image_size as usize;
        let view = 3 * side * side;
        let mut pixels = vec![0.0; view * images.len()];
        for (image, out) in images.iter().zip(pixels.chunks_exact_mut(view)) {
            evaluation(image, self.preprocessing, &mut scratch, out);
        }
        let side = side as i64;
        let pixels = Tensor::f_from_slice(&pixels)?.f_view([images.len() as i64, 3, side, side])?;
        let pixels = self.model.compute().place(&pixels)?;
        Ok(Some(no_grad(|| self.model.forward(&pixels, Mode::Eval))?))
    }
}

fn plan(network: &NetworkDescription, place: &str) -> anyhow::Result<(ModelSpec, Vec<String>)> {
    if network.classifier.is_some() {
        return Ok(blueprint::describe_classifier(network, place)?);
    }
    Ok((ModelSpec::bare(network.encoder.clone()), Vec::new()))
}
