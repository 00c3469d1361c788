use std::time::Instant;

use clap::ValueEnum;
use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, NtXentSpec, Precision, Stem};
use tch::{Kind, Tensor};

use super::gang::{GangArgs, on_ranks};
use super::lars;
use crate::backward::{Contrastive, MicroBatch, contrastive_step};
use crate::batch::Layout;
use crate::collective::Gang;
use crate::device::Compute;
use crate::gather::RowOrder;
use crate::optim::Optimizer;
use crate::project::{HeadPart, Model, ModelSpec, Reader};
use crate::reduce::Buckets;

/// Arguments of `bench step`.
#[derive(Debug, clap::Args)]
pub struct StepArgs {
    /// The encoder, with a head of 2 layers.
    #[arg(long, value_enum, default_value = "resnet18")]
    pub model: Network,
    /// Height and width of a view; up to 32 takes the CIFAR stem.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(8..=1024))]
    pub image_size: u32,
    /// Images per step over all ranks.
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(2..))]
    pub batch: u32,
    /// Steps measured, after two that are not.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Precision of forward and backward.
    #[arg(long, value_enum, default_value = "fp32")]
    pub precision: Compared,
    #[command(flatten)]
    /// The ranks.
    pub gang: GangArgs,
}

/// An encoder of width 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Network {
    /// Depth 18.
    Resnet18,
    /// Depth 34.
    Resnet34,
    /// Depth 50.
    Resnet50,
}

/// A precision to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Compared {
    /// 32-bit.
    Fp32,
    /// bfloat16 under autocast.
    Bf16,
}

const WARM_UP: u32 = 2;

/// One training step without its data: random views, NT-Xent over all ranks, LARS.
pub(super) fn run(args: &StepArgs) -> anyhow::Result<()> {
    on_ranks(&args.gang, |gang| {
        let (times, hidden, loss) = measure(args, gang)?;
        if gang.rank().get() > 0 {
            return Ok(());
        }
        let seconds = super::median(times);
        let figures = serde_json::json!({
            "model": args.model.name(),
            "image_size": args.image_size,
            "batch": args.batch,
            "world": args.gang.world,
            "precision": args.precision.name(),
            "loss": loss,
            "seconds": seconds,
            "images_per_s": f64::from(args.batch) / seconds,
            "hidden_reduce_share": super::median(hidden),
        });
        super::report("step", figures)
    })
}

fn measure(args: &StepArgs, gang: &Gang) -> anyhow::Result<(Vec<f64>, Vec<f64>, f64)> {
    let layout = Layout::new(
        args.batch,
        Layout::usual_lanes(args.batch),
        1,
        args.gang.world,
    )?;
    let order = RowOrder::of_step(&layout)?;
    let compute = Compute::cpu(args.precision.spec());
    let mut model = Model::new(&args.model.spec(args.image_size, None), 0, compute)?;
    let mut buckets = Buckets::new(&model, gang.gradients.clone())?;
    let mut optimizer = Optimizer::new(&lars::optimizer(), &model)?;
    let rows = i64::from(layout.images_of(gang.rank(), 0)) * 2;
    let side = i64::from(args.image_size);
    tch::manual_seed(i64::from(gang.rank().get()));
    let compute = model.compute();
    let images = compute.place(&Tensor::f_randn(
        [rows, 3, side, side],
        (Kind::Float, compute.device),
    )?)?;
    let batches = [MicroBatch {
        images,
        group_rows: vec![rows],
        labels: None,
    }];
    let loss = NtXentSpec {
        temperature: 0.5,
        normalize: true,
        scale: 1.0,
    };
    let step = Contrastive {
        loss: &loss,
        order: &order,
        queue: None,
        gang,
    };
    let (mut times, mut hidden, mut last) = (Vec::new(), Vec::new(), f64::NAN);
    for _ in 0..args.steps + WARM_UP {
        let start = Instant::now();
        let output = contrastive_step(&model, &mut buckets, &batches, &step)?;
        optimizer.commit(&mut model, &buckets, lars::PACE)?;
        times.push(start.elapsed().as_secs_f64());
        hidden.push(output.reduced.hidden_share());
        last = output.loss;
    }
    Ok((
        times.split_off(WARM_UP as usize),
        hidden.split_off(WARM_UP as usize),
        last,
    ))
}

// === impl Network ===

impl Network {
    /// With a classifier of so many classes, or a projection head of 2 layers.
    pub(super) fn spec(self, image_size: u32, classes: Option<u32>) -> ModelSpec {
        let depth = match self {
            Self::Resnet18 => Depth::D18,
            Self::Resnet34 => Depth::D34,
            Self::Resnet50 => Depth::D50,
        };
        let stem = if image_size <= 32 {
            Stem::Cifar
        } else {
            Stem::ImageNet
        };
        let head = HeadPart {
            spec: HeadSpec {
                layers: 2,
                dim: 128,
            },
            layers: 2,
        };
        let encoder = EncoderSpec {
            stem,
            ..EncoderSpec::torchvision(depth)
        };
        ModelSpec {
            head: classes.is_none().then_some(head),
            classifier: classes.map(|classes| Reader { layer: 0, classes }),
            ..ModelSpec::bare(encoder)
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resnet18 => "resnet18",
            Self::Resnet34 => "resnet34",
            Self::Resnet50 => "resnet50",
        }
    }
}

// === impl Compared ===

impl Compared {
    fn spec(self) -> Precision {
        match self {
            Self::Fp32 => Precision::Fp32,
            Self::Bf16 => Precision::Bf16,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
        }
    }
}
