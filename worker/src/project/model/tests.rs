use diptych_common::network::{self, TensorInfo};
use diptych_common::spec::{BasicShortcut, Depth, HeadSpec, MaxPool, Precision, Stem};
use tch::Kind;

use super::*;
use crate::collective::solo;
use crate::device::shim;
use crate::encode::TrainMode;

/// An encoder of a few channels.
fn small(depth: Depth, stem: Stem, selective_kernel: bool) -> EncoderSpec {
    EncoderSpec {
        width: 0.0625,
        stem,
        selective_kernel,
        ..EncoderSpec::torchvision(depth)
    }
}

fn with_head(encoder: EncoderSpec, layers: u32) -> ModelSpec {
    ModelSpec {
        head: Some(HeadPart {
            spec: HeadSpec { layers, dim: 12 },
            layers,
        }),
        ..ModelSpec::bare(encoder)
    }
}

fn build(spec: &ModelSpec, seed: u64, precision: Precision) -> Model {
    Model::new(spec, seed, Compute::cpu(precision)).expect("a model")
}

#[test]
fn the_state_is_the_one_that_the_network_description_lists() {
    for depth in Depth::ALL {
        for (stem, basic_shortcut, selective_kernel) in [
            (Stem::Cifar, BasicShortcut::Identity, false),
            (Stem::ImageNet, BasicShortcut::Projection, false),
            (Stem::Cifar, BasicShortcut::Identity, true),
            (Stem::ImageNet, BasicShortcut::Projection, true),
        ] {
            let encoder = EncoderSpec {
                basic_shortcut,
                width: 0.11,
                ..small(depth, stem, selective_kernel)
            };
            let head = HeadSpec { layers: 3, dim: 12 };
            let classifiers =
                [(0, 5), (2, 5), (3, 5)].map(|(layer, classes)| Reader { layer, classes });
            let spec = ModelSpec {
                classifier: Some(classifiers[0]),
                beside: classifiers[1..].to_vec(),
                ..with_head(encoder.clone(), 3)
            };
            let width = |layer| network::layer_width(&encoder, Some(&head), layer);
            let mut expected: Vec<(String, Vec<u64>)> = network::encoder_tensors(&encoder)
                .into_iter()
                .chain(network::head_tensors(&encoder, &head))
                .chain(network::classifier_tensors(width(0), 5))
                .chain(network::extra_classifier_tensors(2, width(2), 5))
                .chain(network::extra_classifier_tensors(3, width(3), 5))
                .map(|TensorInfo { name, shape, .. }| (name, shape))
                .collect();
            let shape = |t: &Tensor| t.size().into_iter().map(|n| n as u64).collect();
            let mut got: Vec<(String, Vec<u64>)> = build(&spec, 1, Precision::Fp32)
                .named_tensors()
                .iter()
                .map(|t| (t.name.clone(), shape(&t.tensor)))
                .collect();
            expected.sort();
            got.sort();
            assert_eq!(got, expected, "{encoder:?}");
        }
    }
}

#[test]
fn resnet_18_has_torchvisions_number_of_weights() {
    let spec = ModelSpec::bare(EncoderSpec::torchvision(Depth::D18));
    let model = build(&spec, 1, Precision::Fp32);
    assert_eq!(
        model
            .parameters()
            .iter()
            .map(|p| p.tensor.numel())
            .sum::<usize>(),
        11_176_512
    );
    let conv = &model.parameters()[0].tensor;
    let std = (conv * conv).mean(Kind::Double).sqrt().double_value(&[]);
    let expected = (1.0 / 147f64).sqrt();
    assert!(
        (std / expected - 1.0).abs() < 0.03,
        "standard deviation {std}, expected {expected}"
    );
    assert!(conv.abs().max().double_value(&[]) <= 2.0 * expected / 0.879_625 + 1e-6);
}

#[test]
fn scales_start_at_zero_where_a_block_ends_and_at_one_elsewhere() {
    let spec = ModelSpec::bare(small(Depth::D50, Stem::ImageNet, true));
    for parameter in build(&spec, 1, Precision::Fp64).parameters() {
        if parameter.role != Role::Norm {
            continue;
        }
        let name = &parameter.name;
        let expected = match name.rsplit_once('.').expect("a field") {
            (_, "bias") => 0.0,
            (norm, _) if norm.ends_with("bn3") => 0.0,
            _ => 1.0,
        };
        let far = (&parameter.tensor - expected).abs().max();
        assert_eq!(far.double_value(&[]), 0.0, "{name}");
    }
}

/// Images whose cells differ.
fn images(rows: i64, side: i64) -> Tensor {
    let x = Tensor::arange(rows * 3 * side * side, (Kind::Double, tch::Device::Cpu));
    ((x * 0.37).sin() * 0.5 + 0.5).view([rows, 3, side, side])
}

/// A last norm's zero scale would hide its branch: every scale becomes 1.
fn open_branches(model: &Model) {
    for parameter in model
        .parameters()
        .iter()
        .filter(|p| p.name.ends_with("bn3.weight"))
    {
        let _ = no_grad(|| parameter.tensor.shallow_clone().fill_(1.0));
    }
}

#[test]
fn either_order_in_memory_gives_the_same_outputs_and_gradients() {
    // Eight channels everywhere: NHWC in single precision, NCHW in double. Odd sides on the way: 36, 18, 9, 5, 3, 2.
    for selective in [false, true] {
        let encoder = EncoderSpec {
            width: 0.25,
            max_pool: MaxPool::Tensorflow,
            ..small(Depth::D50, Stem::ImageNet, selective)
        };
        let run = |precision, train| {
            let model = build(&with_head(encoder.clone(), 2), 5, precision);
            open_branches(&model);
            let x = model.compute().place(&images(16, 36)).expect("placed");
            let batch = TrainMode::new(vec![16], true, solo::gang().statistics);
            let mode = if train {
                Mode::Train(&batch)
            } else {
                Mode::Eval
            };
            let outputs = model.forward(&x, mode).expect("outputs");
            let z = outputs.layers.last().expect("z").to_kind(Kind::Double);
            shim::backward(&[(&z, &(z.detach() * 0.7).cos())]).expect("gradients");
            let gradient = model.parameters()[0].tensor.grad().to_kind(Kind::Double);
            [z.detach(), gradient.contiguous()]
        };
        // Batch norms over the few rows of a mean enlarge rounding.
        for (train, tolerances) in [(false, [1e-5, 1e-4]), (true, [5e-3, 5e-2])] {
            let (double, single) = (run(Precision::Fp64, train), run(Precision::Fp32, train));
            for ((double, single), tolerance) in double.iter().zip(&single).zip(tolerances) {
                let apart = ((single - double).norm() / double.norm()).double_value(&[]);
                assert!(
                    apart < tolerance,
                    "selective {selective}, training {train}: {apart}"
                );
            }
        }
    }
}

#[test]
fn classifiers_read_their_layers() {
    let readers = [(3, 2), (0, 2), (1, 2)].map(|(layer, classes)| Reader { layer, classes });
    let spec = ModelSpec {
        classifier: Some(readers[0]),
        beside: readers[1..].to_vec(),
        probe: Some(Reader {
            layer: 2,
            classes: 2,
        }),
        ..with_head(small(Depth::D18, Stem::Cifar, false), 3)
    };
    let model = build(&spec, 1, Precision::Fp64);
    assert_eq!(model.classifiers(), 3);
    for parameter in model
        .parameters()
        .iter()
        .filter(|p| p.role == Role::Classifier)
    {
        let _ = no_grad(|| parameter.tensor.shallow_clone().fill_(1.0));
    }
    let outputs = model.forward(&images(2, 8), Mode::Eval).expect("outputs");
    let sum = |layer: usize| outputs.layers[layer].sum_dim_intlist(1i64, false, Kind::Double);
    let check = |logits: &Tensor, layer: usize| {
        let far = (logits.select(1, 0) - sum(layer)).abs().max();
        assert!(far.double_value(&[]) < 1e-9, "layer {layer}");
    };
    for (logits, layer) in outputs.all_logits().zip([3, 0, 1]) {
        check(logits, layer);
    }
    check(&model.probe(&outputs).expect("logits").expect("a probe"), 2);

    let missing = ModelSpec {
        classifier: Some(Reader {
            layer: 1,
            classes: 2,
        }),
        ..ModelSpec::bare(small(Depth::D18, Stem::Cifar, false))
    };
    let refused = Model::new(&missing, 1, Compute::cpu(Precision::Fp64));
    assert!(matches!(refused, Err(StepError::Shape { .. })));
}

#[test]
fn initial_weights_follow_the_seed_and_load_by_name() {
    let spec = with_head(small(Depth::D18, Stem::Cifar, false), 3);
    let new = |seed| build(&spec, seed, Precision::Fp32);
    let digest = |model: &Model| NamedTensor::digest(&model.named_tensors()).expect("a digest");
    let (a, mut b) = (new(1), new(2));
    assert_eq!(digest(&a), digest(&new(1)));
    assert_ne!(digest(&a), digest(&b));
    let mut source: BTreeMap<String, Tensor> = a
        .named_tensors()
        .into_iter()
        .map(|t| (t.name, t.tensor))
        .collect();
    b.load(&source, |_| true).expect("fits");
    assert_eq!(digest(&a), digest(&b));
    source.remove("conv1.weight");
    assert_eq!(
        b.load(&source, |_| true),
        Err(StateError::Missing("conv1.weight".to_owned()))
    );
    b.load(&source, |name| name.starts_with("head."))
        .expect("the head is there");
    source.insert("conv1.weight".to_owned(), Tensor::from_slice(&[1f32]));
    assert!(matches!(
        b.load(&source, |_| true),
        Err(StateError::Shape { .. })
    ));
}

#[test]
#[ignore = "needs 9 GiB and a minute: the largest network of SimCLR v2, 871 million weights"]
fn resnet_152_3x_with_selective_kernels_takes_a_step() {
    let encoder = EncoderSpec {
        width: 3.0,
        selective_kernel: true,
        ..EncoderSpec::torchvision(Depth::D152)
    };
    let spec = ModelSpec {
        head: Some(HeadPart {
            spec: HeadSpec {
                layers: 3,
                dim: 128,
            },
            layers: 3,
        }),
        ..ModelSpec::bare(encoder)
    };
    let model = build(&spec, 1, Precision::Fp32);
    let trained = model.parameters().iter().map(|p| p.tensor.numel() as u64);
    assert_eq!(trained.sum::<u64>(), 794_704_160 + 76_308_608);
    open_branches(&model);
    let x = model.compute().place(&images(4, 64)).expect("placed");
    let mode = TrainMode::new(vec![4], true, solo::gang().statistics);
    let outputs = model.forward(&x, Mode::Train(&mode)).expect("outputs");
    let z = outputs.layers.last().expect("z");
    assert_eq!(z.size(), [4, 128]);
    shim::backward(&[(z, &(z.detach() * 0.7).cos())]).expect("gradients");
    for parameter in model.parameters() {
        let (least, most) = parameter.tensor.grad().aminmax(None::<i64>, false);
        let bounds = [least, most].map(|bound| bound.double_value(&[]));
        assert!(
            bounds.iter().all(|bound| bound.is_finite()),
            "{}",
            parameter.name
        );
        assert!(
            bounds != [0.0, 0.0] || parameter.role == Role::Norm,
            "{}",
            parameter.name
        );
    }
}
