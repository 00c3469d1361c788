//! Optimiser and views.

use diptych_common::spec::draft::{AugmentDraft, OptimizerDraft};

use crate::v1;

impl From<OptimizerDraft> for v1::OptimizerSpec {
    fn from(draft: OptimizerDraft) -> Self {
        Self {
            kind: draft.kind,
            learning_rate: draft.learning_rate,
            scaling: draft.scaling,
            warmup_epochs: draft.warmup_epochs,
            momentum: draft.momentum,
            weight_decay: draft.weight_decay,
            trust_coefficient: draft.trust_coefficient,
            momentum_kind: draft.momentum_kind,
            beta1: draft.beta1,
            beta2: draft.beta2,
            epsilon: draft.epsilon,
        }
    }
}

impl From<v1::OptimizerSpec> for OptimizerDraft {
    fn from(wire: v1::OptimizerSpec) -> Self {
        Self {
            kind: wire.kind,
            learning_rate: wire.learning_rate,
            scaling: wire.scaling,
            warmup_epochs: wire.warmup_epochs,
            momentum: wire.momentum,
            weight_decay: wire.weight_decay,
            trust_coefficient: wire.trust_coefficient,
            momentum_kind: wire.momentum_kind,
            beta1: wire.beta1,
            beta2: wire.beta2,
            epsilon: wire.epsilon,
        }
    }
}

impl From<AugmentDraft> for v1::AugmentSpec {
    fn from(draft: AugmentDraft) -> Self {
        Self {
            image_size: draft.image_size,
            crop_area: draft.crop_area.map(pair_out),
            crop_aspect: draft.crop_aspect.map(pair_out),
            flip: draft.flip,
            color_strength: draft.color_strength,
            color_probability: draft.color_probability,
            color_hue_saturation: draft.color_hue_saturation,
            grayscale_probability: draft.grayscale_probability,
            blur_probability: draft.blur_probability,
            implementation: draft.implementation,
            interpolation: draft.interpolation,
            color_order: draft.color_order,
            brightness: draft.brightness,
            blur_sigma: draft.blur_sigma,
            place: draft.place,
        }
    }
}

impl From<v1::AugmentSpec> for AugmentDraft {
    fn from(wire: v1::AugmentSpec) -> Self {
        Self {
            image_size: wire.image_size,
            crop_area: wire.crop_area.map(pair_in),
            crop_aspect: wire.crop_aspect.map(pair_in),
            flip: wire.flip,
            color_strength: wire.color_strength,
            color_probability: wire.color_probability,
            color_hue_saturation: wire.color_hue_saturation,
            grayscale_probability: wire.grayscale_probability,
            blur_probability: wire.blur_probability,
            implementation: wire.implementation,
            interpolation: wire.interpolation,
            color_order: wire.color_order,
            brightness: wire.brightness,
            blur_sigma: wire.blur_sigma,
            place: wire.place,
        }
    }
}

fn pair_out([low, high]: [f64; 2]) -> v1::PairSpec {
    v1::PairSpec { low, high }
}

fn pair_in(pair: v1::PairSpec) -> [f64; 2] {
    [pair.low, pair.high]
}
