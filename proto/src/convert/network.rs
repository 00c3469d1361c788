//! Encoder, head, and the layers that classifiers read.

use diptych_common::spec::draft::{EncoderDraft, HeadDraft, HeadLayerDraft};

use crate::v1;

impl From<EncoderDraft> for v1::EncoderSpec {
    fn from(draft: EncoderDraft) -> Self {
        Self {
            depth: draft.depth,
            width: draft.width,
            stem: draft.stem,
            basic_shortcut: draft.basic_shortcut,
            selective_kernel: draft.selective_kernel,
            max_pool: draft.max_pool,
        }
    }
}

impl From<v1::EncoderSpec> for EncoderDraft {
    fn from(wire: v1::EncoderSpec) -> Self {
        Self {
            depth: wire.depth,
            width: wire.width,
            stem: wire.stem,
            basic_shortcut: wire.basic_shortcut,
            selective_kernel: wire.selective_kernel,
            max_pool: wire.max_pool,
        }
    }
}

impl From<HeadDraft> for v1::HeadSpec {
    fn from(draft: HeadDraft) -> Self {
        Self {
            kind: draft.kind,
            layers: draft.layers,
            dim: draft.dim,
        }
    }
}

impl From<v1::HeadSpec> for HeadDraft {
    fn from(wire: v1::HeadSpec) -> Self {
        Self {
            kind: wire.kind,
            layers: wire.layers,
            dim: wire.dim,
        }
    }
}

/// One layer and several travel in fields of their own, so that older peers still read the one.
pub(super) fn layers_out(
    draft: Option<HeadLayerDraft>,
) -> (Option<u32>, Option<v1::HeadLayersSpec>) {
    use v1::head_layers_spec::Layers;
    let several = |layers| {
        let layers = Some(layers);
        (None, Some(v1::HeadLayersSpec { layers }))
    };
    match draft {
        None => (None, None),
        Some(HeadLayerDraft::One(layer)) => (Some(layer), None),
        Some(HeadLayerDraft::Word(word)) => several(Layers::Word(word)),
        Some(HeadLayerDraft::List(values)) => several(Layers::List(v1::LayerListSpec { values })),
    }
}

pub(super) fn layers_in(
    one: Option<u32>,
    several: Option<v1::HeadLayersSpec>,
) -> Option<HeadLayerDraft> {
    use v1::head_layers_spec::Layers;
    match several.and_then(|several| several.layers) {
        Some(Layers::Word(word)) => Some(HeadLayerDraft::Word(word)),
        Some(Layers::List(list)) => Some(HeadLayerDraft::List(list.values)),
        None => one.map(HeadLayerDraft::One),
    }
}
