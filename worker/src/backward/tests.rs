//! The maths does not know the machine: one step on any number of ranks, and any micro-batch, is the same step.

use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, Precision, Stem};
use tch::{Kind, Tensor};

use super::{Term, supervised_step};
use crate::collective::{Gang, solo};
use crate::device::StepError;
use crate::loss::{cross_entropy, hits};
use crate::project::{HeadPart, ModelSpec, Reader};
use crate::verify::{on_ranks, rank_gangs};

use rig::{LOSS, Rig};

mod rig; // a rank with everything that a step takes
mod bf16; // precision of what is computed, and of what stays

const BATCH: u32 = 8;

/// Where a step runs.
#[derive(Debug, Clone, Copy)]
struct Machine {
    world: usize,
    groups: u32,
    groups_at_once: u32,
    precision: Precision,
}

impl Machine {
    /// One group, held at once.
    fn plain(world: usize, precision: Precision) -> Self {
        Self {
            world,
            groups: 1,
            groups_at_once: 1,
            precision,
        }
    }
}

/// What some steps leave behind.
struct Left {
    figures: Vec<f64>,
    /// Of the last step.
    gradients: Vec<(String, Vec<f64>)>,
    state: Vec<(String, Vec<f64>)>,
}

fn spec(head: bool) -> ModelSpec {
    let reader = Reader {
        layer: 0,
        classes: 3,
    };
    ModelSpec {
        head: head.then_some(HeadPart {
            spec: HeadSpec { layers: 2, dim: 8 },
            layers: 2,
        }),
        classifier: (!head).then_some(reader),
        probe: head.then_some(reader),
        ..ModelSpec::bare(EncoderSpec {
            width: 1.0 / 16.0,
            stem: Stem::Cifar,
            ..EncoderSpec::torchvision(Depth::D18)
        })
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
}

fn train(machine: Machine, contrastive: bool, steps: u32) -> Vec<Left> {
    train_model(&spec(contrastive), machine, contrastive, steps)
}

fn train_model(spec: &ModelSpec, machine: Machine, contrastive: bool, steps: u32) -> Vec<Left> {
    let gangs = rank_gangs(machine.world).expect("gangs");
    train_over(gangs, spec, machine, contrastive, steps)
}

fn train_over(
    gangs: Vec<Gang>,
    spec: &ModelSpec,
    machine: Machine,
    contrastive: bool,
    steps: u32,
) -> Vec<Left> {
    on_ranks(gangs, |gang| {
        let views = if contrastive { 2 } else { 1 };
        let mut rig = Rig::new(spec, machine, views, gang);
        let mut figures = Vec::new();
        let mut gradients = Vec::new();
        for _ in 0..steps {
            if contrastive {
                let output = rig.step().expect("a step");
                let probe = output.probe.expect("a probe");
                figures.extend([
                    output.loss,
                    output.accuracy,
                    output.entropy,
                    probe.loss,
                    probe.accuracy,
                ]);
            } else {
                let output = supervised_step(
                    &rig.model,
                    &mut rig.buckets,
                    &rig.batches,
                    &rig.gang,
                    |_, outputs, batch| {
                        let (logits, labels) = (
                            outputs.logits.as_ref().expect("logits"),
                            batch.labels.as_ref().expect("labels"),
                        );
                        let loss = cross_entropy(logits, labels)? / f64::from(BATCH);
                        Ok(Term {
                            loss,
                            counts: vec![hits(logits, labels, 1)?],
                        })
                    },
                )
                .expect("a step");
                figures.push(output.loss);
                figures.extend(output.counts);
            }
            let named = rig.model.trained().zip(rig.buckets.gradients());
            gradients = named
                .map(|(parameter, gradient)| (parameter.name.clone(), numbers(gradient)))
                .collect();
            rig.commit().expect("a commit");
        }
        Left {
            figures,
            gradients,
            state: rig
                .state()
                .iter()
                .map(|t| (t.name.clone(), numbers(&t.tensor)))
                .collect(),
        }
    })
    .expect("no panic")
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).powi(2))
        .sum::<f64>()
        .sqrt()
}

fn norm(a: &[f64]) -> f64 {
    distance(a, &vec![0.0; a.len()])
}

fn assert_same(
    what: &str,
    got: &[(String, Vec<f64>)],
    expected: &[(String, Vec<f64>)],
    tolerance: f64,
) {
    assert_eq!(got.len(), expected.len());
    for ((name, got), (_, expected)) in got.iter().zip(expected) {
        let scale = norm(expected).max(1e-3);
        assert!(
            distance(got, expected) <= tolerance * scale,
            "{what}: {name} differs by {}",
            distance(got, expected) / scale
        );
    }
}

/// Worlds of 1 to 4 and every micro-batch against one rank that holds all groups at once.
fn same_everywhere(precision: Precision, contrastive: bool, check: impl Fn(&str, &Left, &Left)) {
    // In double precision a second step starts from what the first committed; in single precision the update's
    // rounding would be measured, so that one step is compared: for a classifier, which starts at zero, the first that
    // reaches the encoder.
    let steps = match (precision, contrastive) {
        (Precision::Fp64, _) | (_, false) => 2,
        (Precision::Fp32 | Precision::Bf16, true) => 1,
    };
    for groups in [1, 2] {
        let machine = |world, groups_at_once| Machine {
            world,
            groups,
            groups_at_once,
            precision,
        };
        let reference = train(machine(1, groups), contrastive, steps);
        assert!(
            norm(&reference[0].gradients[0].1) > 0.0,
            "the first convolution learns"
        );
        for world in 1..=4 {
            for groups_at_once in 1..=groups {
                let machine = machine(world, groups_at_once);
                for left in train(machine, contrastive, steps) {
                    check(&format!("{machine:?}"), &left, &reference[0]);
                }
            }
        }
    }
}

fn exact(what: &str, left: &Left, reference: &Left) {
    assert!(
        distance(&left.figures, &reference.figures) < 1e-12,
        "{what}: {:?}",
        left.figures
    );
    assert_same(what, &left.gradients, &reference.gradients, 1e-12);
    assert_same(what, &left.state, &reference.state, 1e-12);
}

fn single(what: &str, left: &Left, reference: &Left) {
    let (loss, expected) = (left.figures[0], reference.figures[0]);
    assert!(
        (loss - expected).abs() <= 1e-4 * expected.abs(),
        "{what}: loss {loss}, not {expected}"
    );
    assert_same(what, &left.gradients, &reference.gradients, 1e-4);
}

#[test]
fn a_contrastive_step_is_the_same_on_every_machine() {
    same_everywhere(Precision::Fp64, true, exact);
}

#[test]
fn selective_kernels_and_other_heads_are_the_same_on_every_machine() {
    let networks = [(Depth::D50, true, Some(3)), (Depth::D18, true, None)];
    for (depth, selective_kernel, layers) in networks {
        let base = spec(true);
        let network = ModelSpec {
            encoder: EncoderSpec {
                depth,
                selective_kernel,
                ..base.encoder.clone()
            },
            head: layers.map(|layers| HeadPart {
                spec: HeadSpec { layers, dim: 8 },
                layers,
            }),
            probe: Some(Reader {
                layer: layers.unwrap_or(0),
                classes: 3,
            }),
            ..base
        };
        let machine = |world, groups_at_once| Machine {
            world,
            groups: 2,
            groups_at_once,
            precision: Precision::Fp64,
        };
        let reference = train_model(&network, machine(1, 2), true, 2);
        for left in train_model(&network, machine(3, 1), true, 2) {
            exact(
                &format!("{depth} with {layers:?} layers"),
                &left,
                &reference[0],
            );
        }
    }
}

#[test]
fn without_a_head_the_loss_compares_the_encoders_outputs() {
    let bare = ModelSpec {
        head: None,
        ..spec(true)
    };
    let alone = Machine::plain(1, Precision::Fp64);
    let mut rig = Rig::new(&bare, alone, 2, solo::gang());
    let output = rig.step().expect("a step");
    let mode = crate::encode::TrainMode::new(
        rig.batches[0].group_rows.clone(),
        false,
        rig.gang.statistics.clone(),
    );
    let outputs = rig
        .model
        .forward(&rig.batches[0].images, crate::encode::Mode::Train(&mode))
        .expect("outputs");
    let [features] = &outputs.layers[..] else {
        panic!("h alone")
    };
    let expected = crate::loss::nt_xent(
        &features.detach(),
        &LOSS,
        &rig.order,
        None,
        rig.gang.statistics.as_ref(),
    )
    .and_then(|found| found.figures())
    .expect("a loss");
    assert!((output.loss - expected.loss).abs() < 1e-12);
    assert!(norm(&numbers(&rig.buckets.gradients()[0])) > 0.0);
}

#[test]
fn a_supervised_step_is_the_same_on_every_machine() {
    same_everywhere(Precision::Fp64, false, exact);
}

#[test]
fn steps_in_single_precision_differ_by_rounding_alone() {
    same_everywhere(Precision::Fp32, true, single);
    same_everywhere(Precision::Fp32, false, single);
}

#[test]
fn an_aborted_step_changes_nothing() {
    let without_probe = ModelSpec {
        probe: None,
        ..spec(true)
    };
    let gangs = rank_gangs(2).expect("gangs");
    let kept = on_ranks(gangs, |gang: Gang| {
        let mut rig = Rig::new(&without_probe, Machine::plain(2, Precision::Fp64), 2, gang);
        rig.step().expect("a step");
        rig.commit().expect("a commit");
        let before = rig.digest();

        // Rank 1 goes after the forward pass, whose statistics both ranks have staged.
        let error = if rig.gang.rank().get() == 1 {
            let mode = crate::encode::TrainMode::new(
                rig.batches[0].group_rows.clone(),
                true,
                rig.gang.statistics.clone(),
            );
            rig.model
                .forward(&rig.batches[0].images, crate::encode::Mode::Train(&mode))
                .expect("a forward pass");
            rig.gang.statistics.abort();
            None
        } else {
            rig.step().err()
        };
        if rig.gang.rank().get() == 0 {
            assert!(matches!(error, Some(StepError::Collective(_))), "{error:?}");
        }
        rig.model.discard_step();
        rig.model.commit_statistics().expect("nothing to commit");
        before == rig.digest()
    });
    assert_eq!(kept.expect("no panic"), [true, true]);
}

#[test]
fn ranks_whose_calls_are_queued_by_the_thread_of_backward_learn_the_same() {
    let machine = Machine::plain(2, Precision::Fp64);
    let spec = spec(true);
    let queued = crate::collective::pretend_gangs(2).expect("it has every world");
    assert!(queued.iter().all(|gang| gang.gradients.only_queues()));
    let queued = train_over(queued, &spec, machine, true, 3);
    for (queued, told) in queued.iter().zip(train_model(&spec, machine, true, 3)) {
        for ((name, own), (_, other)) in queued.state.iter().zip(&told.state) {
            assert!(distance(own, other) < 1e-12, "{name}");
        }
    }
}

#[test]
fn a_batch_that_is_no_number_is_refused_by_name() {
    let alone = Machine::plain(1, Precision::Fp32);
    let mut rig = Rig::new(&spec(true), alone, 2, solo::gang());
    rig.step().expect("a step");
    let before = rig.digest();
    let last = rig
        .buckets
        .gradients()
        .last()
        .expect("gradients")
        .shallow_clone()
        .fill_(f64::NAN);
    drop(last);
    // As if backward had left it there.
    rig.buckets.finish().expect("no peers");
    let error = rig.commit().expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the gradient of probe.bias is not finite"
    );
    rig.model.discard_step();
    assert_eq!(before, rig.digest());

    rig.batches[0].images = rig.batches[0].images.full_like(f64::NAN);
    rig.batches[0].labels = None;
    let error = rig.step().expect_err("refused");
    assert!(
        matches!(&error, StepError::NonFinite { tensor } if tensor == "loss"),
        "{error}"
    );
}
