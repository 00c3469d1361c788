//! Which rank writes which tensor: state is replicated, so each rank writes a part of it, about as many bytes each.

use std::cmp::Reverse;

use super::manifest::TensorEntry;
use super::{Dtype, Role, shard};

/// One tensor of the training state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMeta {
    /// Unique in the state.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// What it is for.
    pub role: Role,
}

impl TensorMeta {
    /// Its size in bytes; saturates for impossible shapes.
    pub fn bytes(&self) -> u64 {
        self.dtype.bytes(&self.shape).unwrap_or(u64::MAX)
    }
}

/// The rank that writes each tensor, in the order of `tensors`: the largest tensor first, to the rank with the fewest
/// bytes so far. The same on every rank. A rank may get nothing.
pub fn assign(tensors: &[TensorMeta], world: u32) -> Vec<u32> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by(|a, b| {
        Reverse(tensors[*a].bytes())
            .cmp(&Reverse(tensors[*b].bytes()))
            .then(tensors[*a].name.cmp(&tensors[*b].name))
    });
    let mut load = vec![0_u64; world.max(1) as usize];
    let mut ranks = vec![0; tensors.len()];
    for index in order {
        let rank = (0..load.len()).min_by_key(|rank| load[*rank]).unwrap_or(0);
        load[rank] = load[rank].saturating_add(tensors[index].bytes());
        ranks[index] = rank as u32;
    }
    ranks
}

/// The manifest's tensor table when every rank has written its part: shard r is rank r's.
pub fn table(tensors: &[TensorMeta], world: u32) -> Vec<TensorEntry> {
    let ranks = assign(tensors, world);
    let mut entries = Vec::with_capacity(tensors.len());
    for shard in 0..world.max(1) {
        let part: Vec<&TensorMeta> = tensors
            .iter()
            .zip(&ranks)
            .filter(|(_, r)| **r == shard)
            .map(|(t, _)| t)
            .collect();
        entries.extend(
            shard::layout(&part)
                .into_iter()
                .map(|(tensor, range)| TensorEntry {
                    name: tensor.name.clone(),
                    dtype: tensor.dtype,
                    shape: tensor.shape.clone(),
                    role: tensor.role,
                    shard,
                    range,
                }),
        );
    }
    entries
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tensors(sizes: &[u64]) -> Vec<TensorMeta> {
        let tensor = |(i, size): (usize, &u64)| TensorMeta {
            name: format!("t{i}"),
            dtype: Dtype::F32,
            shape: vec![*size],
            role: Role::Weight,
        };
        sizes.iter().enumerate().map(tensor).collect()
    }

    proptest! {
        #[test]
        fn every_tensor_has_one_rank_and_loads_are_level(
            sizes in prop::collection::vec(0_u64..1000, 0..60), world in 1_u32..9,
        ) {
            let tensors = tensors(&sizes);
            let ranks = assign(&tensors, world);
            prop_assert_eq!(ranks.len(), tensors.len());
            let mut load = vec![0; world as usize];
            for (rank, tensor) in ranks.iter().zip(&tensors) {
                load[*rank as usize] += tensor.bytes();
            }
            let (most, least) = (load.iter().max().unwrap(), load.iter().min().unwrap());
            let largest = tensors.iter().map(TensorMeta::bytes).max().unwrap_or(0);
            prop_assert!(most - least <= largest, "{:?}", load);
            prop_assert_eq!(table(&tensors, world).len(), tensors.len());
        }
    }
}
