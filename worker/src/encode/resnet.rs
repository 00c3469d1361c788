//! Residual networks of depth 18, 34 and 50 (He et al. 2015; stride in the 3×3 convolution), named as torchvision's.

use diptych_common::spec::{BasicShortcut, EncoderSpec, Stem};
use tch::Tensor;

use super::build::Build;
use super::mode::Mode;
use super::norm::BatchNorm;
use crate::device::StepError;

/// Images `[N, 3, H, W]` in [0, 1] to features `[N, d]`.
#[derive(Debug)]
pub struct Encoder {
    stem: ConvNorm,
    pool: bool,
    blocks: Vec<Block>,
    features: i64,
}

/// A convolution without bias and the batch norm after it.
#[derive(Debug)]
struct ConvNorm {
    weight: Tensor,
    stride: i64,
    padding: i64,
    norm: BatchNorm,
}

/// Two (basic) or three (bottleneck) convolutions beside a shortcut.
#[derive(Debug)]
struct Block {
    path: Vec<ConvNorm>,
    shortcut: Option<ConvNorm>,
}

/// Where a convolution stands and what it does.
struct Place<'a> {
    prefix: &'a str,
    conv: &'a str,
    norm: &'a str,
    channels: (i64, i64),
    size: i64,
    stride: i64,
    gamma: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Basic,
    Bottleneck,
}

/// Channels of the four stages: `round(base · width)`, at least 1, for bases 64, 128, 256 and 512.
pub fn channels(width: f64) -> [i64; 4] {
    [64.0, 128.0, 256.0, 512.0].map(|base: f64| ((base * width).round() as i64).max(1))
}

fn stages(depth: u32) -> Option<(Kind, [usize; 4])> {
    match depth {
        18 => Some((Kind::Basic, [2, 2, 2, 2])),
        34 => Some((Kind::Basic, [3, 4, 6, 3])),
        50 => Some((Kind::Bottleneck, [3, 4, 6, 3])),
        _ => None,
    }
}

// === impl Encoder ===

impl Encoder {
    /// Seeded initial weights; the last γ of each block starts at 0.
    ///
    /// # Errors
    /// [`StepError::Shape`] for a depth that is not 18, 34 or 50; [`StepError::Torch`].
    pub fn new(build: &mut Build, spec: &EncoderSpec) -> Result<Self, StepError> {
        let Some((kind, counts)) = stages(spec.depth) else {
            let got = spec.depth.to_string();
            return Err(StepError::Shape {
                what: "encoder depth",
                expected: "18, 34 or 50".to_owned(),
                got,
            });
        };
        let widths = channels(spec.width);
        let (size, stride) = match spec.stem {
            Stem::ImageNet => (7, 2),
            Stem::Cifar => (3, 1),
        };
        let place = Place {
            prefix: "",
            conv: "conv1",
            norm: "bn1",
            channels: (3, widths[0]),
            size,
            stride,
            gamma: 1.0,
        };
        let stem = ConvNorm::new(build, &place)?;
        let mut input = widths[0];
        let mut blocks = Vec::new();
        for (stage, (&width, &count)) in widths.iter().zip(&counts).enumerate() {
            for index in 0..count {
                let stride = if stage > 0 && index == 0 { 2 } else { 1 };
                let project = index == 0 && spec.basic_shortcut == BasicShortcut::Projection;
                let prefix = format!("layer{}.{index}.", stage + 1);
                let shape = (input, width, stride);
                blocks.push(Block::new(build, &prefix, kind, shape, project)?);
                input = kind.output(width);
            }
        }
        Ok(Self {
            stem,
            pool: spec.stem == Stem::ImageNet,
            blocks,
            features: input,
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
        let mut x = self.stem.forward(images, mode)?.f_relu_()?;
        if self.pool {
            x = x.f_max_pool2d([3, 3], [2, 2], [1, 1], [1, 1], false)?;
        }
        for block in &self.blocks {
            x = block.forward(&x, mode)?;
        }
        Ok(x.f_adaptive_avg_pool2d([1, 1])?.f_flatten(1, -1)?)
    }

    pub(crate) fn norms(&mut self) -> impl Iterator<Item = &mut BatchNorm> {
        let blocks = self
            .blocks
            .iter_mut()
            .flat_map(|block| block.path.iter_mut().chain(&mut block.shortcut));
        std::iter::once(&mut self.stem)
            .chain(blocks)
            .map(|conv| &mut conv.norm)
    }
}

// === impl Kind ===

impl Kind {
    fn output(self, width: i64) -> i64 {
        match self {
            Self::Basic => width,
            Self::Bottleneck => 4 * width,
        }
    }
}

// === impl Block ===

impl Block {
    /// `shape` is (input channels, width, stride).
    fn new(
        build: &mut Build,
        prefix: &str,
        kind: Kind,
        (input, width, stride): (i64, i64, i64),
        project: bool,
    ) -> Result<Self, StepError> {
        let output = kind.output(width);
        let place = |conv, norm, channels, size, stride, gamma| Place {
            prefix,
            conv,
            norm,
            channels,
            size,
            stride,
            gamma,
        };
        let places = match kind {
            Kind::Basic => vec![
                place("conv1", "bn1", (input, width), 3, stride, 1.0),
                place("conv2", "bn2", (width, width), 3, 1, 0.0),
            ],
            Kind::Bottleneck => vec![
                place("conv1", "bn1", (input, width), 1, 1, 1.0),
                place("conv2", "bn2", (width, width), 3, stride, 1.0),
                place("conv3", "bn3", (width, output), 1, 1, 0.0),
            ],
        };
        let path = places
            .iter()
            .map(|place| ConvNorm::new(build, place))
            .collect::<Result<_, _>>()?;
        let shortcut = if project || stride != 1 || input != output {
            let place = place(
                "downsample.0",
                "downsample.1",
                (input, output),
                1,
                stride,
                1.0,
            );
            Some(ConvNorm::new(build, &place)?)
        } else {
            None
        };
        Ok(Self { path, shortcut })
    }

    fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        let mut y = x.shallow_clone();
        for (index, conv) in self.path.iter().enumerate() {
            y = conv.forward(&y, mode)?;
            if index + 1 < self.path.len() {
                y = y.f_relu_()?;
            }
        }
        let shortcut = match &self.shortcut {
            Some(projection) => projection.forward(x, mode)?,
            None => x.shallow_clone(),
        };
        Ok(y.f_add_(&shortcut)?.f_relu_()?)
    }
}

// === impl ConvNorm ===

impl ConvNorm {
    fn new(build: &mut Build, place: &Place<'_>) -> Result<Self, StepError> {
        let Place {
            prefix,
            conv,
            norm,
            channels: (input, output),
            size,
            stride,
            gamma,
        } = *place;
        let weight = build.convolution(
            &format!("{prefix}{conv}.weight"),
            [output, input, size, size],
        )?;
        let norm = BatchNorm::new(build, &format!("{prefix}{norm}"), output, gamma)?;
        Ok(Self {
            weight,
            stride,
            padding: size / 2,
            norm,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode<'_>) -> Result<Tensor, StepError> {
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        let y = x.f_conv2d::<Tensor>(&self.weight, None, stride, padding, [1, 1], 1)?;
        self.norm.forward(&y, mode)
    }
}
