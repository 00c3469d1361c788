//! Counts that others published.

use serde::Deserialize;

use super::super::{
    Layers, classifier_tensors, encoder_tensors, features, head_tensors, layer_width,
};
use super::*;
use crate::spec::{BasicShortcut, Depth, HeadSpec, Stem};

#[derive(Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    depth: Depth,
    width: f64,
    selective_kernel: bool,
    cifar_stem: bool,
    encoder_trainable: u64,
    encoder_with_bn_statistics: u64,
    features: u64,
    head_2_layers: u64,
    head_3_layers: u64,
}

fn encoder(depth: Depth, selective_kernel: bool) -> EncoderSpec {
    EncoderSpec {
        selective_kernel,
        ..EncoderSpec::torchvision(depth)
    }
}

#[test]
fn parameters_agree_with_the_published_counts() {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../tests/golden/parameters.json"))
            .expect("golden file");
    assert_eq!(golden.cases.len(), 18);
    for case in golden.cases {
        let encoder = EncoderSpec {
            width: case.width,
            stem: if case.cifar_stem {
                Stem::Cifar
            } else {
                Stem::ImageNet
            },
            basic_shortcut: BasicShortcut::Projection,
            ..encoder(case.depth, case.selective_kernel)
        };
        let count = parameters(&encoder_tensors(&encoder));
        assert_eq!(count.trainable, case.encoder_trainable, "{encoder:?}");
        assert_eq!(
            count.trainable + count.statistics,
            case.encoder_with_bn_statistics,
            "{encoder:?}"
        );
        assert_eq!(features(&encoder), case.features);
        for (layers, expected) in [(2, case.head_2_layers), (3, case.head_3_layers)] {
            let head = head_tensors(&encoder, &HeadSpec { layers, dim: 128 });
            assert_eq!(
                parameters(&head).trainable,
                expected,
                "{encoder:?} {layers}"
            );
        }
    }
}

#[test]
fn convolutions_and_norms_are_as_many_as_in_the_released_checkpoints() {
    // `conv2d_{k}` and `batch_normalization_{k}` of the official checkpoints.
    for (depth, selective, convolutions, norms) in [
        (Depth::D50, false, 53, 53),
        (Depth::D50, true, 87, 71),
        (Depth::D101, false, 104, 104),
        (Depth::D101, true, 172, 139),
        (Depth::D152, false, 155, 155),
        (Depth::D152, true, 257, 207),
    ] {
        let layers = Layers::of(&encoder(depth, selective));
        let found = layers.convolutions().count();
        let normed = layers.convolutions().filter(|(_, norm)| norm.is_some());
        assert_eq!(
            (found, normed.count()),
            (convolutions, norms),
            "{depth} {selective}"
        );
    }
}

#[test]
fn the_identity_shortcut_gives_torchvision_s_network() {
    // torchvision.models.resnet18 to 152 with the 1000-way classifier.
    for (depth, expected) in [
        (Depth::D18, 11_689_512),
        (Depth::D34, 21_797_672),
        (Depth::D50, 25_557_032),
        (Depth::D101, 44_549_160),
        (Depth::D152, 60_192_808),
    ] {
        let encoder = encoder(depth, false);
        let mut tensors = encoder_tensors(&encoder);
        tensors.extend(classifier_tensors(features(&encoder), 1000));
        assert_eq!(parameters(&tensors).trainable, expected);
    }
    let names = names(&encoder(Depth::D18, false));
    assert!(names.contains(&"layer2.0.downsample.1.running_var".to_owned()));
    assert!(
        !names
            .iter()
            .any(|name| name.starts_with("layer1.0.downsample"))
    );
}

fn names(encoder: &EncoderSpec) -> Vec<String> {
    encoder_tensors(encoder)
        .into_iter()
        .map(|tensor| tensor.name)
        .collect()
}

#[test]
fn selective_kernels_are_for_bottlenecks_and_keep_the_cifar_stem() {
    let of = |depth, stem| {
        names(&EncoderSpec {
            stem,
            ..encoder(depth, true)
        })
    };
    let has = |names: &[String], name: &str| names.iter().any(|own| own == name);
    let bottlenecks = of(Depth::D50, Stem::ImageNet);
    for name in [
        "conv1.0.weight",
        "conv1.4.running_mean",
        "bn1.weight",
        "layer1.0.bn2.weight",
        "layer1.0.sk.squeeze.weight",
        "layer4.2.sk.bn.running_var",
        "layer1.0.sk.expand.weight",
        "layer1.0.downsample.1.weight",
        "layer1.0.downsample.2.weight",
    ] {
        assert!(has(&bottlenecks, name), "{name}");
    }
    let basic = of(Depth::D18, Stem::Cifar);
    assert!(has(&basic, "conv1.weight") && has(&basic, "layer2.0.downsample.1.weight"));
    assert!(!basic.iter().any(|name| name.contains(".sk.")));
}

#[test]
fn fractional_widths_scale_every_stage() {
    let small = EncoderSpec {
        width: 0.375,
        stem: Stem::Cifar,
        ..encoder(Depth::D18, false)
    };
    assert_eq!(features(&small), 192);
    assert_eq!(encoder_tensors(&small)[0].shape, [24, 3, 3, 3]);
    assert!(parameters(&encoder_tensors(&small)).trainable < 11_173_056 / 6);
}

#[test]
fn widths_of_a_damaged_record_stay_in_bounds() {
    for width in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e300] {
        let encoder = EncoderSpec {
            width,
            ..encoder(Depth::D50, true)
        };
        assert!((1..=1 << 25).contains(&features(&encoder)), "{width}");
    }
}

#[test]
fn layers_of_a_head_are_as_wide_as_the_features_up_to_the_last() {
    let encoder = encoder(Depth::D50, false);
    let head = HeadSpec {
        layers: 3,
        dim: 128,
    };
    let of = |layer| layer_width(&encoder, Some(&head), layer);
    assert_eq!([of(0), of(1), of(2), of(3)], [2048, 2048, 2048, 128]);
    assert_eq!(layer_width(&encoder, None, 0), 2048);
}

#[test]
fn work_agrees_with_the_known_numbers() {
    // torchvision lists 1.81, 4.09, 7.80 and 11.51 billion multiply-adds at 224 pixels.
    for (depth, giga) in [
        (Depth::D18, 1.81),
        (Depth::D50, 4.09),
        (Depth::D101, 7.80),
        (Depth::D152, 11.51),
    ] {
        let flops = forward_flops(&encoder(depth, false), 224);
        let found = flops as f64 / 2e9;
        assert!((found - giga).abs() < 0.02, "{depth}: {found}");
    }
}

#[test]
fn a_selective_block_costs_what_its_parts_do() {
    // The first bottleneck of ResNet-50 at 224 pixels: 56×56, 64 channels, a mixing of 32. In front of its second
    // convolution stand the stem of one or three, the pool and the first.
    let area = 56 * 56;
    let second = |selective: bool, parts| -> u64 {
        let all = operations(&encoder(Depth::D50, selective), 224);
        let start = if selective { 5 } else { 3 };
        all[start..start + parts]
            .iter()
            .map(|part| part.flops / 2)
            .sum()
    };
    assert_eq!(second(false, 1), area * 64 * 64 * 9);
    assert_eq!(second(true, 4), area * 128 * 64 * 9 + 64 * 32 + 32 * 128);
}
