use std::time::Instant;

use anyhow::Context;
use tch::{Device, Kind, Tensor};

use super::gang::{GangArgs, on_ranks};
use super::gpu;
use crate::collective::{Collective, CollectiveError};

/// Arguments of `bench all-reduce` and `bench all-gather`.
#[derive(Debug, clap::Args)]
pub struct CollectiveArgs {
    /// Size of each rank's tensor in MiB.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=16384))]
    pub mib: u32,
    /// Calls measured, after two that are not.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    #[command(flatten)]
    /// The ranks.
    pub gang: GangArgs,
}

/// Which collective is measured.
#[derive(Debug, Clone, Copy)]
pub(super) enum Measured {
    AllReduce,
    AllGather,
}

const WARM_UP: u32 = 2;

pub(super) fn run(measured: Measured, args: &CollectiveArgs) -> anyhow::Result<()> {
    on_ranks(&args.gang, |gang, device| {
        let collective = gang.gradients.as_ref();
        let seconds = super::median(time_calls(measured, args, (collective, device))?);
        if collective.rank().get() > 0 {
            return Ok(());
        }
        let figures = serde_json::json!({
            "mib": args.mib,
            "device": gpu::name(device),
            "world": collective.world(),
            "seconds": seconds,
            "mib_per_s": f64::from(args.mib) / seconds,
        });
        super::report(measured.name(), figures)
    })
}

fn time_calls(
    measured: Measured,
    args: &CollectiveArgs,
    (collective, device): (&dyn Collective, Device),
) -> anyhow::Result<Vec<f64>> {
    let elements = i64::from(args.mib) * (1 << 20) / 4;
    let mut tensor =
        Tensor::f_ones(elements, (Kind::Float, device)).context("allocate the tensor")?;
    let rows = vec![elements; collective.world()];
    let mut call = || -> Result<f64, CollectiveError> {
        collective.barrier()?;
        let start = Instant::now();
        match measured {
            Measured::AllReduce => collective.all_reduce(&mut tensor)?,
            Measured::AllGather => drop(collective.all_gather(&tensor, &rows)?),
        }
        collective.settle()?;
        Ok(start.elapsed().as_secs_f64())
    };
    for _ in 0..WARM_UP {
        call()?;
    }
    Ok((0..args.repeat).map(|_| call()).collect::<Result<_, _>>()?)
}

// === impl Measured ===

impl Measured {
    const fn name(self) -> &'static str {
        match self {
            Self::AllReduce => "all_reduce",
            Self::AllGather => "all_gather",
        }
    }
}
