//! The k-nearest-neighbour classifier on features (Wu et al. 2018, §3.4): the k training images with the largest
//! cosine vote for their class with weight `exp(cosine / temperature)`.
//!
//! The bank stays where it was computed: every rank searches its own share for a tile of queries after the other, and
//! the shares' neighbours are merged, so no rank ever holds the whole bank or the whole similarity matrix.

use tch::{Kind, Tensor};

/// Queries compared at once.
pub const QUERY_TILE: i64 = 1024;
/// Bank rows compared at once.
const BANK_TILE: i64 = 8192;

/// The best matches of each query so far.
#[derive(Debug)]
pub struct Neighbours {
    /// Cosines, `[queries, k]`, descending in each row.
    pub cosine: Tensor,
    /// Labels of the matches, `[queries, k]`, int64.
    pub label: Tensor,
}

/// The `k` best matches of each of `queries` in the bank, or all of a smaller bank.
///
/// `bank` is `[rows, d]` and `tile` is `[q, d]`, at most [`QUERY_TILE`] of the queries, both with unit rows; `labels` is
/// `[rows]`, int64. The bank is compared in tiles, too.
///
/// # Errors
/// Fails only where libtorch does.
pub fn nearest(
    bank: &Tensor,
    labels: &Tensor,
    tile: &Tensor,
    k: i64,
) -> Result<Neighbours, tch::TchError> {
    let empty = [tile.size()[0], 0];
    let mut best = Neighbours {
        cosine: Tensor::f_zeros(empty, (tile.kind(), tile.device()))?,
        label: Tensor::f_zeros(empty, (Kind::Int64, tile.device()))?,
    };
    for start in (0..bank.size()[0]).step_by(BANK_TILE as usize) {
        let count = BANK_TILE.min(bank.size()[0] - start);
        let cosine = tile.f_matmul(&bank.f_narrow(0, start, count)?.f_tr()?)?;
        let (cosine, index) = cosine.f_topk(k.min(count), 1, true, true)?;
        let label = labels
            .f_narrow(0, start, count)?
            .f_index_select(0, &index.f_flatten(0, 1)?)?
            .f_view_as(&index)?;
        best = merge(&[best, Neighbours { cosine, label }], k)?;
    }
    Ok(best)
}

/// The `k` best of several searches for the same queries.
///
/// # Errors
/// Fails only where libtorch does.
pub fn merge(parts: &[Neighbours], k: i64) -> Result<Neighbours, tch::TchError> {
    let cosine = Tensor::f_cat(
        &parts.iter().map(|part| &part.cosine).collect::<Vec<_>>(),
        1,
    )?;
    let label = Tensor::f_cat(&parts.iter().map(|part| &part.label).collect::<Vec<_>>(), 1)?;
    let (cosine, index) = cosine.f_topk(k.min(cosine.size()[1]), 1, true, true)?;
    Ok(Neighbours {
        cosine,
        label: label.f_gather(1, &index, false)?,
    })
}

/// The class with the largest vote for each query, `[queries]`, int64.
///
/// # Errors
/// Fails only where libtorch does.
pub fn vote(found: &Neighbours, temperature: f64, classes: i64) -> Result<Tensor, tch::TchError> {
    let weight = ((&found.cosine - 1.0) / temperature).f_exp()?; // the constant factor keeps exp in range
    let scores = Tensor::f_zeros(
        [found.cosine.size()[0], classes],
        (weight.kind(), weight.device()),
    )?;
    scores
        .f_scatter_add(1, &found.label, &weight)?
        .f_argmax(1, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_rows(rows: i64, seed: i64) -> Tensor {
        tch::manual_seed(seed);
        let x = Tensor::randn([rows, 6], (Kind::Double, tch::Device::Cpu));
        let norm = x.square().sum_dim_intlist(1i64, true, Kind::Double).sqrt();
        x / norm
    }

    /// The definition, one query at a time.
    fn naive(bank: &[Vec<f64>], labels: &[i64], query: &[f64], k: usize) -> i64 {
        let mut all: Vec<(f64, i64)> = bank
            .iter()
            .zip(labels)
            .map(|(row, label)| (row.iter().zip(query).map(|(a, b)| a * b).sum(), *label))
            .collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0));
        let mut votes = [0.0; 5];
        for (cosine, label) in &all[..k.min(all.len())] {
            votes[*label as usize] += (cosine / 0.1).exp();
        }
        (0..5)
            .max_by(|a, b| votes[*a].total_cmp(&votes[*b]))
            .unwrap() as i64
    }

    #[test]
    fn shares_of_the_bank_vote_as_the_definition_says() {
        let (bank, queries) = (unit_rows(9000, 1), unit_rows(40, 2));
        let labels = Tensor::randint(5, [9000], (Kind::Int64, tch::Device::Cpu));
        let rows = Vec::<Vec<f64>>::try_from(&bank).unwrap();
        let label_list = Vec::<i64>::try_from(&labels).unwrap();
        for k in [1, 20, 20_000] {
            let share = |start, count| {
                nearest(
                    &bank.narrow(0, start, count),
                    &labels.narrow(0, start, count),
                    &queries,
                    k,
                )
                .unwrap()
            };
            let found = merge(&[share(0, 8500), share(8500, 3), share(8503, 497)], k).unwrap();
            let classes = Vec::<i64>::try_from(vote(&found, 0.1, 5).unwrap()).unwrap();
            for (query, class) in Vec::<Vec<f64>>::try_from(&queries)
                .unwrap()
                .iter()
                .zip(classes)
            {
                assert_eq!(class, naive(&rows, &label_list, query, k as usize), "k {k}");
            }
        }
    }
}
