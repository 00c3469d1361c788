//! Decode and two views, as pretraining does it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use diptych_common::spec::AugmentSpec;
use diptych_images::augment::{Key, Scratch, ViewParams, augment};
use diptych_images::decode::{Image, decode};
use diptych_images::shard::SampleId;
use rayon::prelude::*;
use tch::Device;

use super::gpu;
use crate::batch::{Crops, Cuts, Gathered};
use crate::device::{DeviceChoice, pin};

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
    /// The device: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    device: DeviceChoice,
    /// Where views are made, as `augment.place` of a spec says it. Default: `host` with `--device cpu`, else `device`.
    #[arg(long, value_enum)]
    place: Option<PlaceArg>,
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Where views are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum PlaceArg {
    /// By the threads, one by one.
    Host,
    /// On the device in batches, of crops that the threads decode and cut out.
    Device,
    /// On the device in batches, of images that are decoded once, before the clock starts.
    Resident,
}

/// Measures and prints `images_per_s`.
///
/// # Errors
/// When the folder holds no images, or one that cannot be decoded.
pub(super) fn run(args: &AugmentArgs) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let place = args.place.unwrap_or(match device {
        Device::Cpu => PlaceArg::Host,
        _ => PlaceArg::Device,
    });
    let images_per_s = images_per_s(args, place, device)?;
    let figures = serde_json::json!({
        "size": args.size,
        "threads": args.threads,
        "device": gpu::name(device),
        "place": place.to_possible_value().map(|value| value.get_name().to_owned()),
        "images_per_s": images_per_s,
    });
    super::report("augment", figures)
}

/// Images per second from encoded bytes, or resident images, to two views: SimCLR's augmentation, with blur above 32
/// pixels.
fn images_per_s(args: &AugmentArgs, place: PlaceArg, device: Device) -> anyhow::Result<f64> {
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
    let decode = |sample: u64| -> anyhow::Result<Image> {
        decode(&files[sample as usize % files.len()]).context("decode an image")
    };
    let cut = |sample: u64, cuts: &mut Cuts| -> anyhow::Result<()> {
        let image = decode(sample)?;
        for view in 0..2 {
            let params = ViewParams::draw(&spec, &key(sample, view), image.height, image.width);
            cuts.cut(row(sample, view), &image, params);
        }
        Ok(())
    };
    match place {
        PlaceArg::Host => {}
        PlaceArg::Device => {
            let pack = |cuts: Cuts| -> anyhow::Result<Crops> { Ok(Crops::pack(&spec, cuts)?) };
            return batched(args, device, &pool, (&cut, &pack));
        }
        PlaceArg::Resident => {
            let mut gathered = Gathered::default();
            for sample in 0..files.len() as u64 {
                gathered.add(SampleId::new(sample), &decode(sample)?);
            }
            let originals = Arc::new(gathered.settle(device)?);
            let point = |sample: u64, cuts: &mut Cuts| -> anyhow::Result<()> {
                let stored = SampleId::new(sample % files.len() as u64);
                let frame = originals.frame(stored).map_err(anyhow::Error::msg)?;
                for view in 0..2 {
                    let params =
                        ViewParams::draw(&spec, &key(sample, view), frame.height, frame.width);
                    cuts.point(row(sample, view), frame, params);
                }
                Ok(())
            };
            let pack = |cuts: Cuts| -> anyhow::Result<Crops> {
                Ok(Crops::resident(&spec, cuts, &originals)?)
            };
            return batched(args, device, &pool, (&point, &pack));
        }
    }
    let view = 3 * (args.size as usize).pow(2);
    let round = |first: u64| {
        pool.install(|| {
            (first..first + ROUND * args.threads.max(1) as u64)
                .into_par_iter()
                .try_for_each_init(
                    || (Scratch::default(), vec![0.0f32; 2 * view]),
                    |(scratch, out), sample| {
                        let image = decode(sample)?;
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

/// Takes a sample's views out of its image.
type Take<'a> = &'a (dyn Fn(u64, &mut Cuts) -> anyhow::Result<()> + Sync);
/// Makes a batch of them.
type Pack<'a> = &'a (dyn Fn(Cuts) -> anyhow::Result<Crops> + Sync);

/// The same with views made on the device, a batch of crops at a time; the next one is prepared meanwhile.
fn batched(
    args: &AugmentArgs,
    device: Device,
    pool: &rayon::ThreadPool,
    (take, pack): (Take<'_>, Pack<'_>),
) -> anyhow::Result<f64> {
    let prepared = |first: u64| -> anyhow::Result<Crops> {
        let taken: Vec<Cuts> = pool.install(|| {
            (first..first + BATCH)
                .into_par_iter()
                .map(|sample| {
                    let mut cuts = Cuts::default();
                    take(sample, &mut cuts)?;
                    Ok(cuts)
                })
                .collect::<anyhow::Result<_>>()
        })?;
        let mut all = Cuts::default();
        taken.into_iter().for_each(|cuts| all.append(cuts));
        let packed = pack(all)?;
        Ok(match device {
            Device::Cuda(_) => packed.moved(&pin)?,
            _ => packed,
        })
    };
    std::thread::scope(|scope| {
        let (sender, batches) = crossbeam_channel::bounded(1);
        scope.spawn(move || {
            let mut first = 0;
            // It ends when nobody takes the next batch.
            while sender.send(prepared(first)).is_ok() {
                first += BATCH;
            }
        });
        let next = || -> anyhow::Result<()> {
            let views = batches
                .recv()
                .context("the preparing thread ended")??
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

/// A view's row in its batch.
fn row(sample: u64, view: u32) -> usize {
    (sample % BATCH) as usize * 2 + view as usize
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
