//! Optimiser and length.

use super::super::draft::{OptimizerDraft, PhaseDraft};
use super::super::{Length, MomentumKind, OptimizerSpec, Rule, Scaling};
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
    let rule = rule(check, at, draft);
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
    OptimizerSpec {
        rule,
        learning_rate: check.positive(&at.field("learning_rate"), draft.learning_rate, MAX_RATE),
        scaling: scaling.map_or(Scaling::Linear, |word| {
            check.choice(&at.field("scaling"), word, &scalings)
        }),
        warmup_epochs,
        weight_decay: check.within(
            &at.field("weight_decay"),
            draft.weight_decay.unwrap_or(0.0),
            0.0,
            1.0,
        ),
    }
}

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Lars,
    Sgd,
    AdamW,
}

fn rule(check: &mut Check, at: &At, draft: &OptimizerDraft) -> Rule {
    use Word::{AdamW, Lars, Sgd};
    let words = [("lars", Lars), ("sgd", Sgd), ("adamw", AdamW)];
    let word = check.choice_or(&at.field("kind"), &draft.kind, &words);
    let fields: [(&str, bool, &[Word]); 6] = [
        ("momentum", draft.momentum.is_some(), &[Lars, Sgd]),
        ("momentum_kind", draft.momentum_kind.is_some(), &[Lars]),
        (
            "trust_coefficient",
            draft.trust_coefficient.is_some(),
            &[Lars],
        ),
        ("beta1", draft.beta1.is_some(), &[AdamW]),
        ("beta2", draft.beta2.is_some(), &[AdamW]),
        ("epsilon", draft.epsilon.is_some(), &[AdamW]),
    ];
    for (field, given, owners) in fields {
        if given && word.is_some_and(|word| !owners.contains(&word)) {
            let owners = words.iter().filter(|(_, word)| owners.contains(word));
            let owners: Vec<_> = owners.map(|(text, _)| format!("`kind: {text}`")).collect();
            let message = format!("belongs to {} only", owners.join(" and "));
            check.refuse(&at.field(field), message);
        }
    }
    let momentum = below_one(check, at, "momentum", draft.momentum.unwrap_or(0.9));
    match word.unwrap_or(Lars) {
        Lars => Rule::Lars {
            trust_coefficient: check.positive(
                &at.field("trust_coefficient"),
                draft.trust_coefficient.unwrap_or(0.001),
                1.0,
            ),
            momentum,
            kind: check.choice(
                &at.field("momentum_kind"),
                draft.momentum_kind.as_deref().unwrap_or("classic"),
                &[
                    ("classic", MomentumKind::Classic),
                    ("popular", MomentumKind::Popular),
                ],
            ),
        },
        Sgd => Rule::Sgd { momentum },
        AdamW => Rule::AdamW {
            beta1: below_one(check, at, "beta1", draft.beta1.unwrap_or(0.9)),
            beta2: below_one(check, at, "beta2", draft.beta2.unwrap_or(0.999)),
            epsilon: check.positive(&at.field("epsilon"), draft.epsilon.unwrap_or(1e-8), 1.0),
        },
    }
}

fn below_one(check: &mut Check, at: &At, field: &str, value: f64) -> f64 {
    check.require(&at.field(field), (0.0..1.0).contains(&value), || {
        format!("{value} is not in 0 ≤ {field} < 1")
    });
    value
}
