//! The maths does not know the machine: one step on any number of ranks, and any micro-batch, is the same step.

use diptych_common::ids::Rank;
use diptych_common::spec::{
    Depth, EncoderSpec, HeadSpec, MomentumKind, NtXentSpec, OptimizerSpec, Precision, Rule,
    Scaling, Stem,
};
use tch::{Kind, Tensor};

use super::{Contrastive, MicroBatch, Term, contrastive_step, supervised_step};
use crate::batch::Layout;
use crate::collective::Gang;
use crate::device::{Compute, StepError};
use crate::gather::RowOrder;
use crate::loss::{cross_entropy, hits};
use crate::optim::{Optimizer, Pace};
use crate::project::{HeadPart, Model, ModelSpec, NamedTensor, Reader};
use crate::reduce::Buckets;
use crate::verify::{on_ranks, rank_gangs};

mod bf16; // precision of what is computed, and of what stays

const BATCH: u32 = 8;
const SIZE: i64 = 8;
const PACE: Pace = Pace { step: 0, rate: 0.5 };
const LOSS: NtXentSpec = NtXentSpec {
    temperature: 0.5,
    normalize: true,
    scale: 1.0,
};

/// Where a step runs.
#[derive(Debug, Clone, Copy)]
struct Machine {
    world: usize,
    groups: u32,
    groups_at_once: u32,
    precision: Precision,
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

fn lars() -> OptimizerSpec {
    OptimizerSpec {
        rule: Rule::Lars {
            trust_coefficient: 0.001,
            momentum: 0.9,
            kind: MomentumKind::Classic,
        },
        learning_rate: 1.0,
        scaling: Scaling::None,
        warmup_epochs: 0.0,
        weight_decay: 1e-4,
    }
}

/// The image of a row: a function of view and position, so that ranks hold different data.
fn image(view: u32, position: u32) -> Tensor {
    let count = 3 * SIZE * SIZE;
    let seed = f64::from(view * 131 + position * 17 + 1);
    let x = Tensor::arange(count, (Kind::Double, tch::Device::Cpu));
    ((x * (0.37 + 0.011 * seed) + seed).sin() * 0.5 + 0.5).view([3, SIZE, SIZE])
}

fn micro_batches(
    layout: &Layout,
    rank: Rank,
    (at_once, views): (u32, u32),
    compute: Compute,
) -> Vec<MicroBatch> {
    let batches = layout.micro_batches(at_once).map(|groups| {
        let rows = layout.rows(rank, groups.clone(), views);
        let images: Vec<Tensor> = rows
            .iter()
            .map(|row| image(row.view, row.position))
            .collect();
        let labels: Vec<i64> = rows.iter().map(|row| i64::from(row.position % 3)).collect();
        MicroBatch {
            images: compute.place(&Tensor::stack(&images, 0)).expect("placed"),
            group_rows: groups
                .map(|group| i64::from(layout.images_of(rank, group) * views))
                .collect(),
            labels: Some(Tensor::from_slice(&labels)),
        }
    });
    batches.collect()
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.detach().to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
}

fn state(model: &Model, optimizer: &Optimizer) -> Vec<NamedTensor> {
    model
        .named_tensors()
        .into_iter()
        .chain(optimizer.named_tensors())
        .collect()
}

fn train(machine: Machine, contrastive: bool, steps: u32) -> Vec<Left> {
    train_model(&spec(contrastive), machine, contrastive, steps)
}

fn train_model(spec: &ModelSpec, machine: Machine, contrastive: bool, steps: u32) -> Vec<Left> {
    let gangs = rank_gangs(machine.world).expect("gangs");
    on_ranks(gangs, |gang| {
        let views = if contrastive { 2 } else { 1 };
        let layout =
            Layout::new(BATCH, BATCH, machine.groups, machine.world as u32).expect("a layout");
        let order = RowOrder::of_step(&layout).expect("an order");
        let compute = Compute::cpu(machine.precision);
        let mut model = Model::new(spec, 7, compute).expect("a model");
        let mut buckets = Buckets::new(&model, gang.gradients.clone()).expect("buckets");
        let mut optimizer = Optimizer::new(&lars(), &model).expect("an optimiser");
        let how = (machine.groups_at_once, views);
        let batches = micro_batches(&layout, gang.rank(), how, compute);
        let mut figures = Vec::new();
        let mut gradients = Vec::new();
        for _ in 0..steps {
            if contrastive {
                let step = Contrastive {
                    loss: &LOSS,
                    order: &order,
                    queue: None,
                    gang: &gang,
                };
                let output =
                    contrastive_step(&model, &mut buckets, &batches, &step).expect("a step");
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
                    &model,
                    &mut buckets,
                    &batches,
                    &gang,
                    |_, outputs, batch| {
                        let (logits, labels) = (
                            outputs.logits.as_ref().expect("logits"),
                            batch.labels.as_ref().expect("labels"),
                        );
                        let loss = cross_entropy(logits, labels)? / f64::from(BATCH);
                        Ok(Term {
                            loss,
                            counts: vec![hits(logits, labels, 1)? as f64],
                        })
                    },
                )
                .expect("a step");
                figures.push(output.loss);
                figures.extend(output.counts);
            }
            let named = model.trained().zip(buckets.gradients());
            gradients = named
                .map(|(parameter, gradient)| (parameter.name.clone(), numbers(gradient)))
                .collect();
            optimizer
                .commit(&mut model, &buckets, PACE)
                .expect("a commit");
        }
        let state = state(&model, &optimizer);
        Left {
            figures,
            gradients,
            state: state
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
    let gang = crate::collective::solo::gang();
    let layout = Layout::new(BATCH, BATCH, 1, 1).expect("a layout");
    let order = RowOrder::of_step(&layout).expect("an order");
    let bare = ModelSpec {
        head: None,
        ..spec(true)
    };
    let model = Model::new(&bare, 7, Compute::cpu(Precision::Fp64)).expect("a model");
    let mut buckets = Buckets::new(&model, gang.gradients.clone()).expect("buckets");
    let batches = micro_batches(&layout, Rank::new(0), (1, 2), model.compute());
    let step = Contrastive {
        loss: &LOSS,
        order: &order,
        gang: &gang,
        queue: None,
    };
    let output = contrastive_step(&model, &mut buckets, &batches, &step).expect("a step");
    let mode = crate::encode::TrainMode::new(
        batches[0].group_rows.clone(),
        false,
        gang.statistics.clone(),
    );
    let outputs = model
        .forward(&batches[0].images, crate::encode::Mode::Train(&mode))
        .expect("outputs");
    let [features] = &outputs.layers[..] else {
        panic!("h alone")
    };
    let expected = crate::loss::nt_xent(
        &features.detach(),
        &LOSS,
        &order,
        None,
        gang.statistics.as_ref(),
    )
    .expect("a loss");
    assert!((output.loss - expected.loss).abs() < 1e-12);
    assert!(norm(&numbers(&buckets.gradients()[0])) > 0.0);
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
        let layout = Layout::new(BATCH, BATCH, 1, 2).expect("a layout");
        let order = RowOrder::of_step(&layout).expect("an order");
        let mut model =
            Model::new(&without_probe, 7, Compute::cpu(Precision::Fp64)).expect("a model");
        let mut buckets = Buckets::new(&model, gang.gradients.clone()).expect("buckets");
        let mut optimizer = Optimizer::new(&lars(), &model).expect("an optimiser");
        let batches = micro_batches(&layout, gang.rank(), (1, 2), model.compute());
        let step = Contrastive {
            loss: &LOSS,
            order: &order,
            queue: None,
            gang: &gang,
        };
        contrastive_step(&model, &mut buckets, &batches, &step).expect("a step");
        optimizer
            .commit(&mut model, &buckets, PACE)
            .expect("a commit");
        let before = NamedTensor::digest(&state(&model, &optimizer)).expect("a digest");

        // Rank 1 goes after the forward pass, whose statistics both ranks have staged.
        let error = if gang.rank().get() == 1 {
            let mode = crate::encode::TrainMode::new(
                batches[0].group_rows.clone(),
                true,
                gang.statistics.clone(),
            );
            model
                .forward(&batches[0].images, crate::encode::Mode::Train(&mode))
                .expect("a forward pass");
            gang.statistics.abort();
            None
        } else {
            contrastive_step(&model, &mut buckets, &batches, &step).err()
        };
        if gang.rank().get() == 0 {
            assert!(matches!(error, Some(StepError::Collective(_))), "{error:?}");
        }
        model.discard_step();
        model.commit_statistics().expect("nothing to commit");
        before == NamedTensor::digest(&state(&model, &optimizer)).expect("a digest")
    });
    assert_eq!(kept.expect("no panic"), [true, true]);
}

#[test]
fn a_batch_that_is_no_number_is_refused_by_name() {
    let gang = crate::collective::solo::gang();
    let layout = Layout::new(BATCH, BATCH, 1, 1).expect("a layout");
    let order = RowOrder::of_step(&layout).expect("an order");
    let mut model = Model::new(&spec(true), 7, Compute::cpu(Precision::Fp32)).expect("a model");
    let mut buckets = Buckets::new(&model, gang.gradients.clone()).expect("buckets");
    let mut optimizer = Optimizer::new(&lars(), &model).expect("an optimiser");
    let batches = micro_batches(&layout, Rank::new(0), (1, 2), model.compute());
    let step = Contrastive {
        loss: &LOSS,
        order: &order,
        queue: None,
        gang: &gang,
    };
    contrastive_step(&model, &mut buckets, &batches, &step).expect("a step");
    let before = NamedTensor::digest(&state(&model, &optimizer)).expect("a digest");
    let last = buckets
        .gradients()
        .last()
        .expect("gradients")
        .shallow_clone()
        .fill_(f64::NAN);
    drop(last);
    let error = optimizer
        .commit(&mut model, &buckets, PACE)
        .expect_err("refused");
    assert_eq!(
        error.to_string(),
        "the gradient of probe.bias is not finite"
    );
    model.discard_step();
    assert_eq!(
        before,
        NamedTensor::digest(&state(&model, &optimizer)).expect("a digest")
    );

    let broken = [MicroBatch {
        images: batches[0].images.full_like(f64::NAN),
        group_rows: batches[0].group_rows.clone(),
        labels: None,
    }];
    let error = contrastive_step(&model, &mut buckets, &broken, &step).expect_err("refused");
    assert!(
        matches!(&error, StepError::NonFinite { tensor } if tensor == "loss"),
        "{error}"
    );
}
