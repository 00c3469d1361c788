//! Ranks and groups against plain batch norm with a graph.

use diptych_common::spec::Precision;

use super::*;
use crate::device::Compute;
use crate::verify::{on_ranks, rank_gangs};

/// Rows of `[n, 3, 2, 2]` with a mean far from zero, different on every row.
fn rows(start: i64, count: i64, channels_last: bool) -> Tensor {
    let x = Tensor::arange_start(
        start * 12,
        (start + count) * 12,
        (Kind::Double, tch::Device::Cpu),
    );
    let x = ((&x * 1.3).sin() * 2.0 + &x * 0.01 + 5.0).view([count, 3, 2, 2]);
    if channels_last {
        shim::channels_last(&x).expect("a copy")
    } else {
        x
    }
}

fn close(what: &str, got: &Tensor, expected: &Tensor) {
    let error =
        (got - expected).norm().double_value(&[]) / expected.norm().double_value(&[]).max(1e-3);
    assert!(error < 1e-12, "{what}: {error}");
}

/// Rows that each rank holds of each of two groups.
type Shares = Vec<[i64; 2]>;

#[test]
fn groups_over_ranks_equal_plain_batch_norm_of_each_group() {
    let cuts: [Shares; 4] = [
        vec![[6, 5]],
        vec![[4, 1], [2, 4]],
        vec![[1, 1], [2, 3], [3, 1]],
        vec![[1, 1], [1, 1], [3, 2], [1, 1]],
    ];
    for shares in cuts {
        for channels_last in [false, true] {
            compare(&shares, channels_last);
        }
    }
}

fn compare(shares: &Shares, channels_last: bool) {
    // Rows are numbered group by group, and within a group rank by rank.
    let totals = [0, 1].map(|group| shares.iter().map(|share| share[group]).sum::<i64>());
    let work: Vec<_> = rank_gangs(shares.len())
        .expect("gangs")
        .into_iter()
        .enumerate()
        .collect();
    on_ranks(work, |(rank, gang)| {
        let before = |group: usize| shares[..rank].iter().map(|share| share[group]).sum::<i64>();
        let starts = [before(0), totals[0] + before(1)];
        let part = |group: usize| rows(starts[group], shares[rank][group], channels_last);
        let mut build = Build::new(0, Compute::cpu(Precision::Fp64));
        let mut norm = BatchNorm::new(&mut build, "bn", 3, 1.5).expect("a layer");
        let x = shim::in_layout_of(&Tensor::cat(&[part(0), part(1)], 0), &part(0))
            .expect("x")
            .set_requires_grad(true);
        let mode = TrainMode::new(shares[rank].to_vec(), true, gang.statistics.clone());
        let y = norm.forward(&x, Mode::Train(&mode)).expect("forward");
        let seed = (&x.detach() * 3.0).cos();
        shim::backward(&[(&y, &seed)]).expect("backward");
        BatchNorm::commit([&mut norm]).expect("commit");

        let (mut start, mut means, mut vars) = (0, Vec::new(), Vec::new());
        for group in 0..2 {
            let whole = rows([0, totals[0]][group], totals[group], false).set_requires_grad(true);
            let gamma = Tensor::full([3], 1.5, (Kind::Double, tch::Device::Cpu));
            let zeros = Tensor::zeros([3], (Kind::Double, tch::Device::Cpu));
            let plain = whole.batch_norm(
                Some(&gamma),
                Some(&zeros),
                None::<&Tensor>,
                None::<&Tensor>,
                true,
                0.1,
                EPS,
                false,
            );
            let seed = (&whole.detach() * 3.0).cos();
            shim::backward(&[(&plain, &seed)]).expect("backward");
            let count = shares[rank][group];
            let mine = |t: &Tensor| t.narrow(0, before(group), count);
            close("output", &y.narrow(0, start, count), &mine(&plain));
            close(
                "gradient",
                &x.grad().narrow(0, start, count),
                &mine(&whole.grad()),
            );
            start += count;
            let by_channel = whole.detach().transpose(0, 1).flatten(1, -1);
            means.push(by_channel.mean_dim(1i64, false, Kind::Double));
            vars.push(by_channel.var_dim(1i64, false, false));
        }
        close(
            "running mean",
            &norm.running_mean,
            &((&means[0] + &means[1]) * 0.05),
        );
        close(
            "running variance",
            &norm.running_var,
            &((&vars[0] + &vars[1]) * 0.05 + 0.9),
        );
    })
    .expect("no panic");
}

#[test]
fn groups_must_cover_the_rows() {
    let gang = crate::collective::solo::gang();
    let mut build = Build::new(0, Compute::cpu(Precision::Fp64));
    let norm = BatchNorm::new(&mut build, "bn", 3, 1.0).expect("a layer");
    for group_rows in [vec![3], vec![2, 3], vec![4, 0]] {
        let mode = TrainMode::new(group_rows, true, gang.statistics.clone());
        let refused = norm.forward(&rows(0, 4, false), Mode::Train(&mode));
        assert!(
            matches!(refused, Err(StepError::Shape { .. })),
            "{refused:?}"
        );
    }
}
