use std::sync::Arc;

use diptych_common::network::{
    self, ConvNorm, Convolution, encoder_tensors, features, head_tensors, parameters,
};
use diptych_common::spec::{BasicShortcut, Depth, EncoderSpec, HeadSpec, MaxPool, Precision, Stem};
use tch::{Tensor, no_grad};

use super::number::Case;
use crate::collective::solo;
use crate::device::Compute;
use crate::encode::{Build, Mode, SelectiveKernel, TrainMode};

/// Counts the parameters of a network with the official code's shortcuts, and of its heads.
pub(super) fn count(case: Case<'_>) -> anyhow::Result<()> {
    let encoder = EncoderSpec {
        depth: Depth::try_from(u32::try_from(case.count("depth")?)?)?,
        width: case.number("width")?,
        stem: if case.flag("cifar_stem")? {
            Stem::Cifar
        } else {
            Stem::ImageNet
        },
        basic_shortcut: BasicShortcut::Projection,
        selective_kernel: case.flag("selective_kernel")?,
        max_pool: MaxPool::Tensorflow,
    };
    let counted = parameters(&encoder_tensors(&encoder));
    let head =
        |layers| parameters(&head_tensors(&encoder, &HeadSpec { layers, dim: 128 })).trainable;
    for (field, got) in [
        ("encoder_trainable", counted.trainable),
        (
            "encoder_with_bn_statistics",
            counted.trainable + counted.statistics,
        ),
        ("features", features(&encoder)),
        ("head_2_layers", head(2)),
        ("head_3_layers", head(3)),
    ] {
        case.expect(field, &[got as f64])?;
    }
    Ok(())
}

/// Runs a selective kernel in training on all rows as one group.
pub(super) fn selective(case: Case<'_>) -> anyhow::Result<()> {
    let x = case.tensor("x")?;
    let weights = [
        ("streams.weight", "conv"),
        ("streams.bn.weight", "bn_gamma"),
        ("streams.bn.bias", "bn_beta"),
        ("squeeze.weight", "squeeze"),
        ("squeeze.bn.weight", "squeeze_gamma"),
        ("squeeze.bn.bias", "squeeze_beta"),
        ("expand.weight", "expand"),
    ];
    let shape = |field: &str| -> anyhow::Result<(u64, u64)> {
        let size = case.tensor(field)?.size();
        anyhow::ensure!(size.len() == 4, "{field} is no [out, in, height, width]");
        Ok((size[1] as u64, size[0] as u64))
    };
    let layer = network::Selective {
        streams: part("streams", shape("conv")?, (3, case.count("stride")?)),
        squeeze: part("squeeze", shape("squeeze")?, (1, 1)),
        expand: part("expand", shape("expand")?, (1, 1)).conv,
    };
    let mut build = Build::new(0, Compute::on(case.device, Precision::Fp64));
    let kernel = SelectiveKernel::new(&mut build, &layer)?;
    let (parameters, _) = build.finish();
    for (name, field) in weights {
        let parameter = parameters.iter().find(|own| own.name == name);
        let own = parameter.ok_or_else(|| anyhow::anyhow!("there is no tensor {name}"))?;
        let given = case.tensor(field)?;
        anyhow::ensure!(
            own.tensor.size() == given.size(),
            "{field} has shape {:?}, expected {:?}",
            given.size(),
            own.tensor.size()
        );
        no_grad(|| own.tensor.shallow_clone().f_copy_(&given))?;
    }
    let gang = solo::gang();
    let mode = TrainMode::new(vec![x.size()[0]], true, Arc::clone(&gang.statistics));
    let y: Tensor = no_grad(|| kernel.forward(&x, Mode::Train(&mode)))?;
    case.expect_tensor("y", &y)?;
    Ok(())
}

fn part(name: &str, (input, output): (u64, u64), (kernel, stride): (u64, u64)) -> ConvNorm {
    ConvNorm {
        conv: Convolution {
            name: name.to_owned(),
            input,
            output,
            kernel,
            stride,
        },
        norm: format!("{name}.bn"),
        gamma: 1.0,
    }
}
