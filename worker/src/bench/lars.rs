use std::time::Instant;

use diptych_common::spec::{MomentumKind, OptimizerSpec, Precision, Rule, Scaling};
use tch::no_grad;

use super::gpu;
use super::step::Network;
use crate::collective::solo;
use crate::device::{Compute, DeviceChoice};
use crate::optim::{Optimizer, Pace};
use crate::project::Model;
use crate::reduce::Buckets;

/// Arguments of `bench lars`.
#[derive(Debug, clap::Args)]
pub struct LarsArgs {
    /// The encoder whose parameters are updated, with a classifier of 1000 classes.
    #[arg(long, value_enum, default_value = "resnet50")]
    pub model: Network,
    /// Updates measured, after two that are not.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Threads of libtorch; its own choice unless given.
    #[arg(long)]
    pub threads: Option<u32>,
    /// Where: `cpu`, `cuda` or `cuda:N`.
    #[arg(long, default_value_t = DeviceChoice::Cpu)]
    pub device: DeviceChoice,
}

const WARM_UP: u32 = 2;
/// Every measured step.
pub(super) const PACE: Pace = Pace { step: 0, rate: 0.1 };

/// LARS as the paper's pretraining uses it.
pub(super) fn optimizer() -> OptimizerSpec {
    OptimizerSpec {
        rule: Rule::Lars {
            trust_coefficient: 0.001,
            momentum: 0.9,
            kind: MomentumKind::Classic,
        },
        learning_rate: 0.1,
        scaling: Scaling::None,
        warmup_epochs: 0.0,
        weight_decay: 1e-6,
    }
}

/// One commit: finite check, update, running statistics.
pub(super) fn run(args: &LarsArgs) -> anyhow::Result<()> {
    if let Some(threads) = args.threads {
        Compute::set_threads(threads);
    }
    let device = args.device.open()?;
    let spec = args.model.spec(224, Some(1000));
    let mut model = Model::new(&spec, 0, Compute::on(device, Precision::Fp32))?;
    let gang = solo::gang();
    let buckets = Buckets::new(&model, gang.gradients.clone())?;
    tch::manual_seed(0);
    no_grad(|| {
        buckets
            .flat()
            .iter()
            .try_for_each(|flat| flat.shallow_clone().f_normal_(0.0, 1.0).map(drop))
    })?;
    let mut optimizer = Optimizer::new(&optimizer(), &model)?;
    let mut times = Vec::new();
    for _ in 0..args.repeat + WARM_UP {
        let start = Instant::now();
        optimizer.commit(&mut model, &buckets, PACE)?;
        gpu::finish(device)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let figures = serde_json::json!({
        "model": args.model.name(),
        "device": gpu::name(device),
        "params": model.parameters().iter().map(|parameter| parameter.tensor.numel()).sum::<usize>(),
        "threads": tch::get_num_threads(),
        "seconds": super::median(times.split_off(WARM_UP as usize)),
    });
    super::report("lars", figures)
}
