//! Optimiser and length.

use super::super::draft::{OptimizerDraft, PhaseDraft};
use super::super::{Length, OptimizerSpec, Rule, Scaling};
use super::check::{At, Check};

const MAX_EPOCHS: f64 = 1e6;
const MAX_STEPS: u64 = 1_000_000_000;
const MAX_RATE: f64 = 1e6;

pub(super) fn length(check: &mut Check, at: &At, draft: &PhaseDraft) -> Length {
    match (draft.epochs, draft.steps) {
        (Some(epochs), None) => {
            Length::Epochs(check.positive(&at.field("epochs"), epochs, MAX_EPOCHS))
        }
        (None, Some(steps)) => Length::Steps(check.count(&at.field("steps"), steps, 1, MAX_STEPS)),
        (None, None) => {
            check.refuse(&at.field("epochs"), "is required: give `epochs` or `steps`");
            Length::Steps(1)
        }
        (Some(_), Some(steps)) => {
            check.refuse(
                &at.field("steps"),
                "stands beside `epochs`: give one of the two",
            );
            Length::Steps(steps)
        }
    }
}

pub(super) fn optimizer(
    check: &mut Check,
    at: &At,
    draft: &OptimizerDraft,
    length: Length,
) -> OptimizerSpec {
    let lars = check.choice(
        &at.field("kind"),
        &draft.kind,
        &[("lars", true), ("sgd", false)],
    );
    let trust_at = at.field("trust_coefficient");
    let rule = match (lars, draft.trust_coefficient) {
        (true, trust) => Rule::Lars {
            trust_coefficient: check.positive(&trust_at, trust.unwrap_or(0.001), 1.0),
        },
        (false, None) => Rule::Sgd,
        (false, Some(_)) => {
            check.refuse(&trust_at, "belongs to `kind: lars` only");
            Rule::Sgd
        }
    };
    let scalings = [
        ("linear", Scaling::Linear),
        ("sqrt", Scaling::Sqrt),
        ("none", Scaling::None),
    ];
    let scaling = draft.scaling.as_deref();
    let warmup_at = at.field("warmup_epochs");
    let warmup_epochs = check.within(
        &warmup_at,
        draft.warmup_epochs.unwrap_or(0.0),
        0.0,
        MAX_EPOCHS,
    );
    if let Length::Epochs(epochs) = length {
        check.require(&warmup_at, warmup_epochs <= epochs, || {
            format!(
                "a warm-up of {warmup_epochs} epochs is longer than the phase ({epochs} epochs)"
            )
        });
    }
    let momentum = draft.momentum.unwrap_or(0.9);
    check.require(
        &at.field("momentum"),
        (0.0..1.0).contains(&momentum),
        || format!("{momentum} is not in 0 ≤ momentum < 1"),
    );
    OptimizerSpec {
        rule,
        learning_rate: check.positive(&at.field("learning_rate"), draft.learning_rate, MAX_RATE),
        scaling: scaling.map_or(Scaling::Linear, |word| {
            check.choice(&at.field("scaling"), word, &scalings)
        }),
        warmup_epochs,
        momentum,
        weight_decay: check.within(
            &at.field("weight_decay"),
            draft.weight_decay.unwrap_or(0.0),
            0.0,
            1.0,
        ),
    }
}
