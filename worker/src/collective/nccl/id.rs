use std::fmt;
use std::sync::Arc;

use super::library::{ID_BYTES, Nccl, NcclError, RawId, SUCCESS};

/// Bytes of an [`Id`].
pub(super) const BYTES: usize = 2 * ID_BYTES;

/// What the ranks of one attempt find each other by: an id for each of the two channels. Made by rank 0, used once.
#[derive(Clone, PartialEq, Eq)]
pub struct Id([u8; BYTES]);

// === impl Id ===

impl Id {
    /// A new id. This process then listens for the other ranks, so that rank 0 must make it.
    ///
    /// # Errors
    /// [`NcclError::Call`], for example without a network interface.
    pub fn new(nccl: &Arc<Nccl>) -> Result<Self, NcclError> {
        let mut bytes = [0; BYTES];
        for half in bytes.chunks_exact_mut(ID_BYTES) {
            let mut raw = RawId([0; ID_BYTES]);
            // SAFETY: room for an id.
            let code = unsafe { (nccl.call.unique_id)(&mut raw) };
            if code != SUCCESS {
                return Err(nccl.error("ncclGetUniqueId", code, std::ptr::null_mut()));
            }
            half.copy_from_slice(&raw.0);
        }
        Ok(Self(bytes))
    }

    /// As it travels.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The id of one channel, 0 or 1.
    pub(super) fn raw(&self, channel: usize) -> RawId {
        let mut raw = [0; ID_BYTES];
        raw.copy_from_slice(&self.0[channel * ID_BYTES..][..ID_BYTES]);
        RawId(raw)
    }
}

impl TryFrom<&[u8]> for Id {
    type Error = NcclError;

    fn try_from(bytes: &[u8]) -> Result<Self, NcclError> {
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| NcclError::Id(bytes.len()))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Id")
    }
}
