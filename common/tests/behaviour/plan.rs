use diptych_common::plan::{
    Change, DataFacts, Facts, Machine, Memory, Origin, PhasePlan, Sheet, World, changes, plan,
    rank_memory,
};
use diptych_common::spec::{Device, JobSpec, Labels, load};

/// A job with one pretraining on as many images as ImageNet has.
fn job(network: &str, phase: &str, resources: &str) -> JobSpec {
    let text = format!(
        "apiVersion: diptych/v1\nname: job\nstorage: file:///store\nresources: {{ {resources} }}\n\
         data:\n  train: {{ url: 'file:///train' }}\n  test: {{ url: 'file:///test' }}\n{network}\n\
         phases:\n- {{ name: one, kind: pretrain, optimizer: {{ kind: lars, learning_rate: 0.3 }}, {phase} }}\n"
    );
    let draft = load(&text, &[], &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
    JobSpec::try_from(draft).unwrap_or_else(|errors| panic!("{errors}"))
}

fn phase_of(spec: &JobSpec, machine: &Machine) -> PhasePlan {
    plan(spec, &Facts::default(), machine).phases.remove(0)
}

fn h100() -> Machine {
    Machine::of(Sheet::usual(Device::Cuda))
}

fn world(phase: &PhasePlan, ranks: u32) -> &World {
    let found = phase.worlds.iter().find(|world| world.ranks == ranks);
    found.expect("an allowed world")
}

const IMAGENET: &str = "batch: 8192, epochs: 100, probe: false, augment: { image_size: 224 }";

#[test]
fn work_is_that_of_the_papers_network() {
    let spec = job(
        "encoder: { depth: 50 }",
        IMAGENET,
        "device: cuda, ranks: { min: 1, max: 64 }",
    );
    let phase = phase_of(&spec, &h100());
    // 4.09 billion multiply-adds at 224 pixels, and a head of 2048 × 2048 and 2048 × 128.
    assert!(
        (phase.work.forward / 2e9 - 4.09).abs() < 0.03,
        "{}",
        phase.work.forward
    );
    let views = 2.0 * 8192.0;
    let loss = 6.0 * views * views * 128.0;
    assert!((phase.work.step / (views * 3.0 * phase.work.forward + loss) - 1.0).abs() < 1e-12);
    assert_eq!(phase.steps, 1_281_167 * 100 / 8192 + 1);
    // Encoder and head of simclr §2.1: weights, statistics, momentum of the weights.
    assert_eq!(
        (phase.parameters.encoder, phase.parameters.head),
        (23_508_032, 4_460_672)
    );
    let statistics = 53_120 + 2 * (2048 + 128);
    assert_eq!(phase.parameters.statistics, statistics);
    assert_eq!(
        phase.checkpoint_bytes,
        4 * (2 * (23_508_032 + 4_460_672) + statistics)
    );
}

#[test]
fn the_loss_sends_two_gathers_and_gradients_a_ring() {
    let spec = job(
        "encoder: { depth: 50 }",
        IMAGENET,
        "device: cuda, ranks: { min: 1, max: 64 }",
    );
    let phase = phase_of(&spec, &h100());
    let traffic = world(&phase, 8).traffic;
    // 7 MiB of unit rows at 8,192 pairs, 128 dimensions and 8 ranks, and three figures for each row.
    assert_eq!(traffic.embeddings, (7 << 20) + 16_384 * 3 * 4 * 7 / 8);
    let gradients = 4 * phase.parameters.trained;
    assert_eq!(traffic.gradients, gradients * 7 / 4);
    assert!(traffic.statistics < traffic.gradients / 20, "{traffic:?}");
    assert_eq!(world(&phase, 1).traffic.total(), 0);
}

#[test]
fn worlds_that_divide_the_lanes_badly_are_no_faster() {
    let spec = job(
        "encoder: { depth: 50 }",
        IMAGENET,
        "device: cuda, ranks: { min: 1, max: 64 }",
    );
    let quick = Machine {
        wire_gbit: 1e9,
        latency_us: 1e-9,
        mfu: Some(0.4),
        ..h100()
    };
    let phase = phase_of(&spec, &quick);
    // 64 lanes: 48 ranks hold two lanes at most, as 32 do.
    let efficiency = |ranks| world(&phase, ranks).efficiency;
    assert!((efficiency(1) - 1.0).abs() < 1e-12);
    assert!((efficiency(64) - 1.0).abs() < 1e-6 && (efficiency(48) - 2.0 / 3.0).abs() < 1e-6);
    assert!(world(&phase, 32).faster && !world(&phase, 48).faster && world(&phase, 64).faster);
    // Over a slow wire every further rank costs.
    let slow = phase_of(
        &spec,
        &Machine {
            wire_gbit: 1.0,
            ..h100()
        },
    );
    assert!(world(&slow, 64).efficiency < world(&slow, 2).efficiency);
    assert!(world(&slow, 64).efficiency < 0.5);
    let step = world(&phase, 1).step_s;
    assert!((step / (phase.work.step / (67e12 * 0.4)) - 1.0).abs() < 1e-12);
}

#[test]
fn micro_batches_hold_less_and_compute_more() {
    let whole =
        "batch: 8192, steps: 2, probe: false, augment: { image_size: 32, blur_probability: 0 }";
    let parts = format!("{whole}, groups: 16, micro_batch_groups: 1");
    let network = "encoder: { depth: 18, stem: cifar }";
    let [whole, parts] = [whole, &parts].map(|phase| {
        let spec = job(network, phase, "device: cpu, ranks: { min: 1, max: 2 }");
        phase_of(&spec, &Machine::of(Sheet::usual(Device::Cpu)))
    });
    let (all, some) = (world(&whole, 1), world(&parts, 1));
    assert!(all.memory_at_once.is_none());
    let at_once = some.memory_at_once.expect("micro-batches");
    assert_eq!(at_once.activations, all.memory.activations);
    assert_eq!(some.memory.activations * 16, all.memory.activations);
    assert_eq!(some.memory.weights, all.memory.weights);
    // The embeddings of the whole batch stay.
    assert_eq!(some.memory.embeddings, all.memory.embeddings);
    assert!((1.30..1.34).contains(&(parts.work.step / whole.work.step)));
    // 2 × 8192 views × 17.9 × 64 × 32 × 32 numbers of 4 bytes.
    let kept = 2 * 8192 * 4 * (64 * 32 * 32 * 143 / 8 + 2 * (512 + 128));
    assert_eq!(all.memory.activations, kept);
    let halves = world(&whole, 2).memory;
    assert_eq!(halves.activations * 2, all.memory.activations);
}

#[test]
fn what_a_peak_is_made_of_adds_up() {
    let spec = job(
        "encoder: { depth: 50 }",
        IMAGENET,
        "device: cuda, precision: bf16, ranks: { min: 16, max: 64 }",
    );
    let memory = world(&phase_of(&spec, &h100()), 64).memory;
    let step = memory.activations + memory.workspace + memory.embeddings + memory.loss;
    let state = memory.weights + memory.gradients + memory.optimizer + memory.batch;
    assert_eq!(memory.resident, 0);
    let beside = memory.slack + memory.evaluation + memory.start + memory.program;
    assert_eq!(memory.device, state + step + beside);
    assert!(memory.host >= memory.snapshot + memory.prefetch + memory.images + memory.index);
}

#[test]
fn resident_images_stay_with_every_rank() {
    let field = |place: &str| {
        format!("batch: 512, steps: 2, probe: false, augment: {{ image_size: 32, place: {place} }}")
    };
    let of = |place: &str| {
        let network = "encoder: { depth: 18, stem: cifar }";
        let resources = "device: cuda, ranks: { min: 1, max: 4 }";
        job(network, &field(place), resources)
    };
    let (crops, resident) = (of("device"), of("resident"));
    let bytes = 50_000 * 3 * 32 * 32;
    for ranks in [1, 4] {
        let [crops, resident] = [&crops, &resident].map(|spec| {
            let phase = phase_of(spec, &h100());
            world(&phase, ranks).memory
        });
        assert_eq!((crops.resident, resident.resident), (0, bytes));
        assert_eq!(resident.device, crops.device + bytes);
        assert_eq!(resident.host, crops.host + bytes, "on their way");
    }
    let memory = |spec: &JobSpec| rank_memory(spec, &spec.phases()[0], &Facts::default(), 1);
    let limit = memory(&crops).device;
    let fits = |memory: &Memory| memory.device <= limit;
    let found = changes(&resident, &resident.phases()[0], &Facts::default(), 1, fits);
    assert_eq!(found[0], Change::NotResident);
}

#[test]
fn what_is_known_of_the_data_goes_before_what_is_assumed() {
    let spec = job(
        "encoder: { depth: 18, stem: cifar }",
        "batch: 64, epochs: 1, augment: { image_size: 32 }",
        "device: cpu",
    );
    let train = "train".parse().expect("a name");
    let assumed = DataFacts::assumed(&spec, &train);
    assert_eq!(
        (assumed.images, assumed.classes, assumed.origin),
        (50_000, 10, Origin::Assumed)
    );
    let test = DataFacts::assumed(&spec, &"test".parse().expect("a name"));
    assert_eq!(test.images, 10_000);
    let mut facts = Facts::default();
    facts.data.insert(
        train,
        DataFacts {
            images: 1000,
            class_sizes: vec![700, 296, 4],
            classes: 3,
            origin: Origin::Read,
            ..assumed
        },
    );
    let found = plan(&spec, &facts, &h100()).phases.remove(0);
    assert_eq!((found.images, found.steps), (1000, 1000 / 64 + 1));
    // As the worker draws them: rounded in each class, and at least one.
    let known = &found.facts;
    let share = |share| known.chosen(&Labels::Share { share, seed: 0 }, &facts.lists);
    assert_eq!((share(0.01), share(0.1)), (7 + 3 + 1, 70 + 30 + 1));
    assert_eq!(
        known.chosen(&Labels::PerClass { count: 4, seed: 0 }, &facts.lists),
        12
    );
    let list = Labels::List {
        url: "file:///list".to_owned(),
    };
    assert_eq!(known.chosen(&list, &facts.lists), 1000);
    facts.lists.insert("file:///list".to_owned(), 11);
    assert_eq!(known.chosen(&list, &facts.lists), 11);
}

#[test]
fn a_memory_costs_a_pass_a_copy_and_its_rows() {
    let fields = |loss: &str| format!("{IMAGENET}, loss: {{ {loss} }}");
    let [plain, memory] = ["", "memory: { size: 65536 }"].map(|loss| {
        let spec = job(
            "encoder: { depth: 50 }",
            &fields(loss),
            "device: cuda, ranks: { min: 1, max: 8 }",
        );
        phase_of(&spec, &h100())
    });
    let (rows, copy) = (
        2.0 * 8192.0,
        23_508_032 + 4_460_672 + plain.parameters.statistics,
    );
    let more = memory.work.step - plain.work.step;
    let expected = rows * plain.work.forward + 6.0 * rows * 65536.0 * 128.0;
    assert!((more / expected - 1.0).abs() < 1e-9);
    assert_eq!(
        memory.checkpoint_bytes - plain.checkpoint_bytes,
        4 * (copy + 65536 * 128)
    );
    let weights = |phase: &PhasePlan| world(phase, 8).memory.weights;
    assert_eq!(weights(&memory) - weights(&plain), 4 * (copy + 65536 * 128));
    let sent = |phase: &PhasePlan| world(phase, 8).traffic.embeddings;
    assert_eq!(sent(&memory) - sent(&plain), 7 << 20);
}

#[test]
fn adamw_keeps_two_numbers_of_each_weight() {
    let text = |kind: &str| {
        format!(
            "apiVersion: diptych/v1\nname: job\nstorage: file:///store\ndata:\n  train: {{ url: 'file:///train' }}\n\
             encoder: {{ depth: 18 }}\nphases:\n- {{ name: one, kind: finetune, from: random, batch: 64, steps: 5, \
             augment: {{ image_size: 64 }}, optimizer: {{ kind: {kind}, learning_rate: 0.1 }} }}\n"
        )
    };
    let [sgd, adamw] = ["sgd", "adamw"].map(|kind| {
        let draft = load(&text(kind), &[], &|_| None).unwrap_or_else(|errors| panic!("{errors}"));
        let spec = JobSpec::try_from(draft).unwrap_or_else(|errors| panic!("{errors}"));
        phase_of(&spec, &h100())
    });
    let of = |phase: &PhasePlan| phase.worlds[0].memory.optimizer;
    assert_eq!(of(&adamw), 2 * of(&sgd));
    assert_eq!(of(&sgd), 4 * sgd.parameters.trained);
    assert_eq!(adamw.checkpoint_bytes - sgd.checkpoint_bytes, of(&sgd));
}

#[test]
fn what_makes_a_phase_fit_is_the_smallest_change_of_each_kind() {
    let network = "encoder: { depth: 18, stem: cifar }";
    let resources = "device: cuda, ranks: { min: 1, max: 4 }";
    let field = "batch: 1024, steps: 2, lanes: 64, probe: false, augment: { image_size: 32 }";
    let bytes_of = |spec: &JobSpec, ranks| {
        let phase = &spec.phases()[0];
        rank_memory(spec, phase, &Facts::default(), ranks).device
    };
    let found = |spec: &JobSpec, ranks, limit: u64| {
        let fits = |memory: &Memory| memory.device <= limit;
        changes(spec, &spec.phases()[0], &Facts::default(), ranks, fits)
    };
    // One group: only more groups can be held one at a time.
    let one = job(network, field, resources);
    let alone = bytes_of(&one, 1);
    assert!(bytes_of(&one, 2) < alone);
    assert_eq!(
        found(&one, 1, alone - 1),
        [Change::Ranks(2), Change::Bf16, Change::Groups(2)]
    );
    assert_eq!(
        found(&one, 1, bytes_of(&one, 3)),
        [Change::Ranks(3), Change::Groups(4)]
    );
    // Several groups: as many of them at once as fit.
    let eight = job(network, &format!("{field}, groups: 8"), resources);
    let held = |groups: u32| {
        let field = format!("{field}, groups: 8, micro_batch_groups: {groups}");
        bytes_of(&job(network, &field, resources), 1)
    };
    assert!(held(1) < held(2) && held(2) < held(4) && held(4) < held(8));
    assert_eq!(
        found(&eight, 1, held(8) - 1)[0],
        Change::MicroBatchGroups(4)
    );
    assert_eq!(found(&eight, 1, held(2))[0], Change::MicroBatchGroups(2));
    let at_most = found(&eight, 1, held(1));
    assert_eq!(at_most[0], Change::MicroBatchGroups(1));
    assert!(
        !at_most
            .iter()
            .any(|change| matches!(change, Change::Groups(_)))
    );
    // Nothing helps against the weights.
    assert_eq!(found(&eight, 1, 1 << 20), []);
}
