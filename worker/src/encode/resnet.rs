//! The residual networks that [`Layers`] describes.

use diptych_common::network::{self, Layers};
use diptych_common::spec::{EncoderSpec, MaxPool};
use tch::Tensor;

use super::build::Build;
use super::conv::ConvNorm;
use super::mode::Mode;
use super::norm::BatchNorm;
use super::pool::{average_pool, max_pool};
use super::selective::SelectiveKernel;
use crate::device::StepError;

/// Images `[N, 3, H, W]` in [0, 1] to features `[N, d]`.
#[derive(Debug)]
pub struct Encoder {
    stem: Vec<ConvNorm>,
    pool: Option<MaxPool>,
    blocks: Vec<Block>,
    features: i64,
}

/// Two (basic) or three (bottleneck) parts beside a shortcut.
#[derive(Debug)]
struct Block {
    path: Vec<Part>,
    shortcut: Option<Shortcut>,
}

#[derive(Debug)]
enum Part {
    Plain(ConvNorm),
    Selective(SelectiveKernel),
}

#[derive(Debug)]
struct Shortcut {
    /// Stride of the average pool in front.
    pool: Option<u64>,
    projection: ConvNorm,
}

// === impl Encoder ===

impl Encoder {
    /// Seeded initial weights; the last γ of each block starts at 0.
    ///
    /// # Errors
    /// [`StepError::Torch`], for example out of memory.
    pub fn new(build: &mut Build, spec: &EncoderSpec) -> Result<Self, StepError> {
        let layers = Layers::of(spec);
        let stem = layers.stem.iter().map(|layer| ConvNorm::new(build, layer));
        let stem = stem.collect::<Result<_, _>>()?;
        let blocks = layers.blocks.iter().map(|block| Block::new(build, block));
        Ok(Self {
            stem,
            pool: layers.max_pool,
            blocks: blocks.collect::<Result<_, _>>()?,
            features: network::features(spec) as i64,
        })
    }

    /// d: 512·width for basic blocks, 2048·width for bottlenecks.
    pub fn features(&self) -> i64 {
        self.features
    }

    /// Global average of the last stage.
    ///
    /// # Errors
    /// See [`BatchNorm::forward`].
    pub fn forward(&self, images: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        let mut x = images.shallow_clone();
        for conv in &self.stem {
            x = conv.forward(&x, mode)?.f_relu_()?;
        }
        if let Some(kind) = self.pool {
            x = max_pool(&x, kind)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        Ok(x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?)
    }

    pub(crate) fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let stem = self.stem.iter_mut().map(|conv| &mut conv.norm);
        stem.chain(self.blocks.iter_mut().flat_map(Block::norms))
    }
}

// === impl Block ===

impl Block {
    fn new(build: &mut Build, block: &network::Block) -> Result<Self, StepError> {
        let path = block.path.iter().map(|part| match part {
            network::Part::Plain(layer) => Ok(Part::Plain(ConvNorm::new(build, layer)?)),
            network::Part::Selective(layer) => {
                Ok(Part::Selective(SelectiveKernel::new(build, layer)?))
            }
        });
        let path = path.collect::<Result<_, StepError>>()?;
        let shortcut = match &block.shortcut {
            Some(layer) => Some(Shortcut {
                pool: layer.average_pool,
                projection: ConvNorm::new(build, &layer.projection)?,
            }),
            None => None,
        };
        Ok(Self { path, shortcut })
    }

    fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        let mut y = x.shallow_clone();
        for (index, part) in self.path.iter().enumerate() {
            y = match part {
                Part::Plain(conv) => conv.forward(&y, mode)?,
                Part::Selective(kernel) => kernel.forward(&y, mode)?,
            };
            if matches!(part, Part::Plain(_)) && index + 1 < self.path.len() {
                y = y.f_relu_()?;
            }
        }
        let shortcut = match &self.shortcut {
            Some(shortcut) => shortcut.forward(x, mode)?,
            None => x.shallow_clone(),
        };
        Ok(y.f_add_(&shortcut)?.f_relu_()?)
    }

    fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let path = self.path.iter_mut().flat_map(|part| match part {
            Part::Plain(conv) => vec![&mut conv.norm],
            Part::Selective(kernel) => kernel.norms().into(),
        });
        let shortcut = self.shortcut.iter_mut();
        path.chain(shortcut.map(|shortcut| &mut shortcut.projection.norm))
    }
}

// === impl Shortcut ===

impl Shortcut {
    fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        match self.pool {
            Some(stride) => self.projection.forward(&average_pool(x, stride)?, mode),
            None => self.projection.forward(x, mode),
        }
    }
}
