//! A whole state from the rank that has it to all others, over the gang.

use diptych_common::digest::Digest;
use diptych_common::ids::{Rank, Step};
use tch::{Kind, Tensor, no_grad};

use super::PhaseError;
use crate::collective::Collective;
use crate::project::NamedTensor;

/// Bytes that travel in one broadcast.
const CHUNK: i64 = 8 << 20;

/// A part of a tensor's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    tensor: usize,
    start: i64,
    bytes: i64,
}

/// The source's state, in tensors of their own; all ranks call together, each with its own state, which only says what
/// tensors there are. On the source it is what was given.
///
/// # Errors
/// Fails where the collective or libtorch does.
pub fn from(
    source: Rank,
    state: &[NamedTensor],
    channel: &dyn Collective,
) -> Result<Vec<NamedTensor>, PhaseError> {
    let gives = channel.rank() == source;
    let mut flat = state
        .iter()
        .map(|own| flat(&own.tensor, gives))
        .collect::<Result<Vec<_>, _>>()?;
    let sizes: Vec<i64> = flat.iter().map(|bytes| bytes.size()[0]).collect();
    for chunk in chunks(&sizes, CHUNK) {
        let Some(first) = chunk.first() else { continue };
        let total = chunk.iter().map(|piece| piece.bytes).sum::<i64>();
        let device = flat[first.tensor].device();
        let mut travelling = Tensor::f_empty([total], (Kind::Uint8, device))?;
        let places = |travelling: &Tensor| -> Result<Vec<Tensor>, tch::TchError> {
            let mut at = 0;
            let place = |piece: &Piece| {
                at += piece.bytes;
                travelling.f_narrow(0, at - piece.bytes, piece.bytes)
            };
            chunk.iter().map(place).collect()
        };
        if gives {
            for (mut place, piece) in places(&travelling)?.into_iter().zip(&chunk) {
                place.f_copy_(&flat[piece.tensor].f_narrow(0, piece.start, piece.bytes)?)?;
            }
        }
        channel.broadcast(&mut travelling, source)?;
        if !gives {
            for (place, piece) in places(&travelling)?.into_iter().zip(&chunk) {
                let mut to = flat[piece.tensor].f_narrow(0, piece.start, piece.bytes)?;
                to.f_copy_(&place)?;
            }
        }
    }
    channel.settle()?;
    let named = state.iter().zip(flat.drain(..)).map(|(own, bytes)| {
        let kind = own.tensor.kind();
        Ok(NamedTensor {
            name: own.name.clone(),
            role: own.role,
            tensor: bytes
                .f_view_dtype(kind)?
                .f_view(own.tensor.size().as_slice())?,
        })
    });
    named.collect()
}

/// Refuses a state that is not the one that was announced.
///
/// # Errors
/// [`PhaseError::Diverged`].
pub fn verify(
    given: &[NamedTensor],
    announced: Digest,
    (source, step): (Rank, Step),
) -> Result<(), PhaseError> {
    let digest = Digest::new(NamedTensor::digest(given)?.into());
    if digest == announced {
        return Ok(());
    }
    Err(PhaseError::Diverged(format!(
        "the state of step {step} that rank {source} gave has digest {digest}, not {announced}: memory or network \
         changed it"
    )))
}

/// A tensor's bytes in row-major order, or room for them.
fn flat(tensor: &Tensor, gives: bool) -> Result<Tensor, tch::TchError> {
    let count = tensor.numel() as i64;
    if !gives {
        let bytes = count * tensor.kind().elt_size_in_bytes() as i64;
        return Tensor::f_empty([bytes], (Kind::Uint8, tensor.device()));
    }
    no_grad(|| {
        let dense = tensor.f_detach()?.f_contiguous()?;
        dense.f_view([count])?.f_view_dtype(Kind::Uint8)
    })
}

/// All bytes of tensors of these sizes, in order, in chunks of at most `most`.
fn chunks(sizes: &[i64], most: i64) -> Vec<Vec<Piece>> {
    let mut chunks: Vec<Vec<Piece>> = Vec::new();
    let mut room = 0;
    for (tensor, &size) in sizes.iter().enumerate() {
        let mut start = 0;
        while start < size {
            if room == 0 {
                chunks.push(Vec::new());
                room = most;
            }
            let bytes = room.min(size - start);
            let piece = Piece {
                tensor,
                start,
                bytes,
            };
            chunks
                .last_mut()
                .into_iter()
                .for_each(|last| last.push(piece));
            start += bytes;
            room -= bytes;
        }
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_byte_once_and_in_order() {
        let piece = |tensor, start, bytes| Piece {
            tensor,
            start,
            bytes,
        };
        let expected = vec![
            vec![piece(0, 0, 3), piece(2, 0, 7)],
            vec![piece(2, 7, 10)],
            vec![piece(2, 17, 3), piece(3, 0, 1)],
        ];
        assert_eq!(chunks(&[3, 0, 20, 1], 10), expected);
        assert!(chunks(&[], 10).is_empty());
    }
}
