//! What a network is made of, without building it: layers, tensors, parameters, work and memory. The worker builds its
//! networks from [`Layers`], so that nothing here can differ from what trains.
//!
//! # Tensor names
//!
//! Where the network is torchvision's ResNet, so are the names; [`encoder_tensors`] lists them with their shapes. With
//! selective kernels (`f` channels inside the block, `c` in front of it):
//!
//! | part | tensors |
//! |---|---|
//! | ResNet-D stem, `s = 64 · width` | `conv1.0.weight [s/2, 3, 3, 3]`, `conv1.1.*` (norm), `conv1.3.weight [s/2, s/2, 3, 3]`, `conv1.4.*` (norm), `conv1.6.weight [s, s/2, 3, 3]`, `bn1.*`: timm's deep stem |
//! | CIFAR stem | `conv1.weight [s, 3, 3, 3]`, `bn1.*`, as without |
//! | two streams of 3×3 | `layer{i}.{j}.conv2.weight [2f, f, 3, 3]` (the first stream's channels first), `layer{i}.{j}.bn2.*` of 2f |
//! | their mixing, `m = max(f/16, 32)` | `layer{i}.{j}.sk.squeeze.weight [m, f, 1, 1]`, `layer{i}.{j}.sk.bn.*` of m, `layer{i}.{j}.sk.expand.weight [2f, m, 1, 1]` |
//! | average-pool shortcut | `layer{i}.{j}.downsample.1.weight [output, c, 1, 1]`, `layer{i}.{j}.downsample.2.*`: timm's `avg_down`, whose pool is number 0 |
//!
//! Every norm has `weight`, `bias`, `running_mean` and `running_var`. The projection head is `head.{i}.weight` and
//! `head.{i}.bn.*` (the last without `bias`), classifiers are `fc.*` and `fc_at.{layer}.*`.

mod widths; // channels and blocks of every stage
mod layers; // convolutions, norms, pools and shortcuts in forward order
mod tensors; // names, shapes and roles
mod operations; // what each layer does to one view, and what stays
mod cost; // parameters and FLOPs

pub use cost::{Parameters, forward_flops, parameters};
pub use layers::{Block, ConvNorm, Convolution, Layers, NORM_EPSILON, Part, Selective, Shortcut};
pub use operations::{Operation, operations};
pub use tensors::{
    Role, TensorInfo, classifier_tensors, encoder_tensors, extra_classifier_name,
    extra_classifier_tensors, head_tensors, probe_tensors,
};
pub use widths::{Widths, features, layer_width};
