//! Whose names a file's tensors have, and the tables from theirs to ours. A name is a module's path and a field of it
//! (`weight`, `bias`, `running_mean`, `running_var`); the tables map paths.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::checkpoint::{Dtype, TensorBytes, Tensors};
use crate::spec::{Depth, EncoderSpec, MaxPool};

/// Whose names a file's tensors have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// An export of ours.
    Diptych,
    /// torchvision's and timm's ResNets, bare or as a training script wrapped them.
    Torchvision,
    /// The PyTorch conversions of SimCLR v1 (`resnet50-{1,2,4}x.pth`): torchvision's names under `state_dict`.
    SimclrV1,
    /// The PyTorch conversions of SimCLR v2 (`r{depth}_{width}x_sk{0|1}.pth`): the encoder under `resnet`, the
    /// projection head under `head`.
    SimclrV2,
}

/// How the names of one file become ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Naming {
    /// Whose names they are.
    pub scheme: Scheme,
    /// In front of every name of the network.
    pub(super) prefix: &'static str,
    /// In front of every name of the projection head.
    pub(super) head: Option<&'static str>,
    /// Tables from their paths to ours.
    pub(super) stem: &'static [(&'static str, &'static str)],
    pub(super) block: &'static [(&'static str, &'static str)],
}

/// torchvision's names, by what may stand in front of them. The first that fits is taken.
const TORCHVISION: [(&str, Scheme); 7] = [
    ("", Scheme::Torchvision),
    ("module.", Scheme::Torchvision),
    ("state_dict.", Scheme::SimclrV1),
    ("state_dict.module.", Scheme::Torchvision),
    ("model.", Scheme::Torchvision),
    ("model.module.", Scheme::Torchvision),
    ("model_state_dict.", Scheme::Torchvision),
];

/// SimCLR v2's names: what stands in front of the encoder's and of the head's.
const SIMCLR_V2: [(&str, Option<&str>); 2] = [("resnet.", Some("head.")), ("", None)];

/// The stem of SimCLR v2 without selective kernels.
const V2_STEM: [(&str, &str); 2] = [("net.0.0", "conv1"), ("net.0.1.0", "bn1")];

/// Its stem with them, ResNet-D's.
const V2_DEEP_STEM: [(&str, &str); 6] = [
    ("net.0.0", "conv1.0"),
    ("net.0.1.0", "conv1.1"),
    ("net.0.2", "conv1.3"),
    ("net.0.3.0", "conv1.4"),
    ("net.0.4", "conv1.6"),
    ("net.0.5.0", "bn1"),
];

/// A block of SimCLR v2 without selective kernels: behind `net.{g}.blocks.{i}.`, ours behind `layer{g}.{i}.`.
const V2_BLOCK: [(&str, &str); 8] = [
    ("projection.shortcut", "downsample.0"),
    ("projection.bn.0", "downsample.1"),
    ("net.0", "conv1"),
    ("net.1.0", "bn1"),
    ("net.2", "conv2"),
    ("net.3.0", "bn2"),
    ("net.4", "conv3"),
    ("net.5.0", "bn3"),
];

/// A block with them.
const V2_SELECTIVE_BLOCK: [(&str, &str); 11] = [
    ("projection.shortcut.2", "downsample.1"),
    ("projection.bn.0", "downsample.2"),
    ("net.0", "conv1"),
    ("net.1.0", "bn1"),
    ("net.2.main_conv.0", "conv2"),
    ("net.2.main_conv.1.0", "bn2"),
    ("net.2.mixing_conv.0", "sk.squeeze"),
    ("net.2.mixing_conv.1.0", "sk.bn"),
    ("net.2.mixing_conv.2", "sk.expand"),
    ("net.3", "conv3"),
    ("net.4.0", "bn3"),
];

/// A layer of its projection head is a linear map, a batch norm and a ReLU of one list: `layers.{3i}` and
/// `layers.{3i + 1}` are our `head.{i}` and `head.{i}.bn`.
const V2_HEAD_STRIDE: u32 = 3;

impl Naming {
    /// Recognises a file by its names.
    pub fn of<'a>(names: impl Iterator<Item = &'a String> + Clone) -> Option<Self> {
        let has = |prefix: &str, rest: &str| {
            names
                .clone()
                .any(|name| name.strip_prefix(prefix) == Some(rest))
        };
        let v2 = SIMCLR_V2
            .into_iter()
            .find(|(prefix, _)| has(prefix, "net.0.0.weight"));
        if let Some((prefix, head)) = v2 {
            let selective = has(prefix, "net.0.4.weight");
            return Some(Self::simclr_v2(prefix, head, selective));
        }
        let (prefix, scheme) = TORCHVISION
            .into_iter()
            .find(|(prefix, _)| has(prefix, "layer1.0.conv1.weight"))?;
        Some(Self {
            scheme,
            prefix,
            head: None,
            stem: &[],
            block: &[],
        })
    }

    fn simclr_v2(prefix: &'static str, head: Option<&'static str>, selective: bool) -> Self {
        let (stem, block): (&'static [_], &'static [_]) = if selective {
            (&V2_DEEP_STEM, &V2_SELECTIVE_BLOCK)
        } else {
            (&V2_STEM, &V2_BLOCK)
        };
        Self {
            scheme: Scheme::SimclrV2,
            prefix,
            head,
            stem,
            block,
        }
    }

    /// The tensors by our names. Where something stands in front of the network's names, what is without it is none of
    /// the network's and left out: an optimiser's state, say. A name of the network that no table knows stays.
    pub fn translate(&self, tensors: Tensors) -> Tensors {
        let mut ours = Tensors::new();
        for (name, tensor) in tensors {
            if let Some(name) = self.ours(&name) {
                ours.insert(name, tensor);
            }
        }
        if self.scheme == Scheme::SimclrV2 {
            drop_fixed_shift(&mut ours);
        }
        ours
    }

    /// Our name of one of their tensors; `None` where it is none of the network's.
    fn ours(&self, name: &str) -> Option<String> {
        if let Some(rest) = self.head.and_then(|head| name.strip_prefix(head)) {
            return Some(ours_in_head(rest).unwrap_or_else(|| name.to_owned()));
        }
        let rest = name.strip_prefix(self.prefix)?;
        let known = match self.scheme {
            Scheme::SimclrV2 => self.ours_in_encoder(rest),
            Scheme::Diptych | Scheme::Torchvision | Scheme::SimclrV1 => Some(rest.to_owned()),
        };
        Some(known.unwrap_or_else(|| rest.to_owned()))
    }

    fn ours_in_encoder(&self, name: &str) -> Option<String> {
        let (path, field) = name.rsplit_once('.')?;
        if let Some(stem) = look_up(self.stem, path) {
            return Some(format!("{stem}.{field}"));
        }
        let (group, rest) = path.strip_prefix("net.")?.split_once(".blocks.")?;
        let (block, rest) = rest.split_once('.')?;
        let known = look_up(self.block, rest)?;
        Some(format!("layer{group}.{block}.{known}.{field}"))
    }
}

/// `0.weight` → `head.0.weight`, `4.running_mean` → `head.1.bn.running_mean`, all behind `layers.`.
fn ours_in_head(name: &str) -> Option<String> {
    let (place, field) = name.strip_prefix("layers.")?.split_once('.')?;
    let place: u32 = place.parse().ok()?;
    let layer = place / V2_HEAD_STRIDE;
    match place % V2_HEAD_STRIDE {
        0 => Some(format!("head.{layer}.{field}")),
        1 => Some(format!("head.{layer}.bn.{field}")),
        _ => None,
    }
}

fn look_up(table: &[(&str, &'static str)], path: &str) -> Option<&'static str> {
    let found = table.iter().find(|(theirs, _)| *theirs == path);
    found.map(|(_, ours)| *ours)
}

/// The last batch norm of the official head has no shift; the conversions give it one of zeros.
fn drop_fixed_shift(tensors: &mut Tensors) {
    let layers = crate::checkpoint::export::head_layers(tensors.keys());
    let Some(last) = layers.checked_sub(1) else {
        return;
    };
    let name = format!("head.{last}.bn.bias");
    if tensors.get(&name).is_some_and(is_zero) {
        tensors.remove(&name);
    }
}

fn is_zero(tensor: &TensorBytes) -> bool {
    let size = Dtype::size(tensor.dtype) as usize;
    // Little-endian: the sign of a negative zero is in the last byte.
    tensor.bytes.chunks(size).all(|number| {
        number.split_last().is_some_and(|(sign, rest)| {
            rest.iter().all(|byte| *byte == 0) && matches!(sign, 0 | 0x80)
        })
    })
}

impl Scheme {
    /// What tensors of this scheme do not say of their encoder: the official SimCLR code pools as TensorFlow does.
    pub fn usual(self) -> EncoderSpec {
        let max_pool = match self {
            Self::SimclrV1 | Self::SimclrV2 => MaxPool::Tensorflow,
            Self::Diptych | Self::Torchvision => MaxPool::Torch,
        };
        EncoderSpec {
            max_pool,
            ..EncoderSpec::torchvision(Depth::D50)
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Diptych => "an export of Diptych",
            Self::Torchvision => "a ResNet of torchvision or timm",
            Self::SimclrV1 => "a conversion of SimCLR v1",
            Self::SimclrV2 => "a conversion of SimCLR v2",
        })
    }
}
