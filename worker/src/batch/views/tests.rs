use std::sync::Arc;

use diptych_common::spec::{
    AugmentSpec, BlurSigma, Brightness, ColorOrder, ColorSpec, Implementation, Interpolation,
};
use diptych_images::augment::{Key, Scratch, ViewParams, render};
use diptych_images::decode::Image;
use diptych_images::shard::SampleId;
use tch::{Device, Tensor};

use super::{Crops, Cuts};
use crate::batch::Gathered;
use crate::device::DeviceChoice;

/// What the views of the two paths may differ by on average, and at most: in steps of a byte.
const MEAN: f64 = 0.5 / 255.0;
const MOST: f64 = 4.0 / 255.0;
/// What they differ by on a CPU, where only the order of sums differs.
const ROUNDING: f64 = 2e-5;

/// Edges, ramps and noise: what resizing, hue and blur are sensitive to.
fn image(width: usize, height: usize, seed: usize) -> Image {
    let value = |x: usize, y: usize, channel: usize| {
        let ramp = (x * 255 / width + y * 128 / height) / (channel + 1);
        let edge = if (x / 7 + y / 5 + seed).is_multiple_of(3) {
            90
        } else {
            0
        };
        let noise = (x * 7919 + y * 104_729 + channel * 31 + seed * 17) % 61;
        (ramp + edge + noise).min(255) as u8
    };
    let pixels = (0..height)
        .flat_map(|y| (0..width).flat_map(move |x| [0, 1, 2].map(|channel| value(x, y, channel))))
        .collect();
    Image {
        width,
        height,
        pixels,
    }
}

fn specs(side: u32) -> Vec<AugmentSpec> {
    let strong = Some(ColorSpec {
        strength: 1.0,
        probability: 1.0,
        hue_saturation: true,
        order: ColorOrder::Random,
    });
    let implementations = [
        Implementation::Official {
            brightness: Brightness::Multiplicative,
        },
        Implementation::Official {
            brightness: Brightness::Additive,
        },
        Implementation::Torchvision {
            interpolation: Interpolation::Bilinear,
        },
        Implementation::Torchvision {
            interpolation: Interpolation::Bicubic,
        },
    ];
    let with = |implementation| AugmentSpec {
        implementation,
        color: strong.clone(),
        ..AugmentSpec::simclr(side)
    };
    let mut specs: Vec<_> = implementations.into_iter().map(with).collect();
    specs.push(AugmentSpec {
        blur_sigma: BlurSigma::View,
        ..AugmentSpec::simclr(side)
    });
    specs.push(AugmentSpec::plain(side));
    specs
}

/// The views of the same images by the same parameters: made on the host, of crops, and of resident images.
fn all(spec: &AugmentSpec, images: &[Image], device: Device) -> [Tensor; 3] {
    let side = spec.image_size as usize;
    let mut gathered = Gathered::default();
    for (sample, image) in (0..).zip(images) {
        gathered.add(SampleId::new(sample), image);
    }
    let originals = Arc::new(gathered.settle(device).expect("settled"));
    let (mut host, mut cut, mut pointed) = (Vec::new(), Cuts::default(), Cuts::default());
    for (sample, image) in (0..).zip(images) {
        let frame = originals.frame(SampleId::new(sample)).expect("settled");
        let mut of_one = Cuts::default();
        for view in 0..2 {
            let key = Key {
                seed: 11,
                phase: 0,
                step: 5,
                position: sample as u32,
                sample,
                view,
            };
            let params = ViewParams::draw(spec, &key, image.height, image.width);
            let mut out = vec![0.0; 3 * side * side];
            render(image, spec, &params, &mut Scratch::default(), &mut out);
            host.extend(out);
            let row = 2 * sample as usize + view as usize;
            of_one.cut(row, image, params.clone());
            pointed.point(row, frame, params);
        }
        cut.append(of_one);
    }
    let shape = [2 * images.len(), 3, side, side].map(|length| length as i64);
    let made = [
        Crops::pack(spec, cut).expect("packed"),
        Crops::resident(spec, pointed, &originals).expect("packed"),
    ];
    let [device, resident] = made.map(|crops| {
        let views = crops.render(device).expect("rendered");
        views.to_device(Device::Cpu)
    });
    [Tensor::from_slice(&host).view(shape), device, resident]
}

fn differences(host: &Tensor, device: &Tensor) -> (f64, f64) {
    assert_eq!(host.size(), device.size());
    let difference = (host - device).abs();
    (
        difference.mean(tch::Kind::Double).double_value(&[]),
        difference.max().double_value(&[]),
    )
}

fn compare(device: Device, (mean_limit, most_limit): (f64, f64)) {
    let sizes = [
        (50, 37),
        (32, 32),
        (97, 200),
        (400, 261),
        (9, 300),
        (1, 1),
        (64, 64),
        (23, 24),
    ];
    let images: Vec<Image> = (0..40)
        .map(|seed| {
            let (width, height) = sizes[seed % sizes.len()];
            image(width, height, seed)
        })
        .collect();
    for side in [32, 64, 96] {
        for spec in specs(side) {
            let [host, made, resident] = all(&spec, &images, device);
            assert_eq!(made, resident, "{:?} at {side}", spec.implementation);
            let (mean, most) = differences(&host, &made);
            assert!(
                mean <= mean_limit && most <= most_limit,
                "{:?} at {side}: {mean} on average, {most} at most",
                spec.implementation
            );
        }
    }
}

#[test]
fn views_made_in_batches_are_those_of_the_host() {
    compare(Device::Cpu, (ROUNDING, ROUNDING));
}

#[test]
#[ignore = "needs an NVIDIA GPU"]
fn views_made_on_a_gpu_are_those_of_the_host() {
    let device = DeviceChoice::Cuda(0).open().expect("a GPU");
    compare(device, (MEAN, MOST));
}

#[test]
fn crops_too_large_to_be_held_together_are_made_in_turns() {
    let images: Vec<Image> = (0..12).map(|seed| image(1600, 1400, seed)).collect();
    let spec = AugmentSpec {
        crop_area: (0.9, 1.0),
        ..AugmentSpec::plain(32)
    };
    let [host, made, resident] = all(&spec, &images, Device::Cpu);
    assert_eq!(made, resident);
    assert!(differences(&host, &made).1 <= ROUNDING);
}

#[test]
fn no_rows_make_no_views() {
    let spec = AugmentSpec::plain(32);
    let views = Crops::pack(&spec, Cuts::default())
        .expect("packed")
        .render(Device::Cpu);
    assert_eq!(views.expect("rendered").size(), [0, 3, 32, 32]);
}
