use std::time::Instant;

use anyhow::Context;
use diptych_common::spec::NtXentSpec;
use tch::{Kind, Tensor};

use super::gpu;
use crate::collective::solo;
use crate::device::DeviceChoice;
use crate::gather::RowOrder;
use crate::loss::nt_xent;

/// Arguments of `bench nt-xent`.
#[derive(Debug, clap::Args)]
pub struct NtXentArgs {
    /// Pairs of views.
    #[arg(long, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// Dimensions of a row.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..))]
    pub dim: u32,
    /// Calls measured, after one that is not.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Threads of libtorch; its own choice unless given.
    #[arg(long)]
    pub threads: Option<u32>,
    /// Where: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub device: DeviceChoice,
}

/// Loss, gradient and metrics of one rank that holds all pairs, in fp32.
pub(super) fn run(args: &NtXentArgs) -> anyhow::Result<()> {
    if let Some(threads) = args.threads {
        crate::device::Compute::set_threads(threads);
    }
    let device = args.device.open()?;
    tch::manual_seed(0);
    let rows = 2 * i64::from(args.pairs);
    let u = Tensor::f_randn([rows, i64::from(args.dim)], (Kind::Float, device))?;
    let spec = NtXentSpec {
        temperature: 0.1,
        normalize: true,
        scale: 1.0,
    };
    let order = RowOrder::single(rows)?;
    let gang = solo::gang();
    let before = gpu::start_peak_mib(device)?.map_or_else(peak_rss_mib, Ok)?;
    let (mut times, mut loss) = (Vec::new(), 0.0);
    for _ in 0..=args.repeat {
        let start = Instant::now();
        let found = nt_xent(&u, &spec, &order, None, gang.statistics.as_ref())?;
        loss = found.figures()?.loss;
        gpu::finish(device)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let peak = gpu::peak_mib(device)?.map_or_else(peak_rss_mib, Ok)?;
    let figures = serde_json::json!({
        "pairs": args.pairs,
        "dim": args.dim,
        "device": gpu::name(device),
        "threads": tch::get_num_threads(),
        "loss": loss,
        "seconds": super::median(times.split_off(1)),
        "peak_extra_mib": peak - before,
    });
    super::report("nt_xent", figures)
}

/// The most memory that this process ever held.
fn peak_rss_mib() -> anyhow::Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .context("VmHWM in /proc/self/status")?;
    let kib: f64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .context("parse VmHWM")?;
    Ok(kib / 1024.0)
}
