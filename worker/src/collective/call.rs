//! What all ranks must agree on before payload moves: every call is announced to every peer by one fixed-size record.

use std::fmt;

use diptych_common::ids::Rank;

use super::operand::Dtype;

/// Most dimensions that an operand may have.
pub(super) const MAX_DIMS: usize = 8;

/// Bytes of an encoded [`Call`].
pub(super) const CALL_BYTES: usize = 32 + 8 * MAX_DIMS;

/// Changes with every change of the wire.
const MAGIC: u32 = u32::from_le_bytes(*b"DPC1");

/// A collective operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Sum over ranks.
    AllReduce,
    /// Concatenation in rank order.
    AllGather,
    /// One rank's data to all.
    Broadcast,
    /// Nothing but the meeting.
    Barrier,
}

/// One rank's announcement of the call it is making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Who calls.
    pub rank: Rank,
    /// Number of this call on its channel, from 0.
    pub sequence: u64,
    /// What is called.
    pub op: Op,
    /// Element type; `None` for a barrier.
    pub dtype: Option<Dtype>,
    /// Shape of this rank's tensor, at most 8 dimensions; empty for a barrier.
    pub shape: Vec<i64>,
    /// The root of a broadcast, else 0.
    pub root: Rank,
    /// Digest of a gather's `rows_per_rank`, else 0.
    pub rows: u64,
}

/// Two ranks that did not make the same call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disagreement {
    /// The rank that noticed.
    pub one: Call,
    /// The rank whose call differs.
    pub other: Call,
}

/// Digest of a gather's `rows_per_rank`, so that a difference between any two ranks is seen by all.
pub(super) fn rows_digest(rows_per_rank: &[i64]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for rows in rows_per_rank {
        hasher.update(&rows.to_le_bytes());
    }
    let digest = hasher.finalize();
    let mut first = [0; 8];
    first.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(first)
}

// === impl Op ===

impl Op {
    const ALL: [Self; 4] = [
        Self::AllReduce,
        Self::AllGather,
        Self::Broadcast,
        Self::Barrier,
    ];

    const fn code(self) -> u8 {
        match self {
            Self::AllReduce => 1,
            Self::AllGather => 2,
            Self::Broadcast => 3,
            Self::Barrier => 4,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
            Self::Broadcast => "broadcast",
            Self::Barrier => "barrier",
        })
    }
}

// === impl Call ===

impl Call {
    /// Whether another rank's call is the same call. Ranks of a gather differ in dimension 0, which `rows` vouches for.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let own_rows = usize::from(self.op == Op::AllGather);
        self.sequence == other.sequence
            && self.op == other.op
            && self.dtype == other.dtype
            && self.shape.len() == other.shape.len()
            && self
                .shape
                .iter()
                .zip(&other.shape)
                .skip(own_rows)
                .all(|(a, b)| a == b)
            && self.root == other.root
            && self.rows == other.rows
    }

    /// The call as it travels. Dimensions beyond [`MAX_DIMS`] do not fit; operands are checked before.
    pub(super) fn encode(&self) -> [u8; CALL_BYTES] {
        let mut out = [0; CALL_BYTES];
        out[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        out[4] = self.op.code();
        out[5] = self.dtype.map_or(0, Dtype::code);
        out[6] = self.shape.len().min(MAX_DIMS) as u8;
        out[8..12].copy_from_slice(&self.rank.get().to_le_bytes());
        out[12..16].copy_from_slice(&self.root.get().to_le_bytes());
        out[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        out[24..32].copy_from_slice(&self.rows.to_le_bytes());
        for (dim, place) in self.shape.iter().zip(out[32..].chunks_exact_mut(8)) {
            place.copy_from_slice(&dim.to_le_bytes());
        }
        out
    }

    /// Reads a peer's call; `None` if the bytes are no call.
    pub(super) fn decode(bytes: &[u8; CALL_BYTES]) -> Option<Self> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        if word(0) != MAGIC || bytes[7] != 0 {
            return None;
        }
        let op = Op::ALL.into_iter().find(|op| op.code() == bytes[4])?;
        let dtype = match bytes[5] {
            0 => None,
            code => Some(Dtype::ALL.into_iter().find(|dtype| dtype.code() == code)?),
        };
        let dims = usize::from(bytes[6]);
        if dims > MAX_DIMS {
            return None;
        }
        let shape = (0..dims).map(|dim| long(32 + 8 * dim) as i64).collect();
        Some(Self {
            rank: Rank::new(word(8)),
            sequence: long(16),
            op,
            dtype,
            shape,
            root: Rank::new(word(12)),
            rows: long(24),
        })
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "rank {} made call {}, {}",
            self.rank, self.sequence, self.op
        )?;
        if let Some(dtype) = self.dtype {
            write!(f, " of {dtype} {:?}", self.shape)?;
        }
        match self.op {
            Op::Broadcast => write!(f, " from root {}", self.root),
            Op::AllGather => write!(f, " with rows {:016x}", self.rows),
            Op::AllReduce | Op::Barrier => Ok(()),
        }
    }
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, but {}", self.one, self.other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call(op: Op, shape: &[i64]) -> Call {
        Call {
            rank: Rank::new(2),
            sequence: 7,
            op,
            dtype: Some(Dtype::Bf16),
            shape: shape.to_vec(),
            root: Rank::new(1),
            rows: 99,
        }
    }

    #[test]
    fn a_call_survives_the_wire() {
        for op in Op::ALL {
            for shape in [&[][..], &[0], &[3, 4], &[1, 2, 3, 4, 5, 6, 7, i64::MAX]] {
                let sent = call(op, shape);
                assert_eq!(Call::decode(&sent.encode()), Some(sent));
            }
        }
    }

    #[test]
    fn only_a_gather_may_differ_in_dimension_0() {
        assert!(call(Op::AllGather, &[3, 4]).agrees_with(&call(Op::AllGather, &[9, 4])));
        assert!(!call(Op::AllGather, &[3, 4]).agrees_with(&call(Op::AllGather, &[3, 5])));
        assert!(!call(Op::AllReduce, &[3, 4]).agrees_with(&call(Op::AllReduce, &[9, 4])));
        assert!(!call(Op::AllReduce, &[3]).agrees_with(&call(Op::AllReduce, &[3, 1])));
        assert!(!call(Op::AllReduce, &[3]).agrees_with(&call(Op::Broadcast, &[3])));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decoding_panic(bytes in proptest::array::uniform32(any::<u8>()), valid_start: bool) {
            let mut record = [0; CALL_BYTES];
            record[..32].copy_from_slice(&bytes);
            if valid_start {
                record[..4].copy_from_slice(&MAGIC.to_le_bytes());
            }
            if let Some(decoded) = Call::decode(&record) {
                prop_assert_eq!(Call::decode(&decoded.encode()), Some(decoded));
            }
        }
    }
}
