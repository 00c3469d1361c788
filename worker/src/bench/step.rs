use std::time::Instant;

use clap::ValueEnum;
use diptych_common::network::forward_flops;
use diptych_common::spec::{Depth, EncoderSpec, HeadSpec, NtXentSpec, Precision, Stem};
use tch::{Device, Kind, Tensor};

use super::gang::{GangArgs, on_ranks};
use super::{gpu, lars};
use crate::backward::{Contrastive, MicroBatch, contrastive_step};
use crate::batch::Layout;
use crate::collective::{Gang, solo};
use crate::device::{Compute, cuda};
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
    /// Steps measured, after two that are not (ten on a GPU, which picks its convolutions meanwhile).
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    pub steps: u32,
    /// Batch-norm groups, held one at a time: more than one costs a second forward pass.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub groups: u32,
    /// On a GPU in fp32: let products round their factors to TF32.
    #[arg(long)]
    pub tf32: bool,
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

/// Forward, and twice as much backward.
const PASSES: f64 = 3.0;

/// What a rank measured.
struct Measured {
    /// Of each step on a CPU; of all on a GPU, where the host runs ahead.
    seconds: f64,
    hidden: f64,
    /// Of a step's time, in which the host gives a GPU its work.
    host: Option<f64>,
    loss: f64,
    peak_mib: Option<f64>,
}

/// One training step without its data: random views, NT-Xent over all ranks, LARS.
pub(super) fn run(args: &StepArgs) -> anyhow::Result<()> {
    on_ranks(&args.gang, |gang, device| {
        let alone = solo::gang();
        let gang = if gang.world() == 1 { &alone } else { gang };
        let measured = measure(args, gang, device)?;
        if gang.rank().get() > 0 {
            return Ok(());
        }
        let seconds = measured.seconds;
        let encoder = args.model.spec(args.image_size, None).encoder;
        let views = 2.0 * f64::from(args.batch) / f64::from(args.gang.world);
        let flops = PASSES * views * forward_flops(&encoder, args.image_size) as f64;
        let figures = serde_json::json!({
            "model": args.model.name(),
            "image_size": args.image_size,
            "batch": args.batch,
            "world": args.gang.world,
            "groups": args.groups,
            "device": gpu::name(device),
            "precision": args.precision.name(),
            "tf32": args.tf32,
            "loss": measured.loss,
            "seconds": seconds,
            "images_per_s": f64::from(args.batch) / seconds,
            "views_per_s": 2.0 * f64::from(args.batch) / seconds,
            "hidden_reduce_share": measured.hidden,
            "host_share": measured.host,
            "mfu": gpu::share_of_peak(device, args.precision.spec(), flops / seconds),
            "peak_device_mib": measured.peak_mib,
        });
        super::report("step", figures)
    })
}

fn measure(args: &StepArgs, gang: &Gang, device: Device) -> anyhow::Result<Measured> {
    let lanes = Layout::usual_lanes(args.batch);
    let layout = Layout::new(args.batch, lanes, args.groups, args.gang.world)?;
    let order = RowOrder::of_step(&layout)?;
    if device.is_cuda() {
        cuda::configure(args.tf32, false)?;
    }
    let compute = Compute::on(device, args.precision.spec());
    let mut model = Model::new(&args.model.spec(args.image_size, None), 0, compute)?;
    let mut buckets = Buckets::new(&model, gang.gradients.clone())?;
    let mut optimizer = Optimizer::new(&lars::optimizer(), &model)?;
    let side = i64::from(args.image_size);
    tch::manual_seed(i64::from(gang.rank().get()));
    let compute = model.compute();
    let group = |group| -> anyhow::Result<MicroBatch> {
        let rows = i64::from(layout.images_of(gang.rank(), group)) * 2;
        let images = Tensor::f_randn([rows, 3, side, side], (Kind::Float, device))?;
        Ok(MicroBatch {
            images: compute.place(&images)?,
            group_rows: vec![rows],
            labels: None,
        })
    };
    let batches = (0..args.groups)
        .map(group)
        .collect::<anyhow::Result<Vec<_>>>()?;
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
    let warm_up = if device.is_cuda() { 10 } else { 2 };
    let (mut times, mut hidden, mut host, mut loss) = (vec![], vec![], vec![], f64::NAN);
    let mut run = |steps: u32| -> anyhow::Result<f64> {
        gpu::finish(device)?;
        let all = Instant::now();
        for _ in 0..steps {
            let start = Instant::now();
            let output = contrastive_step(&model, &mut buckets, &batches, &step)?;
            gang.statistics.settle()?;
            gang.gradients.settle()?;
            let settled = Instant::now();
            optimizer.commit(&mut model, &buckets, lars::PACE)?;
            let busy = output.queued.duration_since(start) + settled.elapsed();
            host.push(busy.as_secs_f64());
            times.push(start.elapsed().as_secs_f64());
            hidden.push(output.reduced.hidden_share());
            loss = output.loss;
        }
        gpu::finish(device)?;
        Ok(all.elapsed().as_secs_f64() / f64::from(steps))
    };
    run(warm_up)?;
    gpu::start_peak_mib(device)?;
    let mean = run(args.steps)?;
    Ok(Measured {
        seconds: match device {
            Device::Cuda(_) => mean,
            _ => super::median(times.split_off(warm_up as usize)),
        },
        hidden: super::median(hidden.split_off(warm_up as usize)),
        // A CPU computes while it is given work.
        host: device
            .is_cuda()
            .then(|| super::median(host.split_off(warm_up as usize)) / mean),
        loss,
        peak_mib: gpu::peak_mib(device)?,
    })
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
