//! What a user typed: every field as it stands in the YAML file, absent where it was left out.
//!
//! Nothing but [`JobSpec::try_from`](super::JobSpec) reads a draft; the rest of Diptych sees valid specs only.
//! The doc comments here are the user's reference: `diptych spec schema` prints them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! draft {
    ($(#[$doc:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name { $($body)* }
    };
}

draft! {
    /// One submitted pipeline.
    pub struct JobDraft {
        /// Always `diptych/v1`.
        #[serde(rename = "apiVersion")]
        pub api_version: String,
        /// 1 to 50 lower-case letters, digits and '-'. The coordinator adds a suffix to make the job id.
        pub name: String,
        /// Seed of every random stream of the job. Default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub seed: Option<u64>,
        /// Higher runs first; equal priorities in order of submission. Default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub priority: Option<i32>,
        /// Where checkpoints go: `file:///dir`, `s3://bucket/prefix`, `gs://…` or `az://…`. Credentials, endpoint
        /// and region come from the environment of each process, never from a spec.
        pub storage: String,
        /// Write curves and a picture of the first views as TensorBoard event files beside the checkpoints of each phase
        /// (`tensorboard --logdir STORAGE/JOB`). Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tensorboard: Option<bool>,
        /// Devices that each phase asks for unless it says otherwise.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub resources: Option<ResourcesDraft>,
        /// The data sets, by name. Phases use `train` and `test` unless they name others.
        pub data: BTreeMap<String, DataDraft>,
        /// The encoder that `pretrain` and `from: random` build.
        pub encoder: EncoderDraft,
        /// The projection head that `pretrain` puts on the encoder.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head: Option<HeadDraft>,
        /// The phases. Each may name an earlier one in `from` or `teacher`.
        pub phases: Vec<PhaseDraft>,
    }
}

draft! {
    /// The gang of a phase.
    pub struct ResourcesDraft {
        /// `cpu` or `cuda`. Default `cpu`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub device: Option<String>,
        /// Number of ranks, or the range that the scheduler may choose from. Default 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub ranks: Option<RanksDraft>,
        /// `fp32` (default), `fp64` (CPU, for exactness) or `bf16` (compute only; weights and loss stay fp32).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub precision: Option<String>,
        /// Trainers that stand by beside the gang, everything loaded but the state, and take the place of a rank that
        /// dies. Default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub spares: Option<u32>,
        /// `device: cuda`, `precision: fp32`: let matrix products and convolutions round their factors to TF32 (10 bits of
        /// mantissa). Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub tf32: Option<bool>,
        /// `device: cuda`: convolutions that give the same bits in every run of the same ranks, at some cost. CPU ranks
        /// always do. Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub deterministic: Option<bool>,
        /// The most that a rank may hold, e.g. `40GiB`: of its GPU's memory, or of the machine's. Phases without
        /// `micro_batch_groups` then hold as many batch-norm groups at once as fit on the fewest ranks, as `diptych plan`
        /// reckons; one that cannot fit is refused. Default: no limit.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub memory: Option<String>,
    }
}

/// A fixed number of ranks, or a range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RanksDraft {
    /// Exactly this many.
    Fixed(u32),
    /// Any number in the range; the scheduler takes the largest that fits.
    Range(RankRangeDraft),
}

draft! {
    /// An inclusive range of ranks.
    pub struct RankRangeDraft {
        /// Fewest ranks that the phase may run on.
        pub min: u32,
        /// Most ranks that the phase can use.
        pub max: u32,
    }
}

draft! {
    /// Where a data set is and how it is stored.
    pub struct DataDraft {
        /// A Parquet file, a tar shard, or a folder of them or of images. A `*` in the last part selects files.
        pub url: String,
        /// `parquet`, `tar`, `folder` or `auto` (default: by what is there).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub format: Option<String>,
        /// Parquet: the column with the encoded image. Default `image` (or its `bytes` field).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub image_column: Option<String>,
        /// Parquet: the integer label column. Default `label` where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub label_column: Option<String>,
        /// Class names in label order. Default: folder names, or `0`, `1`, ….
        #[serde(skip_serializing_if = "Option::is_none")]
        pub classes: Option<Vec<String>>,
        /// Use only the first this many samples.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub limit: Option<u64>,
    }
}

draft! {
    /// A residual network.
    pub struct EncoderDraft {
        /// 18, 34, 50, 101, 152 or 200.
        pub depth: u32,
        /// Multiplier on every layer's width, up to 8; fractions such as 0.25 are allowed. Default 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub width: Option<f64>,
        /// `imagenet` (7×7 stride 2 and max-pool; default) or `cifar` (3×3 stride 1, for images up to 64 pixels).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stem: Option<String>,
        /// Depth 18 and 34: `identity` (torchvision's; default) or `projection` (the official SimCLR code's; default
        /// with `selective_kernel`).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub basic_shortcut: Option<String>,
        /// SimCLR v2's SK networks: two streams and their mixing in place of the 3×3 convolutions of depth 50 and above,
        /// average-pool shortcuts, and three 3×3 convolutions in place of the 7×7 of `stem: imagenet`. Default false.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub selective_kernel: Option<bool>,
        /// `stem: imagenet`: padding of its max-pool, `torch` (torchvision's; default) or `tensorflow` (the official
        /// code's, for its released weights).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_pool: Option<String>,
    }
}

draft! {
    /// The projection head g.
    pub struct HeadDraft {
        /// `nonlinear` (default), `linear` (one layer) or `none` (the loss compares the encoder's outputs).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub kind: Option<String>,
        /// nonlinear: 1 to 32; 2 in SimCLR v1 (default), 3 in v2. All but the last are as wide as the encoder's output.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub layers: Option<u32>,
        /// nonlinear, linear: output dimensions. Default 128.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub dim: Option<u32>,
    }
}

draft! {
    /// One phase.
    pub struct PhaseDraft {
        /// Unique in the job.
        pub name: String,
        /// `pretrain`, `linear_eval`, `finetune` or `distill`.
        pub kind: String,
        /// What to start from: an earlier phase's name, `random` or an import URL. Needed by `linear_eval` and
        /// `finetune`; `pretrain` and `distill`'s student start at random unless it is given. An import is an export of
        /// Diptych, or safetensors or a `.pth` file with the names of torchvision's or timm's ResNets or of the PyTorch
        /// conversions of SimCLR v1 and v2; it must hold the job's `encoder` (`diptych checkpoint inspect` says what a
        /// file holds).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
        /// Which data sets to use.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub data: Option<PhaseDataDraft>,
        /// Images per step over all ranks: part of the maths, never changed by the number of ranks.
        pub batch: u32,
        /// Length in passes over the training data. One of `epochs` and `steps`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub epochs: Option<f64>,
        /// Length in optimiser steps. One of `epochs` and `steps`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub steps: Option<u64>,
        /// The optimiser and its learning-rate schedule.
        pub optimizer: OptimizerDraft,
        /// Augmentation; defaults depend on the kind (SimCLR's two views, or crop and flip).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub augment: Option<AugmentDraft>,
        /// Lanes of the batch. Default: the largest divisor of the batch that is at most 64.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub lanes: Option<u32>,
        /// Batch-norm groups. Default 1: statistics over the whole batch.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub groups: Option<u32>,
        /// How many batch-norm groups to hold in memory at once; fewer than `groups` costs a second forward pass and
        /// changes nothing else. Default: all.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub micro_batch_groups: Option<u32>,
        /// The gang of this phase; missing fields are the job's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub resources: Option<ResourcesDraft>,
        /// When to save.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub checkpoint: Option<CheckpointDraft>,
        /// When and how to evaluate.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub evaluate: Option<EvaluateDraft>,
        /// Share of the images that may be unreadable before the phase fails. Default 0.01.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub max_bad_images: Option<f64>,
        /// What a loss, gradient or weight that is not finite leads to: `stop` (default) ends the phase; `rewind` goes
        /// back to the newest verified checkpoint and skips the batch.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub on_non_finite: Option<String>,
        /// pretrain: the NT-Xent loss.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub loss: Option<LossDraft>,
        /// pretrain: train a linear probe beside the encoder, on stopped gradients. Needs labels. Default true where
        /// the data has labels.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub probe: Option<bool>,
        /// pretrain: the layer that the probe reads, counted as `head_layer`. Default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub probe_layer: Option<u32>,
        /// linear_eval, finetune: the layer that the classifier reads: 0 (default) is the encoder's output, j the
        /// projection head's j-th layer. linear_eval also takes a list or `all`: one classifier on each, trained at
        /// once. The first one's accuracy is the phase's, and its classifier is what a student or an export takes.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub head_layer: Option<HeadLayerDraft>,
        /// finetune, distill with `alpha` < 1: which labels may be used. Default: all.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub labels: Option<LabelsDraft>,
        /// distill: the phase whose classifier teaches, or an import URL as in `from`. An import without class names
        /// takes those of the data.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub teacher: Option<String>,
        /// distill: the student's network; left out, that of `from`, else the teacher's own (self-distillation), which
        /// of an imported teacher is taken to be the job's `encoder`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub student: Option<EncoderDraft>,
        /// distill: softening temperature of both outputs. Default 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub temperature: Option<f64>,
        /// distill: weight of the teacher's term; 1 − alpha weighs the supervised term. Default 1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub alpha: Option<f64>,
        /// distill with `alpha` < 1: labelled images per step. Default: `batch`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub labelled_batch: Option<u32>,
    }
}

/// One layer, or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum HeadLayerDraft {
    /// This one.
    One(u32),
    /// `all`: the encoder's output and every layer of the projection head.
    Word(String),
    /// These, the most important first.
    List(Vec<u32>),
}

draft! {
    /// Names of data sets.
    pub struct PhaseDataDraft {
        /// Training data. Default `train`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub train: Option<String>,
        /// Evaluation data. Default `test` where there is one.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub eval: Option<String>,
    }
}

draft! {
    /// The optimiser and its schedule.
    pub struct OptimizerDraft {
        /// `lars`, `sgd` (Nesterov momentum) or `adamw`.
        pub kind: String,
        /// Base learning rate, before scaling.
        pub learning_rate: f64,
        /// `linear` (× batch/256; default), `sqrt` (× √batch) or `none`.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub scaling: Option<String>,
        /// Linear warm-up, in epochs; a cosine to 0 follows. Default 0.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub warmup_epochs: Option<f64>,
        /// LARS and SGD. Default 0.9.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub momentum: Option<f64>,
        /// Default 0. Batch norms are left out, and under LARS and AdamW biases. The classifier and the probe decay, but
        /// LARS does not adapt their rate. AdamW's decay is decoupled: each step takes rate × this of a weight away.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub weight_decay: Option<f64>,
        /// LARS only. Default 0.001.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub trust_coefficient: Option<f64>,
        /// LARS only. `classic` (default): the rate and the trust ratio go into the momentum. `popular`: the momentum adds
        /// up plain gradients, and rate and trust ratio (of the momentum) scale the step.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub momentum_kind: Option<String>,
        /// AdamW: decay of the mean of gradients. Default 0.9.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub beta1: Option<f64>,
        /// AdamW: decay of the mean of squared gradients. Default 0.999.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub beta2: Option<f64>,
        /// AdamW: added to the root of that mean. Default 1e-8.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub epsilon: Option<f64>,
    }
}

draft! {
    /// Augmentation of training images.
    pub struct AugmentDraft {
        /// Side of the square that the network sees, in pixels.
        pub image_size: u32,
        /// Whose operations: `official` (default; the official code's, which are TensorFlow's) or `torchvision` (as
        /// PyTorch re-implementations of SimCLR use it, on float tensors). They differ in how crops are drawn, in
        /// resizing, in contrast and saturation, and at the borders of a blur.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub implementation: Option<String>,
        /// Between pixels: `bicubic` (default; not antialiased) in `official`; `bilinear` (default) or `bicubic`, both
        /// antialiased, in `torchvision`. Evaluation resizes in the same way.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub interpolation: Option<String>,
        /// Smallest and largest share of the image's area that a crop covers. Default [0.08, 1]. In `official` a crop
        /// covers at least 0.1 of it, whatever the first number says.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub crop_area: Option<[f64; 2]>,
        /// Narrowest and widest aspect ratio of a crop. Default [0.75, 1.3333].
        #[serde(skip_serializing_if = "Option::is_none")]
        pub crop_aspect: Option<[f64; 2]>,
        /// Flip left-right with probability ½. Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub flip: Option<bool>,
        /// Colour distortion; 0 turns it off. Strength of brightness, contrast and saturation (0.8 × this) and hue
        /// (0.2 × this). Default 1 in pretrain, 0 elsewhere.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub color_strength: Option<f64>,
        /// Probability of the colour distortion. Default 0.8.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub color_probability: Option<f64>,
        /// Overrides the saturation and hue parts: false distorts brightness and contrast only. Default true.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub color_hue_saturation: Option<bool>,
        /// Order of the colour operations: `random` for each view (default) or `fixed` (brightness, contrast, saturation,
        /// hue).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub color_order: Option<String>,
        /// `multiplicative` (SimCLR v2; default) or, in `official`, `additive` (SimCLR v1).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub brightness: Option<String>,
        /// Probability of turning a view gray. Default 0.2 in pretrain, 0 elsewhere.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub grayscale_probability: Option<f64>,
        /// Probability of a Gaussian blur. Default 0.5 in pretrain at 64 pixels and above, 0 elsewhere.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub blur_probability: Option<f64>,
        /// What shares a blur's sigma: `image` (default; each its own, as in the paper) or `view` (all first views of a
        /// step have one, all second views another, as in the official code).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub blur_sigma: Option<String>,
        /// Where views are made: `host` (default), by the threads that decode; `device`, from decoded images; or
        /// `resident`, on the device from images that are decoded once and stay in its memory. Random numbers and
        /// operations are the same.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub place: Option<String>,
    }
}

draft! {
    /// When to save.
    pub struct CheckpointDraft {
        /// Save after this long since the last save, e.g. `5m` (default).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub every: Option<String>,
        /// Save every this many steps, as well.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub every_steps: Option<u64>,
        /// How many verified checkpoints to keep per phase. Default 2.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub keep: Option<u32>,
        /// Which checkpoint is the phase's result. Default: the last.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub select: Option<SelectDraft>,
    }
}

draft! {
    /// The checkpoint that later phases, exports and results take.
    pub struct SelectDraft {
        /// That of the evaluation with the largest value of this measurement: `knn_top1`, `probe_top1` or `probe_top5` in
        /// pretrain, `eval_top1` or `eval_top5` elsewhere. It is saved at once and kept beside the newest ones.
        pub best: String,
    }
}

draft! {
    /// When and how to evaluate.
    pub struct EvaluateDraft {
        /// Evaluate every this many epochs, and at the end. Default: in pretrain after every tenth of the phase, at least
        /// an epoch apart; elsewhere only at the end.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub every_epochs: Option<f64>,
        /// pretrain: neighbours of the kNN classifier; 0 turns it off. Default 200.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub knn_k: Option<u32>,
        /// pretrain: temperature of the kNN vote. Default 0.1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub knn_temperature: Option<f64>,
        /// End the phase early. Default: never.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub stop_after: Option<StopAfterDraft>,
    }
}

draft! {
    /// When to end a phase before its last step.
    pub struct StopAfterDraft {
        /// The measurement that has to grow, as in `checkpoint.select.best`.
        pub metric: String,
        /// How many evaluations in a row it may fail to exceed the best before them.
        pub evaluations: u32,
    }
}

draft! {
    /// NT-Xent.
    pub struct LossDraft {
        /// Default 0.1.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub temperature: Option<f64>,
        /// Compare unit vectors (default true) or raw ones.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub normalize: Option<bool>,
        /// `paper` (mean over the 2N anchors; default) or `code` (twice that, as the official code).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub scale: Option<String>,
        /// Compare with rows of earlier steps, too (the memory of SimCLR v2). Default: do not.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub memory: Option<MemoryDraft>,
    }
}

draft! {
    /// Rows of earlier batches as further negatives: a moving average of the network encodes both views of every step,
    /// and a queue holds the newest of its rows. Needs unit vectors (`normalize: true`).
    pub struct MemoryDraft {
        /// Rows in the queue, at least the 2 × batch that a step adds. Default 65536.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub size: Option<u32>,
        /// Share of the old average that a step keeps. Default 0.999.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub decay: Option<f64>,
    }
}

draft! {
    /// Which labels of the training data may be used: one of the three.
    pub struct LabelsDraft {
        /// This share of each class, e.g. 0.01.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub share: Option<f64>,
        /// This many of each class.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub per_class: Option<u32>,
        /// URL of a text file with one sample name a line.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub list: Option<String>,
        /// Seed of the draw. Default: the job's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub seed: Option<u64>,
    }
}
