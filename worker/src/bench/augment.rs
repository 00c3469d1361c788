//! Decode and two views, as pretraining does it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use diptych_common::spec::AugmentSpec;
use diptych_images::augment::{Key, Scratch, ViewParams, augment};
use diptych_images::decode::decode;
use rayon::prelude::*;
use tch::Device;

use super::gpu;
use crate::batch::{Crop, Crops};
use crate::device::DeviceChoice;

/// Images whose views are made together on a device.
const BATCH: u64 = 256;
/// Images per thread between two looks at the clock.
const ROUND: u64 = 32;

/// What to augment, and how long.
#[derive(Debug, Args)]
pub struct AugmentArgs {
    /// Side of the views in pixels.
    #[arg(long, default_value_t = 224)]
    size: u32,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Folder of JPEG or PNG files.
    #[arg(long)]
    images: PathBuf,
    /// Where views are made: `cpu`, or, of crops that the threads decode, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
    /// Views are made in batches as on a GPU, wherever.
    #[arg(long)]
    batched: bool,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Measures and prints `images_per_s`.
///
/// # Errors
/// When the folder holds no images, or one that cannot be decoded.
pub(super) fn run(args: &AugmentArgs) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let images_per_s = images_per_s(args, device)?;
    let figures = serde_json::json!({
        "size": args.size,
        "threads": args.threads,
        "device": gpu::name(device),
        "batched": args.batched || device.is_cuda(),
        "images_per_s": images_per_s,
    });
    super::report("augment", figures)
}

/// Images per second from encoded bytes to two views: SimCLR's augmentation, with blur above 32 pixels.
fn images_per_s(args: &AugmentArgs, device: Device) -> anyhow::Result<f64> {
    let mut files = Vec::new();
    let folder = std::fs::read_dir(&args.images)
        .with_context(|| format!("read folder {}", args.images.display()))?;
    for entry in folder {
        let path = entry.context("list images")?.path();
        if path.is_file() {
            files.push(std::fs::read(&path).with_context(|| format!("read {}", path.display()))?);
        }
    }
    ensure!(
        !files.is_empty(),
        "{} holds no files; give a folder of JPEG or PNG images",
        args.images.display()
    );
    // As photos (v1 appendix A), or as CIFAR (v1 §B.9).
    let spec = if args.size <= 32 {
        AugmentSpec::simclr_small(args.size)
    } else {
        AugmentSpec::simclr(args.size)
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(args.threads.max(1))
        .build()
        .context("start threads")?;
    if args.batched || device.is_cuda() {
        return batched(args, (&spec, device), (&files, &pool));
    }
    let view = 3 * (args.size as usize).pow(2);
    let round = |first: u64| {
        pool.install(|| {
            (first..first + ROUND * args.threads.max(1) as u64)
                .into_par_iter()
                .try_for_each_init(
                    || (Scratch::default(), vec![0.0f32; 2 * view]),
                    |(scratch, out), sample| {
                        let image = decode(&files[sample as usize % files.len()])
                            .context("decode an image")?;
                        for (number, out) in out.chunks_exact_mut(view).enumerate() {
                            augment(&image, &spec, &key(sample, number as u32), scratch, out);
                        }
                        std::hint::black_box(&out);
                        anyhow::Ok(())
                    },
                )
        })
    };
    round(0)?;
    let (mut done, start) = (0, Instant::now());
    while start.elapsed() < Duration::from_secs_f64(args.seconds.max(0.1)) {
        round(done)?;
        done += ROUND * args.threads.max(1) as u64;
    }
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

/// The same with views made on the device, a batch of crops at a time; the next one is decoded meanwhile.
fn batched(
    args: &AugmentArgs,
    (spec, device): (&AugmentSpec, Device),
    (files, pool): (&[Vec<u8>], &rayon::ThreadPool),
) -> anyhow::Result<f64> {
    let decoded = |first: u64| -> anyhow::Result<Crops> {
        let crops: Vec<Vec<Crop>> = pool.install(|| {
            (first..first + BATCH)
                .into_par_iter()
                .map(|sample| {
                    let image =
                        decode(&files[sample as usize % files.len()]).context("decode an image")?;
                    let views = (0..2).map(|view| {
                        let (height, width) = (image.height, image.width);
                        let params = ViewParams::draw(spec, &key(sample, view), height, width);
                        Crop::of(&image, params)
                    });
                    anyhow::Ok(views.collect())
                })
                .collect::<anyhow::Result<_>>()
        })?;
        let packed = Crops::pack(spec, crops.into_iter().flatten().collect())?;
        Ok(match device {
            Device::Cuda(_) => packed.pinned(device)?,
            _ => packed,
        })
    };
    std::thread::scope(|scope| {
        let (sender, batches) = crossbeam_channel::bounded(1);
        scope.spawn(move || {
            let mut first = 0;
            // It ends when nobody takes the next batch.
            while sender.send(decoded(first)).is_ok() {
                first += BATCH;
            }
        });
        let next = || -> anyhow::Result<()> {
            let views = batches
                .recv()
                .context("the decoding thread ended")??
                .render(device)?;
            gpu::finish(device)?;
            std::hint::black_box(&views);
            Ok(())
        };
        next()?;
        let (mut done, start) = (0, Instant::now());
        while start.elapsed() < Duration::from_secs_f64(args.seconds.max(0.1)) {
            next()?;
            done += BATCH;
        }
        let seconds = start.elapsed().as_secs_f64();
        drop(batches);
        Ok(done as f64 / seconds)
    })
}

fn key(sample: u64, view: u32) -> Key {
    Key {
        seed: 0,
        phase: 0,
        step: 0,
        position: 0,
        sample,
        view,
    }
}
