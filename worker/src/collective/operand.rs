//! What a collective may be given, and the only place that looks at tensor memory.

use std::fmt;

use diptych_common::ids::Rank;
use tch::{Device, Kind, TchError, Tensor};

use super::call::MAX_DIMS;

const _: () = assert!(
    cfg!(target_endian = "little"),
    "tensor bytes travel in little-endian order"
);

/// Element types that collectives carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit float.
    F32,
    /// 64-bit float.
    F64,
    /// bfloat16; sums are taken in f32.
    Bf16,
    /// Signed 64-bit integer; sums wrap.
    I64,
    /// Byte: carried, never summed.
    U8,
}

/// What is wrong with an argument of a collective.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperandProblem {
    /// The tensor holds no data.
    Undefined,
    /// Sparse or otherwise not one dense block.
    NotDense,
    /// Views with gaps or permuted axes; call `contiguous()` first.
    NotContiguous,
    /// On a device that the backend cannot reach.
    WrongDevice(Device),
    /// An element type that is not carried, or cannot be summed.
    WrongKind(Kind),
    /// More than [`MAX_DIMS`] dimensions.
    TooManyDims(usize),
    /// A gathered tensor needs a dimension 0.
    NoRows,
    /// `rows_per_rank` does not have one entry per rank, all ≥ 0, with this rank's own size at its place.
    WrongRows {
        /// The argument.
        rows_per_rank: Vec<i64>,
        /// Rows of this rank's tensor.
        own: i64,
    },
    /// The root is not a rank of the gang.
    NoSuchRoot(Rank),
    /// libtorch could not make or copy a tensor.
    Torch(String),
}

// === impl Dtype ===

impl Dtype {
    pub(super) const ALL: [Self; 5] = [Self::F32, Self::F64, Self::Bf16, Self::I64, Self::U8];

    pub(super) fn of(kind: Kind) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.kind() == kind)
    }

    pub(super) fn kind(self) -> Kind {
        match self {
            Self::F32 => Kind::Float,
            Self::F64 => Kind::Double,
            Self::Bf16 => Kind::BFloat16,
            Self::I64 => Kind::Int64,
            Self::U8 => Kind::Uint8,
        }
    }

    /// Bytes per element.
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 => 4,
            Self::Bf16 => 2,
            Self::U8 => 1,
        }
    }

    pub(super) const fn code(self) -> u8 {
        match self {
            Self::F32 => 1,
            Self::F64 => 2,
            Self::Bf16 => 3,
            Self::I64 => 4,
            Self::U8 => 5,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::Bf16 => "bf16",
            Self::I64 => "i64",
            Self::U8 => "u8",
        })
    }
}

impl fmt::Display for OperandProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Undefined => f.write_str("the tensor is undefined"),
            Self::NotDense => f.write_str("the tensor is not dense"),
            Self::NotContiguous => {
                f.write_str("the tensor is not contiguous: call contiguous() first")
            }
            Self::WrongDevice(device) => write!(
                f,
                "the tensor is on {device:?}, where this backend does not work"
            ),
            Self::WrongKind(kind) => write!(f, "elements of kind {kind:?} are not supported here"),
            Self::TooManyDims(dims) => write!(
                f,
                "{dims} dimensions are more than the {MAX_DIMS} supported"
            ),
            Self::NoRows => f.write_str("a gathered tensor needs at least one dimension"),
            Self::WrongRows { rows_per_rank, own } => {
                write!(
                    f,
                    "rows_per_rank {rows_per_rank:?} does not fit the world or this rank's {own} rows"
                )
            }
            Self::NoSuchRoot(root) => write!(f, "root {root} is not a rank of the gang"),
            Self::Torch(detail) => write!(f, "libtorch: {detail}"),
        }
    }
}

impl From<TchError> for OperandProblem {
    fn from(error: TchError) -> Self {
        Self::Torch(error.to_string())
    }
}

/// Checks all that does not depend on the backend and returns the element type.
pub(super) fn check(tensor: &Tensor) -> Result<Dtype, OperandProblem> {
    if !tensor.defined() {
        return Err(OperandProblem::Undefined);
    }
    if tensor.is_sparse() || tensor.is_mkldnn() {
        return Err(OperandProblem::NotDense);
    }
    if !tensor.is_contiguous() {
        return Err(OperandProblem::NotContiguous);
    }
    if tensor.dim() > MAX_DIMS {
        return Err(OperandProblem::TooManyDims(tensor.dim()));
    }
    let kind = tensor.f_kind()?;
    Dtype::of(kind).ok_or(OperandProblem::WrongKind(kind))
}

/// [`check`], for an operand of a sum.
pub(super) fn check_summable(tensor: &Tensor) -> Result<Dtype, OperandProblem> {
    match check(tensor)? {
        Dtype::U8 => Err(OperandProblem::WrongKind(Kind::Uint8)),
        dtype => Ok(dtype),
    }
}

/// Checks the rows of a gather: one entry per rank, none negative, this rank's own at its place.
pub(super) fn check_rows(
    tensor: &Tensor,
    rows_per_rank: &[i64],
    rank: usize,
    world: usize,
) -> Result<(), OperandProblem> {
    let own = *tensor.size().first().ok_or(OperandProblem::NoRows)?;
    let fits = rows_per_rank.len() == world
        && rows_per_rank.iter().all(|rows| *rows >= 0)
        && rows_per_rank
            .iter()
            .try_fold(0_i64, |sum, rows| sum.checked_add(*rows))
            .is_some()
        && rows_per_rank.get(rank) == Some(&own);
    if fits {
        Ok(())
    } else {
        Err(OperandProblem::WrongRows {
            rows_per_rank: rows_per_rank.to_vec(),
            own,
        })
    }
}

/// Checks that the root is a rank.
pub(super) fn check_root(root: Rank, world: usize) -> Result<(), OperandProblem> {
    if (root.get() as usize) < world {
        Ok(())
    } else {
        Err(OperandProblem::NoSuchRoot(root))
    }
}

/// The elements of a CPU tensor as bytes.
pub(super) fn bytes(tensor: &Tensor) -> Result<&[u8], OperandProblem> {
    let (start, len) = extent(tensor)?;
    if len == 0 {
        return Ok(&[]);
    }
    // SAFETY: `extent` checked that the tensor is defined, dense, contiguous and on the CPU, so `start` points to
    // `len` initialised bytes that the tensor's storage keeps alive while it is borrowed. `Tensor` is not `Sync`, so
    // no other thread reaches it through this reference; sharing storage between tensors that are used in two
    // threads at once is a data race in libtorch's own contract too.
    Ok(unsafe { std::slice::from_raw_parts(start, len) })
}

/// The elements of a CPU tensor as writable bytes.
pub(super) fn bytes_mut(tensor: &mut Tensor) -> Result<&mut [u8], OperandProblem> {
    let (start, len) = extent(tensor)?;
    if len == 0 {
        return Ok(&mut []);
    }
    // SAFETY: as in `bytes`; the tensor is borrowed mutably for as long as the slice lives, and every bit pattern is
    // a valid element of each `Dtype`.
    Ok(unsafe { std::slice::from_raw_parts_mut(start, len) })
}

fn extent(tensor: &Tensor) -> Result<(*mut u8, usize), OperandProblem> {
    let dtype = check(tensor)?;
    if tensor.device() != Device::Cpu {
        return Err(OperandProblem::WrongDevice(tensor.device()));
    }
    Ok((tensor.data_ptr().cast(), tensor.numel() * dtype.bytes()))
}
