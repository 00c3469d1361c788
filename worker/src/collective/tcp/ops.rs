use std::ops::Range;
use std::time::Duration;

use diptych_common::ids::Rank;
use tch::{Device, Kind, TchError, Tensor};

use super::SMALL_BYTES;
use super::channel::Channel;
use super::ring::Plan;
use crate::collective::call::{self, Call};
use crate::collective::operand::{self, OperandProblem};
use crate::collective::{Collective, CollectiveError, Dtype, Op, sum};

// === impl Collective for Channel ===

impl Collective for Channel {
    fn rank(&self) -> Rank {
        Rank::new(Channel::rank(self) as u32)
    }

    fn world(&self) -> usize {
        Channel::world(self)
    }

    fn all_reduce(&self, tensor: &mut Tensor) -> Result<(), CollectiveError> {
        let refused = |problem| CollectiveError::Operand {
            op: Op::AllReduce,
            problem,
        };
        self.call(|sequence| {
            let dtype = operand::check_summable(tensor).map_err(refused)?;
            let call = self.announce(Op::AllReduce, sequence, Some((dtype, tensor)));
            let data = operand::bytes_mut(tensor).map_err(refused)?;
            if data.len() <= SMALL_BYTES {
                return self.sum_small(&call, dtype, data);
            }
            self.agree_only(&call)?;
            if dtype != Dtype::Bf16 {
                return self.sum_ring(dtype, data);
            }
            // The detached tensor shares memory with `tensor`, so that one that requires gradients may be written.
            let torch = |error: TchError| refused(error.into());
            let mut narrow = tensor.f_detach().map_err(torch)?;
            let mut wide = narrow.f_to_kind(Kind::Float).map_err(torch)?;
            self.sum_ring(Dtype::F32, operand::bytes_mut(&mut wide).map_err(refused)?)?;
            narrow.f_copy_(&wide).map_err(torch)
        })
    }

    fn all_gather(
        &self,
        tensor: &Tensor,
        rows_per_rank: &[i64],
    ) -> Result<Tensor, CollectiveError> {
        let refused = |problem| CollectiveError::Operand {
            op: Op::AllGather,
            problem,
        };
        self.call(|sequence| {
            let dtype = operand::check(tensor).map_err(refused)?;
            operand::check_rows(tensor, rows_per_rank, self.rank(), self.world())
                .map_err(refused)?;
            let own = operand::bytes(tensor).map_err(refused)?;
            let rows = call::rows_digest(rows_per_rank);
            let call = Call {
                rows,
                ..self.announce(Op::AllGather, sequence, Some((dtype, tensor)))
            };
            let mut gathered = room_for(tensor, rows_per_rank, dtype).map_err(refused)?;
            let data = operand::bytes_mut(&mut gathered).map_err(refused)?;
            let parts = shares(data.len(), rows_per_rank);
            data[parts[self.rank()].clone()].copy_from_slice(own);
            if parts.iter().all(|part| part.len() <= SMALL_BYTES) {
                self.agree(&call, own, split(data, &parts))?;
            } else {
                self.agree_only(&call)?;
                Plan::all_gather(&parts, self.rank()).run(self, dtype, data)?;
            }
            Ok(gathered)
        })
    }

    fn broadcast(&self, tensor: &mut Tensor, root: Rank) -> Result<(), CollectiveError> {
        let refused = |problem| CollectiveError::Operand {
            op: Op::Broadcast,
            problem,
        };
        self.call(|sequence| {
            let dtype = operand::check(tensor).map_err(refused)?;
            operand::check_root(root, self.world()).map_err(refused)?;
            let call = Call {
                root,
                ..self.announce(Op::Broadcast, sequence, Some((dtype, tensor)))
            };
            let data = operand::bytes_mut(tensor).map_err(refused)?;
            let root = root.get() as usize;
            if data.len() > SMALL_BYTES {
                self.agree_only(&call)?;
                return Plan::broadcast(data.len(), self.rank(), root, self.world())
                    .run(self, dtype, data);
            }
            if self.rank() == root {
                return self.agree(&call, data, self.no_rooms());
            }
            let mut rooms = self.no_rooms();
            rooms[root] = data;
            self.agree(&call, &[], rooms)
        })
    }

    fn barrier(&self) -> Result<(), CollectiveError> {
        self.call(|sequence| self.agree_only(&self.announce(Op::Barrier, sequence, None)))
    }

    fn waited(&self) -> Duration {
        Channel::waited(self)
    }

    fn abort(&self) {
        Channel::abort(self);
    }
}

// === impl Channel ===

impl Channel {
    fn announce(&self, op: Op, sequence: u64, operand: Option<(Dtype, &Tensor)>) -> Call {
        Call {
            rank: Rank::new(self.rank() as u32),
            sequence,
            op,
            dtype: operand.map(|(dtype, _)| dtype),
            shape: operand.map_or(Vec::new(), |(_, tensor)| tensor.size()),
            root: Rank::new(0),
            rows: 0,
        }
    }

    fn no_rooms<'a>(&self) -> Vec<&'a mut [u8]> {
        (0..self.world()).map(|_| &mut [][..]).collect()
    }

    fn agree_only(&self, call: &Call) -> Result<(), CollectiveError> {
        self.agree(call, &[], self.no_rooms())
    }

    /// Everyone's contribution to everyone, then the same sum everywhere.
    fn sum_small(&self, call: &Call, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        if data.is_empty() {
            return self.agree_only(call);
        }
        let mut contributions = vec![0; data.len() * self.world()];
        let mut rooms: Vec<&mut [u8]> = contributions.chunks_exact_mut(data.len()).collect();
        rooms[self.rank()].copy_from_slice(data);
        self.agree(call, data, rooms)?;
        let contributions: Vec<&[u8]> = contributions.chunks_exact(data.len()).collect();
        sum::add_in_rank_order(dtype, &contributions, data);
        Ok(())
    }

    fn sum_ring(&self, dtype: Dtype, data: &mut [u8]) -> Result<(), CollectiveError> {
        let elements = data.len() / dtype.bytes();
        Plan::all_reduce(elements, dtype.bytes(), self.rank(), self.world()).run(self, dtype, data)
    }
}

/// An uninitialised tensor for everyone's rows.
fn room_for(
    tensor: &Tensor,
    rows_per_rank: &[i64],
    dtype: Dtype,
) -> Result<Tensor, OperandProblem> {
    let mut shape = tensor.size();
    shape[0] = rows_per_rank.iter().sum();
    Ok(Tensor::f_empty(&shape, (dtype.kind(), Device::Cpu))?)
}

/// Where each rank's rows lie in the gathered bytes.
fn shares(bytes: usize, rows_per_rank: &[i64]) -> Vec<Range<usize>> {
    let rows: usize = rows_per_rank.iter().map(|rows| *rows as usize).sum();
    let row_bytes = bytes.checked_div(rows).unwrap_or(0);
    let mut end = 0;
    let share = |rows: &i64| {
        let start = end;
        end += *rows as usize * row_bytes;
        start..end
    };
    rows_per_rank.iter().map(share).collect()
}

/// `parts` are consecutive and cover `data`.
fn split<'a>(mut data: &'a mut [u8], parts: &[Range<usize>]) -> Vec<&'a mut [u8]> {
    let mut pieces = Vec::with_capacity(parts.len());
    for part in parts {
        let (piece, rest) = data.split_at_mut(part.len());
        pieces.push(piece);
        data = rest;
    }
    pieces
}
