use diptych_common::ids::Rank;
use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, Precision, Stem};
use tch::Kind;

use super::*;
use crate::batch::Layout;
use crate::device::Compute;
use crate::project::{HeadPart, Reader};
use crate::verify::{on_ranks, rank_gangs};

const BATCH: u32 = 4;
const DIM: i64 = 8;

fn network() -> ModelSpec {
    ModelSpec {
        head: Some(HeadPart {
            spec: HeadSpec { layers: 2, dim: 8 },
            layers: 2,
        }),
        probe: Some(Reader {
            layer: 0,
            classes: 3,
        }),
        ..ModelSpec::bare(EncoderSpec {
            width: 1.0 / 16.0,
            stem: Stem::Cifar,
            ..EncoderSpec::torchvision(Depth::D18)
        })
    }
}

fn model(seed: u64) -> Model {
    Model::new(&network(), seed, Compute::cpu(Precision::Fp64)).expect("a model")
}

fn memory(size: u32, decay: f64, model: &Model) -> Memory {
    Memory::new(&MemorySpec { size, decay }, model, &network(), BATCH).expect("a memory")
}

fn digest(memory: &Memory) -> blake3::Hash {
    NamedTensor::digest(&memory.named_tensors()).expect("a digest")
}

/// This rank's rows of both views.
fn batch(layout: &Layout, rank: Rank) -> MicroBatch {
    let rows = layout.rows(rank, 0..1, 2);
    let image = |view: u32, position: u32| {
        let x = Tensor::arange(3 * 8 * 8, (Kind::Double, tch::Device::Cpu));
        ((x * 0.37 + f64::from(view * 7 + position)).sin() * 0.5 + 0.5).view([3, 8, 8])
    };
    let images: Vec<Tensor> = rows
        .iter()
        .map(|row| image(row.view, row.position))
        .collect();
    MicroBatch {
        images: Tensor::stack(&images, 0),
        group_rows: vec![rows.len() as i64],
        labels: None,
    }
}

#[test]
fn the_queue_is_a_ring_of_the_newest_rows() {
    let model = model(1);
    let rows_per_step = 2 * i64::from(BATCH);
    for size in [8, 11, 16, 29] {
        let mut memory = memory(size, 0.9, &model);
        let mut all: Vec<f64> = Vec::new();
        for step in 0..9_u64 {
            let seen = memory.rows(step).expect("rows");
            let kept = all.len().min(size as usize);
            let mut numbers = Vec::<f64>::try_from(seen.select(1, 0)).expect("numbers");
            numbers.sort_by(f64::total_cmp);
            assert_eq!(numbers, all[all.len() - kept..], "size {size}, step {step}");

            let first = step as i64 * rows_per_step;
            let number = Tensor::arange_start(
                first,
                first + rows_per_step,
                (Kind::Double, tch::Device::Cpu),
            );
            let rows = number.unsqueeze(1).repeat([1, DIM]);
            *memory.staged.borrow_mut() = Some(rows);
            memory.commit(step).expect("a commit");
            all.extend(Vec::<f64>::try_from(number).expect("numbers"));
        }
    }
    let small = MemorySpec {
        size: 7,
        decay: 0.9,
    };
    let error = Memory::new(&small, &model, &network(), BATCH).expect_err("too small");
    assert!(error.to_string().contains("room for the 8 rows"), "{error}");
}

#[test]
fn the_average_follows_every_weight_and_starts_as_a_copy() {
    let (live, other) = (model(1), model(2));
    let mut memory = memory(16, 0.75, &live);
    let named = |tensors: Vec<NamedTensor>| -> BTreeMap<String, Tensor> {
        tensors
            .into_iter()
            .map(|own| (own.name, own.tensor))
            .collect()
    };
    let weights: Vec<String> = live
        .named_tensors()
        .into_iter()
        .filter(|own| own.role == StateRole::Weight && !own.name.starts_with("probe."))
        .map(|own| own.name)
        .collect();
    let (live, other) = (named(live.named_tensors()), named(other.named_tensors()));
    let before: BTreeMap<String, Tensor> = named(memory.named_tensors())
        .into_iter()
        .map(|(name, tensor)| (name, tensor.copy()))
        .collect();
    for name in &weights {
        assert!(before[&format!("ema.{name}")].equal(&live[name]), "{name}");
        no_grad(|| live[name].shallow_clone().copy_(&other[name]));
    }
    memory.commit(0).expect("a commit");
    for (name, average) in named(memory.named_tensors()) {
        let Some(weight) = name
            .strip_prefix("ema.")
            .filter(|name| weights.iter().any(|w| w == name))
        else {
            continue;
        };
        let expected = &before[&name] * 0.75 + &other[weight] * 0.25;
        let off = (&average - &expected).abs().max().double_value(&[]);
        assert!(off < 1e-15, "{name} is off by {off:e}");
    }
}

#[test]
fn any_number_of_ranks_stages_the_same_rows_and_a_step_given_up_leaves_nothing() {
    let queues: Vec<Vec<Vec<f64>>> = [1, 2, 4]
        .into_iter()
        .map(|world| {
            let ranks = on_ranks(rank_gangs(world).expect("gangs"), |gang| {
                let layout = Layout::new(BATCH, BATCH, 1, world as u32).expect("a layout");
                let order = RowOrder::of_step(&layout).expect("an order");
                let batches = [batch(&layout, gang.rank())];
                let mut memory = memory(12, 0.9, &model(1));
                let before = digest(&memory);
                memory.stage(&batches, &order, &gang).expect("staged");
                assert!(before == digest(&memory), "staging changes nothing");
                memory.discard_step();
                let statistics = memory.model.commit_statistics();
                assert!(statistics.is_ok() && before == digest(&memory));

                memory.stage(&batches, &order, &gang).expect("staged");
                memory.commit(0).expect("a commit");
                let rows = memory.rows(1).expect("rows");
                Vec::<f64>::try_from(rows.flatten(0, -1)).expect("numbers")
            });
            ranks.expect("no panic")
        })
        .collect();
    let expected = &queues[0][0];
    assert_eq!(expected.len() as i64, 2 * i64::from(BATCH) * DIM);
    for queue in queues.iter().flatten() {
        let off = queue.iter().zip(expected).map(|(a, b)| (a - b).abs());
        let off = off.fold(0.0, f64::max);
        assert!(off < 1e-12, "{off:e}");
    }
}

#[test]
fn rows_that_are_no_numbers_are_refused() {
    let gang = crate::collective::solo::gang();
    let layout = Layout::new(BATCH, BATCH, 1, 1).expect("a layout");
    let order = RowOrder::of_step(&layout).expect("an order");
    let memory = memory(12, 0.9, &model(1));
    let mut broken = batch(&layout, Rank::new(0));
    broken.images = broken.images.full_like(f64::NAN);
    memory.stage(&[broken], &order, &gang).expect("staged");
    let error = memory.check().expect_err("refused");
    assert_eq!(error.to_string(), "a row of the memory is not finite");
}
