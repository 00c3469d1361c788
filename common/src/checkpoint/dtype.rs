//! Element types of stored tensors.

use serde::{Deserialize, Serialize};

/// An element type, spelt as safetensors does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Dtype {
    U8,
    I32,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 7] = [
        Self::U8,
        Self::I32,
        Self::I64,
        Self::F16,
        Self::BF16,
        Self::F32,
        Self::F64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            Self::U8 => 1,
            Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::F32 => 4,
            Self::I64 | Self::F64 => 8,
        }
    }

    /// Bytes of a tensor of this shape; `None` when that is no possible size.
    pub fn bytes(self, shape: &[u64]) -> Option<u64> {
        shape
            .iter()
            .try_fold(self.size(), |bytes, dim| bytes.checked_mul(*dim))
    }
}

impl From<Dtype> for safetensors::Dtype {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::U8 => Self::U8,
            Dtype::I32 => Self::I32,
            Dtype::I64 => Self::I64,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::F32 => Self::F32,
            Dtype::F64 => Self::F64,
        }
    }
}

impl TryFrom<safetensors::Dtype> for Dtype {
    type Error = safetensors::Dtype;

    fn try_from(dtype: safetensors::Dtype) -> Result<Self, safetensors::Dtype> {
        Self::ALL
            .into_iter()
            .find(|ours| safetensors::Dtype::from(*ours) == dtype)
            .ok_or(dtype)
    }
}
