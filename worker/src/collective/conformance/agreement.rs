use diptych_common::ids::Rank;
use tch::{Device, Kind, Tensor};

use super::{DISTRIBUTED, on_ranks, rank_of};
use crate::collective::{Collective, CollectiveError, OperandProblem};

type CallOn = fn(&dyn Collective) -> Result<(), CollectiveError>;

type Expected = fn(&OperandProblem) -> bool;

fn zeros(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::zeros(shape, (kind, Device::Cpu))
}

fn reduce(collective: &dyn Collective, shape: &[i64], kind: Kind) -> Result<(), CollectiveError> {
    collective.all_reduce(&mut zeros(shape, kind))
}

/// What the ranks agree on, and what the last rank does instead.
const DISAGREEMENTS: [(&str, CallOn, CallOn); 9] = [
    (
        "operation",
        |c| reduce(c, &[4], Kind::Float),
        |c| c.broadcast(&mut zeros(&[4], Kind::Float), Rank::new(0)),
    ),
    (
        "barrier or not",
        |c| c.barrier(),
        |c| reduce(c, &[4], Kind::Float),
    ),
    (
        "size",
        |c| reduce(c, &[4], Kind::Float),
        |c| reduce(c, &[5], Kind::Float),
    ),
    (
        "size across the paths",
        |c| reduce(c, &[4], Kind::Float),
        |c| reduce(c, &[400_000], Kind::Float),
    ),
    (
        "size on the large path",
        |c| reduce(c, &[400_001], Kind::Float),
        |c| reduce(c, &[400_000], Kind::Float),
    ),
    (
        "shape",
        |c| reduce(c, &[2, 3], Kind::Float),
        |c| reduce(c, &[3, 2], Kind::Float),
    ),
    (
        "dtype",
        |c| reduce(c, &[4], Kind::Double),
        |c| reduce(c, &[4], Kind::Int64),
    ),
    (
        "root",
        |c| c.broadcast(&mut zeros(&[4], Kind::Float), Rank::new(0)),
        |c| c.broadcast(&mut zeros(&[4], Kind::Float), Rank::new(1)),
    ),
    (
        "rows",
        |c| {
            c.all_gather(&zeros(&[2, 3], Kind::Float), &vec![2; c.world()])
                .map(drop)
        },
        |c| {
            let mut rows = vec![1; c.world()];
            rows[c.world() - 1] = 2;
            c.all_gather(&zeros(&[2, 3], Kind::Float), &rows).map(drop)
        },
    ),
];

#[test]
fn every_rank_hears_of_a_disagreement() {
    for (_, gangs_of) in DISTRIBUTED {
        for world in [2, 3, 4] {
            for (what, most, last) in DISAGREEMENTS {
                let gangs = gangs_of(world).expect("it has every world");
                let errors = on_ranks(what, gangs, move |gang| {
                    let collective = gang.gradients.as_ref();
                    let call = if rank_of(collective) + 1 == world as i64 {
                        last
                    } else {
                        most
                    };
                    let error = call(collective).expect_err("the ranks disagree");
                    assert_eq!(
                        gang.statistics.barrier(),
                        Err(error.clone()),
                        "a failed gang stays failed"
                    );
                    error
                });
                for (rank, error) in errors.iter().enumerate() {
                    assert!(
                        matches!(error, CollectiveError::Mismatch(_)),
                        "{what}, world {world}, rank {rank}: {error}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_missed_call_is_a_disagreement_about_the_sequence() {
    for (_, gangs_of) in DISTRIBUTED {
        let gangs = gangs_of(3).expect("it has every world");
        let errors = on_ranks("sequence", gangs, |gang| {
            let collective = gang.statistics.as_ref();
            // Ranks 0 and 1 reduce and then meet; rank 2 forgets the reduction.
            if rank_of(collective) < 2 {
                reduce(collective, &[1], Kind::Float).and_then(|()| collective.barrier())
            } else {
                collective.barrier()
            }
        });
        assert!(
            errors
                .iter()
                .all(|error| matches!(error, Err(CollectiveError::Mismatch(_)))),
            "{errors:?}"
        );
    }
}

#[test]
fn a_disagreement_names_both_calls() {
    for (_, gangs_of) in DISTRIBUTED {
        let gangs = gangs_of(2).expect("it has every world");
        let errors = on_ranks("text", gangs, |gang| {
            reduce(
                gang.gradients.as_ref(),
                &[3, 4 + i64::from(gang.rank().get())],
                Kind::Float,
            )
        });
        for error in errors {
            let text = error.expect_err("the ranks disagree").to_string();
            for part in [
                "rank 0 made call 0, all_reduce of f32 [3, 4]",
                "rank 1 made call 0, all_reduce of f32 [3, 5]",
            ] {
                assert!(text.contains(part), "{text}");
            }
        }
    }
}

#[test]
fn operands_that_cannot_travel_are_refused_by_every_backend() {
    let refused: [(CallOn, Expected); 7] = [
        (
            |c| c.all_reduce(&mut zeros(&[2, 3], Kind::Float).transpose(0, 1)),
            |problem| matches!(problem, OperandProblem::NotContiguous),
        ),
        (
            |c| reduce(c, &[2], Kind::Uint8),
            |problem| matches!(problem, OperandProblem::WrongKind(Kind::Uint8)),
        ),
        (
            |c| reduce(c, &[2], Kind::Half),
            |problem| matches!(problem, OperandProblem::WrongKind(Kind::Half)),
        ),
        (
            |c| reduce(c, &[1; 9], Kind::Float),
            |problem| matches!(problem, OperandProblem::TooManyDims(9)),
        ),
        (
            |c| c.all_gather(&zeros(&[2], Kind::Float), &[]).map(drop),
            |problem| matches!(problem, OperandProblem::WrongRows { own: 2, .. }),
        ),
        (
            |c| {
                c.all_gather(&zeros(&[], Kind::Float), &vec![1; c.world()])
                    .map(drop)
            },
            |problem| matches!(problem, OperandProblem::NoRows),
        ),
        (
            |c| c.broadcast(&mut zeros(&[2], Kind::Float), Rank::new(9)),
            |problem| matches!(problem, OperandProblem::NoSuchRoot(_)),
        ),
    ];
    for (call, expected) in refused {
        let alone =
            |(_, gangs_of): (_, super::Backend)| gangs_of(1).expect("it has every world").remove(0);
        for gang in super::BACKENDS.map(alone) {
            match call(gang.gradients.as_ref()) {
                Err(CollectiveError::Operand { problem, .. }) => {
                    assert!(expected(&problem), "{problem}")
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
