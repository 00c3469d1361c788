use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use diptych_common::ids::Rank;
use tch::{Device, Kind, Tensor};

use super::rank_of;
use crate::collective::{Collective, Gang, operand};

const SUMMED: [Kind; 4] = [Kind::Float, Kind::Double, Kind::BFloat16, Kind::Int64];
const CARRIED: [Kind; 5] = [
    Kind::Float,
    Kind::Double,
    Kind::BFloat16,
    Kind::Int64,
    Kind::Uint8,
];

/// How much later than the others the last rank comes.
const LATE: Duration = Duration::from_millis(50);

/// Around the limits of the small path and of a chunk, odd, tiny and empty.
const SIZES: [i64; 9] = [0, 1, 3, 7, 1000, 8191, 16385, 65537, 300_007];

/// What every backend promises of its values, by name; one test for each.
macro_rules! promises {
    ($($name:ident,)*) => {
        pub(super) const PROMISES: &[(&str, fn(&Gang))] = &[$((stringify!($name), $name),)*];

        mod on_every_backend {
            $(
                #[test]
                fn $name() {
                    super::super::everywhere(super::$name);
                }
            )*
        }
    };
}

promises! {
    all_reduce_sums_every_kind_and_size,
    all_reduce_gives_the_same_bits_on_all_ranks_and_again,
    bf16_sums_accumulate_in_f32,
    all_gather_takes_uneven_and_empty_shares,
    broadcast_copies_from_any_root,
    scalars_and_tensors_that_require_gradients_are_taken,
    whoever_comes_first_has_waited,
    channels_do_not_wait_for_each_other,
}

/// Different on every rank and place; sums over 4 ranks are exact in every kind.
fn sample(rank: i64, len: i64, kind: Kind) -> Tensor {
    let values = Tensor::arange(len, (Kind::Int64, Device::Cpu));
    ((values * 5 + rank * 3).remainder(13)).to_kind(kind)
}

/// Magnitudes that differ so much that the order of a sum shows in its bits.
fn rough(rank: i64, len: i64, kind: Kind) -> Tensor {
    let places = Tensor::arange(len, (Kind::Double, Device::Cpu));
    ((&places * 0.37 + rank as f64).sin() * (places * 0.11 + (rank * 2) as f64).cos().exp2() * 1e3)
        .to_kind(kind)
}

fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.size() == b.size() && operand::bytes(a) == operand::bytes(b)
}

fn gathered(collective: &dyn Collective, tensor: &Tensor) -> Vec<Tensor> {
    let rows = vec![tensor.size()[0]; collective.world()];
    collective
        .all_gather(tensor, &rows)
        .expect("gather")
        .split(tensor.size()[0].max(1), 0)
}

fn all_reduce_sums_every_kind_and_size(gang: &Gang) {
    let collective = gang.gradients.as_ref();
    for kind in SUMMED {
        for len in SIZES {
            let mut tensor = sample(rank_of(collective), len, kind);
            collective.all_reduce(&mut tensor).expect("all_reduce");
            let terms = (0..collective.world() as i64).map(|rank| sample(rank, len, Kind::Int64));
            let sum = terms.fold(
                Tensor::zeros(len, (Kind::Int64, Device::Cpu)),
                |a: Tensor, b| a + b,
            );
            assert!(same_bits(&tensor, &sum.to_kind(kind)), "{kind:?} × {len}");
        }
    }
}

fn all_reduce_gives_the_same_bits_on_all_ranks_and_again(gang: &Gang) {
    let collective = gang.statistics.as_ref();
    for kind in [Kind::Float, Kind::Double, Kind::BFloat16] {
        for len in [5, 16385, 100_003] {
            let reduce = || {
                let mut tensor = rough(rank_of(collective), len, kind);
                collective.all_reduce(&mut tensor).expect("all_reduce");
                tensor
            };
            let first = reduce();
            assert!(
                same_bits(&first, &reduce()),
                "{kind:?} × {len} differs between runs"
            );
            for (rank, other) in gathered(collective, &first).iter().enumerate() {
                assert!(
                    same_bits(&first, other),
                    "{kind:?} × {len} differs on rank {rank}"
                );
            }
        }
    }
}

fn bf16_sums_accumulate_in_f32(gang: &Gang) {
    let collective = gang.gradients.as_ref();
    // 256 + 1 + 1 + 1: bf16 holds 256 and 258 but not 257, so adding one by one in bf16 stays at 256.
    for len in [3, 70_000] {
        let own = if rank_of(collective) == 0 { 256.0 } else { 1.0 };
        let mut tensor = Tensor::full(len, own, (Kind::BFloat16, Device::Cpu));
        collective.all_reduce(&mut tensor).expect("all_reduce");
        let sum = Tensor::full(
            len,
            255.0 + collective.world() as f64,
            (Kind::Float, Device::Cpu),
        );
        assert!(same_bits(&tensor, &sum.to_kind(Kind::BFloat16)));
    }
    for special in [f64::INFINITY, f64::NAN, -0.0, 1e-40] {
        let mut tensor = Tensor::full(2, special, (Kind::BFloat16, Device::Cpu));
        collective.all_reduce(&mut tensor).expect("all_reduce");
        let sum = (special as f32) * collective.world() as f32;
        let got = tensor.double_value(&[0]);
        assert!(
            got.is_nan() == sum.is_nan()
                && (sum.is_nan() || (got - f64::from(sum)).abs() < 1e-40 || got == f64::from(sum))
        );
    }
}

fn all_gather_takes_uneven_and_empty_shares(gang: &Gang) {
    let collective = gang.statistics.as_ref();
    let shares: [fn(i64) -> i64; 5] = [
        |_| 0,
        |rank| rank,
        |rank| (3 - rank).max(0),
        |rank| 40_000 * rank,
        |rank| if rank == 1 { 90_001 } else { 0 },
    ];
    for kind in CARRIED {
        for rows_of in shares {
            let rows: Vec<i64> = (0..collective.world() as i64).map(rows_of).collect();
            let share = |rank: i64| sample(rank, rows_of(rank) * 3, kind).view([rows_of(rank), 3]);
            let out = collective
                .all_gather(&share(rank_of(collective)), &rows)
                .expect("all_gather");
            let all: Vec<Tensor> = (0..collective.world() as i64).map(share).collect();
            assert!(
                same_bits(&out, &Tensor::cat(&all, 0)),
                "{kind:?} rows {rows:?}"
            );
        }
    }
}

fn broadcast_copies_from_any_root(gang: &Gang) {
    let collective = gang.gradients.as_ref();
    for root in 0..collective.world() as i64 {
        for kind in CARRIED {
            for len in [0, 1, 9, 65537, 300_007] {
                let mut tensor = sample(rank_of(collective), len, kind);
                collective
                    .broadcast(&mut tensor, Rank::new(root as u32))
                    .expect("broadcast");
                assert!(
                    same_bits(&tensor, &sample(root, len, kind)),
                    "{kind:?} × {len} from {root}"
                );
            }
        }
    }
}

fn scalars_and_tensors_that_require_gradients_are_taken(gang: &Gang) {
    let collective = gang.gradients.as_ref();
    let mut scalar = Tensor::from(1.5_f64);
    collective.all_reduce(&mut scalar).expect("scalar");
    assert_eq!(scalar.double_value(&[]), 1.5 * collective.world() as f64);
    for kind in [Kind::Float, Kind::BFloat16] {
        let mut leaf = Tensor::ones(40_000, (kind, Device::Cpu)).set_requires_grad(true);
        collective.all_reduce(&mut leaf).expect("leaf");
        assert_eq!(
            leaf.detach().max().double_value(&[]),
            collective.world() as f64
        );
        let share = Tensor::ones([2, 2], (kind, Device::Cpu)).set_requires_grad(true);
        let all = collective
            .all_gather(&share, &vec![2; collective.world()])
            .expect("gather");
        assert!(!all.requires_grad());
    }
}

#[test]
fn no_rank_leaves_a_barrier_before_all_have_entered() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static ENTERED: [AtomicUsize; 2] = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let rounds = 20;
    let gangs = super::tcp_gangs(3).expect("tcp has every world");
    super::on_ranks("barrier", gangs, move |gang| {
        for round in 1..=rounds {
            ENTERED[0].fetch_add(1, Ordering::SeqCst);
            gang.statistics.barrier().expect("barrier");
            assert!(ENTERED[0].load(Ordering::SeqCst) >= 3 * round);
        }
        ENTERED[1].fetch_add(1, Ordering::SeqCst);
    });
    assert_eq!(ENTERED[1].load(Ordering::SeqCst), 3);
}

fn whoever_comes_first_has_waited(gang: &Gang) {
    let alone = gang.world() == 1;
    // The last rank keeps the others waiting.
    if !alone && gang.rank().get() as usize + 1 == gang.world() {
        let (_open, nothing) = std::sync::mpsc::channel::<()>();
        let _ = nothing.recv_timeout(LATE);
    }
    let started = Instant::now();
    gang.statistics.barrier().expect("barrier");
    let met = started.elapsed();
    let waited = gang.statistics.waited();
    assert!(waited <= met, "{waited:?} of {met:?}");
    // Whoever entered long before the end was blocked for nearly all of it.
    assert!(
        alone || met < LATE || waited >= met / 2,
        "{waited:?} of {met:?}"
    );
    assert_eq!(
        gang.gradients.waited(),
        if alone { waited } else { Duration::ZERO }
    );
}

fn channels_do_not_wait_for_each_other(gang: &Gang) {
    // Half of the ranks start with the other channel: with one channel this is a mismatch or a deadlock.
    let gradients = Arc::clone(&gang.gradients);
    let reducer = thread::spawn(move || {
        for _ in 0..20 {
            let mut tensor = Tensor::ones(50_000, (Kind::Float, Device::Cpu));
            gradients.all_reduce(&mut tensor).expect("gradients");
        }
    });
    if rank_of(gang.statistics.as_ref()) % 2 == 0 {
        reducer.join().expect("no panic");
        gang.statistics.barrier().expect("statistics");
    } else {
        gang.statistics.barrier().expect("statistics");
        reducer.join().expect("no panic");
    }
}
