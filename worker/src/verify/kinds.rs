use std::path::Path;

use anyhow::bail;
use diptych_common::spec::{Length, NtXentSpec, OptimizerSpec, Rule, Scaling};
use diptych_images::augment::{center_crop, gaussian_kernel};
use serde_json::Value;
use tch::{Kind, Tensor};

use super::number::{Case, expect};
use super::{network, norm, whole};
use crate::collective::solo;
use crate::device::shim;
use crate::device::update::{self, Momentum, StepNumbers, StepTensors};
use crate::gather::RowOrder;
use crate::loss::{cross_entropy, distillation, nt_xent};
use crate::optim::Schedule;

/// Runs one case of a kind; files that it names are in `folder`.
pub(super) fn check(kind: &str, case: Case<'_>, folder: &Path) -> anyhow::Result<()> {
    match kind {
        "nt_xent" => contrastive(case, None),
        "nt_xent_memory" => contrastive(case, Some(case.tensor("queue")?)),
        "lars" => lars(case),
        "schedule" => schedule(case),
        "distill" => distill(case),
        "sync_batch_norm" => norm::check(case),
        "network" => whole::check(case, folder),
        "gaussian_kernel" => kernel(case),
        "center_crop" => crop(case),
        "parameters" => network::count(case),
        "selective_kernel" => network::selective(case),
        other => bail!("kind {other} is unknown"),
    }
}

fn contrastive(case: Case<'_>, queue: Option<Tensor>) -> anyhow::Result<()> {
    let (a, b) = (case.tensor("a")?, case.tensor("b")?);
    let spec = NtXentSpec {
        temperature: case.number("temperature")?,
        // The memory holds unit rows, so that its cases need not say.
        normalize: match &queue {
            Some(_) if case.get("normalize").is_err() => true,
            _ => case.flag("normalize")?,
        },
        scale: 1.0,
    };
    let pairs = a.size()[0];
    let u = Tensor::f_cat(&[a, b], 0)?;
    let gang = solo::gang();
    let found = nt_xent(
        &u,
        &spec,
        &RowOrder::single(2 * pairs)?,
        queue.as_ref(),
        gang.statistics.as_ref(),
    )?;
    let figures = found.figures()?;
    case.expect("loss", &[figures.loss])?;
    case.expect_tensor("grad_a", &found.gradient.f_narrow(0, 0, pairs)?)?;
    case.expect_tensor("grad_b", &found.gradient.f_narrow(0, pairs, pairs)?)?;
    // Of a against b, whatever the memory holds: its cases need not repeat them.
    for (field, got) in [
        ("contrast_accuracy", figures.accuracy),
        ("contrast_entropy", figures.entropy),
    ] {
        if queue.is_none() || case.get(field).is_ok() {
            case.expect(field, &[got])?;
        }
    }
    Ok(())
}

fn lars(case: Case<'_>) -> anyhow::Result<()> {
    let excluded = case.flag("excluded")?;
    let weights = [case.tensor("weight")?];
    let velocities = [weights[0].f_zeros_like()?];
    let decay = [if excluded {
        0.0
    } else {
        case.number("weight_decay")?
    }];
    let numbers = StepNumbers {
        rate: case.number("lr")?,
        momentum: case.number("momentum")?,
        trust_coefficient: case.number("trust_coefficient")?,
        kind: Momentum::Classic,
        foreach: false,
    };
    let Value::Array(steps) = case.get("steps")? else {
        bail!("steps is no list")
    };
    for (index, step) in steps.iter().enumerate() {
        let step = Case {
            value: step,
            ..case
        };
        let gradients = [step.tensor("grad")?];
        let tensors = StepTensors {
            weights: &weights,
            gradients: &gradients,
            velocities: &velocities,
            decay: &decay,
            adapt: &[u8::from(!excluded)],
        };
        let trust = update::step(&tensors, numbers)?;
        let checked = step
            .expect_tensor("weight", &weights[0])
            .and_then(|()| step.expect_tensor("momentum", &velocities[0]))
            .and_then(|()| step.expect_tensor("trust_ratio", &trust));
        checked.map_err(|error| error.context(format!("step {index}")))?;
    }
    Ok(())
}

fn schedule(case: Case<'_>) -> anyhow::Result<()> {
    let scaling = match case.get("scaling")?.as_str() {
        Some("linear") => Scaling::Linear,
        Some("sqrt") => Scaling::Sqrt,
        Some("none") => Scaling::None,
        other => bail!("scaling {other:?} is unknown"),
    };
    let spec = OptimizerSpec {
        rule: Rule::Sgd { momentum: 0.9 },
        learning_rate: case.number("base_lr")?,
        scaling,
        warmup_epochs: case.number("warmup_epochs")?,
        weight_decay: 0.0,
    };
    let length = Length::Epochs(case.number("epochs")?);
    let batch = u32::try_from(case.count("batch")?)?;
    let schedule = Schedule::new(&spec, length, case.count("examples")?, batch);
    case.expect("peak_lr", &[schedule.peak()])?;
    case.expect("warmup_steps", &[schedule.warmup_steps() as f64])?;
    case.expect("total_steps", &[schedule.total_steps() as f64])?;
    for pair in case.numbers("lr")?.chunks_exact(2) {
        expect(
            &format!("rate of step {}", pair[0]),
            &[schedule.rate(pair[0] as u64)],
            &[pair[1]],
        )?;
    }
    Ok(())
}

fn distill(case: Case<'_>) -> anyhow::Result<()> {
    let alpha = case.number("alpha")?;
    let student = case.tensor("student_logits")?.f_set_requires_grad(true)?;
    let teacher = case.tensor("teacher_logits")?;
    let rows = student.size()[0] as f64;
    let soft = distillation(&student, &teacher, case.number("temperature")?)? / rows;
    let labelled = case.count("labelled_rows")? as i64;
    let mut loss = &soft * alpha;
    if labelled > 0 {
        let labels = case
            .tensor("labels")?
            .f_to_kind(Kind::Int64)?
            .f_narrow(0, 0, labelled)?;
        let hard = cross_entropy(&student.f_narrow(0, 0, labelled)?, &labels)? / labelled as f64;
        loss += hard * (1.0 - alpha);
    }
    case.expect_tensor("distill_loss", &soft)?;
    case.expect_tensor("loss", &loss)?;
    shim::backward(&[(&loss, &loss.f_ones_like()?)])?;
    case.expect_tensor("grad_student", &student.f_grad()?)?;
    Ok(())
}

fn kernel(case: Case<'_>) -> anyhow::Result<()> {
    let size = usize::try_from(case.count("image_size")?)?;
    case.expect("weights", &gaussian_kernel(size, case.number("sigma")?))?;
    Ok(())
}

fn crop(case: Case<'_>) -> anyhow::Result<()> {
    let (height, width) = (case.count("height")?, case.count("width")?);
    let found = center_crop(usize::try_from(height)?, usize::try_from(width)?, 0.875);
    for (field, got) in [
        ("crop_height", found.height),
        ("crop_width", found.width),
        ("top", found.top),
        ("left", found.left),
    ] {
        case.expect(field, &[got as f64])?;
    }
    Ok(())
}
