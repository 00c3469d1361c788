//! Parameters, work and memory.

use crate::spec::EncoderSpec;

use super::layers::convolutions;
use super::{Role, TensorInfo};

/// Numbers of elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// Trained by the optimiser.
    pub trainable: u64,
    /// Running means and variances.
    pub statistics: u64,
}

/// Counts the parameters of some tensors.
pub fn parameters(tensors: &[TensorInfo]) -> Parameters {
    let count = |role| {
        tensors
            .iter()
            .filter(|tensor| tensor.role == role)
            .map(TensorInfo::elements)
            .sum()
    };
    Parameters {
        trainable: count(Role::Weight),
        statistics: count(Role::Statistic),
    }
}

/// Floating-point operations of one view's way through the encoder: two per multiply-add of every convolution.
/// Training takes three times as many (forward, and backward to inputs and weights).
pub fn forward_flops(encoder: &EncoderSpec, image_size: u32) -> u64 {
    convolutions(encoder, image_size.into())
        .iter()
        .map(|conv| 2 * conv.side_out().pow(2) * conv.output * conv.input * conv.kernel.pow(2))
        .sum()
}

/// Elements that the backward pass of one view needs: every convolution's output (for its batch norm) and what the
/// next convolution reads. An estimate: temporary buffers and the allocator's slack come on top.
pub fn activation_elements(encoder: &EncoderSpec, image_size: u32) -> u64 {
    let input = 3 * u64::from(image_size).pow(2);
    let kept: u64 = convolutions(encoder, image_size.into())
        .iter()
        .map(|conv| 2 * conv.side_out().pow(2) * conv.output)
        .sum();
    input + kept
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::super::{classifier_tensors, encoder_tensors, features, head_tensors};
    use super::*;
    use crate::spec::{BasicShortcut, HeadSpec, Stem};

    #[derive(Deserialize)]
    struct Golden {
        cases: Vec<Case>,
    }

    #[derive(Deserialize)]
    struct Case {
        depth: u32,
        width: f64,
        cifar_stem: bool,
        encoder_trainable: u64,
        encoder_with_bn_statistics: u64,
        features: u64,
        head_2_layers: u64,
        head_3_layers: u64,
    }

    fn encoder(depth: u32, width: f64, stem: Stem, basic_shortcut: BasicShortcut) -> EncoderSpec {
        EncoderSpec {
            depth,
            width,
            stem,
            basic_shortcut,
        }
    }

    #[test]
    fn parameters_agree_with_the_published_counts() {
        let golden: Golden =
            serde_json::from_str(include_str!("../../tests/golden/parameters.json"))
                .expect("golden file");
        assert!(golden.cases.len() >= 6);
        for case in golden.cases {
            let stem = if case.cifar_stem {
                Stem::Cifar
            } else {
                Stem::ImageNet
            };
            let encoder = encoder(case.depth, case.width, stem, BasicShortcut::Projection);
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
    fn the_identity_shortcut_gives_torchvision_s_network() {
        // torchvision.models.resnet18/34/50: 11,689,512, 21,797,672 and 25,557,032 with the 1000-way classifier.
        for (depth, expected) in [(18, 11_689_512), (34, 21_797_672), (50, 25_557_032)] {
            let encoder = encoder(depth, 1.0, Stem::ImageNet, BasicShortcut::Identity);
            let mut tensors = encoder_tensors(&encoder);
            tensors.extend(classifier_tensors(features(&encoder), 1000));
            assert_eq!(parameters(&tensors).trainable, expected);
        }
        let names: Vec<String> =
            encoder_tensors(&encoder(18, 1.0, Stem::ImageNet, BasicShortcut::Identity))
                .into_iter()
                .map(|t| t.name)
                .collect();
        assert!(names.contains(&"layer2.0.downsample.1.running_var".to_owned()));
        assert!(
            !names
                .iter()
                .any(|name| name.starts_with("layer1.0.downsample"))
        );
    }

    #[test]
    fn fractional_widths_scale_every_stage() {
        let small = encoder(18, 0.375, Stem::Cifar, BasicShortcut::Identity);
        assert_eq!(features(&small), 192);
        assert_eq!(encoder_tensors(&small)[0].shape, [24, 3, 3, 3]);
        assert!(parameters(&encoder_tensors(&small)).trainable < 11_173_056 / 6);
    }

    #[test]
    fn work_and_memory_agree_with_the_known_numbers() {
        // torchvision lists 1.81 and 4.09 billion multiply-adds for ResNet-18 and ResNet-50 at 224 pixels.
        for (depth, giga) in [(18, 1.81), (50, 4.09)] {
            let flops = forward_flops(
                &encoder(depth, 1.0, Stem::ImageNet, BasicShortcut::Identity),
                224,
            );
            let found = flops as f64 / 2e9;
            assert!((found - giga).abs() < 0.02, "{depth}: {found}");
        }
        let cifar = encoder(18, 1.0, Stem::Cifar, BasicShortcut::Identity);
        assert_eq!(
            activation_elements(&cifar, 64) / activation_elements(&cifar, 32),
            4
        );
    }
}
