//! That an agent knows an attempt's secret, without sending it.

use diptych_common::ids::WorkerId;
use diptych_proto::v1;

use super::super::core::AttemptKey;

/// An attempt's secret. Never printed.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl Secret {
    /// The first message of `from` to `to`.
    pub(super) fn hello(
        &self,
        attempt: &AttemptKey,
        from: &WorkerId,
        to: &WorkerId,
    ) -> v1::PeerHello {
        v1::PeerHello {
            job: attempt.job.to_string(),
            attempt: attempt.attempt.get(),
            from: from.to_string(),
            to: to.to_string(),
            proof: self.proof(attempt, from, to).as_bytes().to_vec(),
        }
    }

    /// Whether a message is the hello of `from` to `to` in this attempt, by one who knows the secret.
    pub(super) fn proves(
        &self,
        hello: &v1::PeerHello,
        attempt: &AttemptKey,
        from: &WorkerId,
        to: &WorkerId,
    ) -> bool {
        let named = hello.job == attempt.job.as_str()
            && hello.attempt == attempt.attempt.get()
            && hello.from == from.as_str()
            && hello.to == to.as_str();
        // Compared in constant time.
        let proved = blake3::Hash::from_slice(&hello.proof)
            .is_ok_and(|proof| proof == self.proof(attempt, from, to));
        named && proved
    }

    /// Keyed BLAKE3 of job, attempt, sender and receiver: each text after its length, lengths and number in 8
    /// little-endian bytes.
    fn proof(&self, attempt: &AttemptKey, from: &WorkerId, to: &WorkerId) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        let text = |hasher: &mut blake3::Hasher, text: &str| {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        };
        text(&mut hasher, attempt.job.as_str());
        hasher.update(&attempt.attempt.get().to_le_bytes());
        text(&mut hasher, from.as_str());
        text(&mut hasher, to.as_str());
        hasher.finalize()
    }
}

impl TryFrom<&[u8]> for Secret {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}
