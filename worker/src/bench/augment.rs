//! Decode and two views, as pretraining does it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use diptych_common::spec::AugmentSpec;
use diptych_images::augment::{Key, Scratch, augment};
use diptych_images::decode::decode;
use rayon::prelude::*;

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
    /// How long to measure.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Measures and prints `images_per_s`.
///
/// # Errors
/// When the folder holds no images, or one that cannot be decoded.
pub(super) fn run(args: &AugmentArgs) -> anyhow::Result<()> {
    let images_per_s = images_per_s(args)?;
    let figures = serde_json::json!({ "size": args.size, "threads": args.threads, "images_per_s": images_per_s });
    super::report("augment", figures)
}

/// Images per second from encoded bytes to two views: SimCLR's augmentation, with blur above 32 pixels.
fn images_per_s(args: &AugmentArgs) -> anyhow::Result<f64> {
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
                            let key = Key {
                                seed: 0,
                                phase: 0,
                                step: 0,
                                position: 0,
                                sample,
                                view: number as u32,
                            };
                            augment(&image, &spec, &key, scratch, out);
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
