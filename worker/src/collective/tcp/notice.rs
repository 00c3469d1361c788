//! The last word of a rank: one record of fixed size on each of its watches.

use diptych_common::ids::Rank;

use crate::collective::call::{CALL_BYTES, Call};
use crate::collective::{CollectiveError, Disagreement, LossCause};

/// Bytes of an encoded [`Notice`].
pub(super) const NOTICE_BYTES: usize = 8 + 2 * CALL_BYTES;

/// Why a rank will not be heard of again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// It is done; its peers may finish their call.
    Left,
    /// It gave up.
    Aborted,
    /// It gave up because it lost another rank.
    Lost(Rank),
    /// It saw two different calls.
    Mismatch(Box<Disagreement>),
}

impl Notice {
    /// What a rank that fails with `error` tells its peers.
    pub(super) fn of(error: &CollectiveError) -> Self {
        match error {
            CollectiveError::PeerLost { rank, .. } | CollectiveError::Malformed { rank, .. } => {
                Self::Lost(*rank)
            }
            CollectiveError::Mismatch(disagreement) => Self::Mismatch(disagreement.clone()),
            CollectiveError::Aborted
            | CollectiveError::Operand { .. }
            | CollectiveError::Connect(_)
            | CollectiveError::Nccl(_) => Self::Aborted,
        }
    }

    /// What this word from `from` means for rank `me`; `None` if it harms nobody.
    pub(super) fn meaning(self, from: Rank, me: Rank) -> Option<CollectiveError> {
        match self {
            Self::Left => None,
            Self::Lost(rank) if rank != me && rank != from => Some(CollectiveError::PeerLost {
                rank,
                cause: LossCause::ReportedBy(from),
            }),
            Self::Lost(_) | Self::Aborted => Some(CollectiveError::PeerLost {
                rank: from,
                cause: LossCause::Aborted,
            }),
            Self::Mismatch(disagreement) => Some(CollectiveError::Mismatch(disagreement)),
        }
    }

    pub(super) fn encode(&self) -> [u8; NOTICE_BYTES] {
        let mut out = [0; NOTICE_BYTES];
        match self {
            Self::Left => out[0] = 1,
            Self::Aborted => out[0] = 2,
            Self::Lost(rank) => {
                out[0] = 3;
                out[4..8].copy_from_slice(&rank.get().to_le_bytes());
            }
            Self::Mismatch(disagreement) => {
                out[0] = 4;
                out[8..8 + CALL_BYTES].copy_from_slice(&disagreement.one.encode());
                out[8 + CALL_BYTES..].copy_from_slice(&disagreement.other.encode());
            }
        }
        out
    }

    /// Reads a peer's notice; `None` if the bytes are none.
    pub(super) fn decode(bytes: &[u8; NOTICE_BYTES]) -> Option<Self> {
        let call = |at: usize| bytes[at..].first_chunk().and_then(Call::decode);
        match bytes[0] {
            1 => Some(Self::Left),
            2 => Some(Self::Aborted),
            3 => Some(Self::Lost(Rank::new(u32::from_le_bytes([
                bytes[4], bytes[5], bytes[6], bytes[7],
            ])))),
            4 => Some(Self::Mismatch(Box::new(Disagreement {
                one: call(8)?,
                other: call(8 + CALL_BYTES)?,
            }))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::{Dtype, Op};

    fn call(rank: u32, op: Op) -> Call {
        let dtype = Some(Dtype::F32);
        Call {
            rank: Rank::new(rank),
            sequence: 5,
            op,
            dtype,
            shape: vec![2],
            root: Rank::new(0),
            rows: 0,
        }
    }

    #[test]
    fn a_notice_survives_the_wire() {
        let disagreement = Disagreement {
            one: call(0, Op::AllReduce),
            other: call(1, Op::AllGather),
        };
        for notice in [
            Notice::Left,
            Notice::Aborted,
            Notice::Lost(Rank::new(9)),
            Notice::Mismatch(Box::new(disagreement)),
        ] {
            assert_eq!(Notice::decode(&notice.encode()), Some(notice));
        }
        assert_eq!(Notice::decode(&[0; NOTICE_BYTES]), None);
        assert_eq!(Notice::decode(&[4; NOTICE_BYTES]), None);
    }

    #[test]
    fn a_reported_loss_names_the_rank_that_is_gone() {
        let lost = |rank, cause| {
            Some(CollectiveError::PeerLost {
                rank: Rank::new(rank),
                cause,
            })
        };
        let meaning = |notice: Notice| notice.meaning(Rank::new(1), Rank::new(0));
        assert_eq!(
            meaning(Notice::Lost(Rank::new(2))),
            lost(2, LossCause::ReportedBy(Rank::new(1)))
        );
        assert_eq!(
            meaning(Notice::Lost(Rank::new(0))),
            lost(1, LossCause::Aborted)
        );
        assert_eq!(meaning(Notice::Aborted), lost(1, LossCause::Aborted));
        assert_eq!(meaning(Notice::Left), None);
    }
}
