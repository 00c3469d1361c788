//! Encoder and head.

use diptych_common::spec::draft::{EncoderDraft, HeadDraft};

use crate::v1;

impl From<EncoderDraft> for v1::EncoderSpec {
    fn from(draft: EncoderDraft) -> Self {
        Self {
            depth: draft.depth,
            width: draft.width,
            stem: draft.stem,
            basic_shortcut: draft.basic_shortcut,
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
        }
    }
}

impl From<HeadDraft> for v1::HeadSpec {
    fn from(draft: HeadDraft) -> Self {
        Self {
            layers: draft.layers,
            dim: draft.dim,
        }
    }
}

impl From<v1::HeadSpec> for HeadDraft {
    fn from(wire: v1::HeadSpec) -> Self {
        Self {
            layers: wire.layers,
            dim: wire.dim,
        }
    }
}
