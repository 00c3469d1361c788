//! What is refused before any training: pure checks of a phase against the data and the inputs that it got.

use diptych_common::ids::DataName;
use diptych_common::spec::{PhaseKind, PhaseSpec};

use super::PhaseError;

/// What matters here of a data set.
#[derive(Debug, Clone, Copy)]
pub struct Split<'a> {
    /// Its name in the spec.
    pub name: &'a DataName,
    /// How many images it holds.
    pub images: u64,
    /// How many classes it has; `None` where it has no labels.
    pub classes: Option<u32>,
}

/// Checks a phase against its data. `teacher` is the number of classes that a distillation's teacher knows.
///
/// # Errors
/// Says what does not fit and what to change.
pub fn check(
    phase: &PhaseSpec,
    train: Split<'_>,
    eval: Option<Split<'_>>,
    teacher: Option<u32>,
) -> Result<(), PhaseError> {
    for split in [Some(train), eval].into_iter().flatten() {
        if split.images == 0 {
            return Err(PhaseError::BadData(format!(
                "data {:?} holds no images",
                split.name.as_str()
            )));
        }
    }
    let needs_labels = match &phase.kind {
        PhaseKind::Pretrain(pretrain) => {
            if train.images < u64::from(phase.batch) {
                return Err(PhaseError::Refused(format!(
                    "phase {}: data {:?} holds {} images, fewer than the batch of {}: lower `batch`",
                    phase.name,
                    train.name.as_str(),
                    train.images,
                    phase.batch
                )));
            }
            pretrain.probe == Some(true)
        }
        PhaseKind::LinearEval(_) | PhaseKind::Finetune(_) => true,
        PhaseKind::Distill(distill) => distill.labelled.is_some(),
    };
    if needs_labels && train.classes.is_none() {
        return Err(PhaseError::Refused(format!(
            "phase {}: data {:?} has no labels: name its label column, or use data that has them",
            phase.name,
            train.name.as_str()
        )));
    }
    let pretrain = matches!(phase.kind, PhaseKind::Pretrain(_));
    if let Some(eval) = eval.filter(|eval| eval.classes.is_none() && !pretrain) {
        return Err(PhaseError::Refused(format!(
            "phase {}: data {:?} has no labels, so nothing can be evaluated on it",
            phase.name,
            eval.name.as_str()
        )));
    }
    let known = match teacher {
        Some(classes) => Some((classes, "the teacher knows".to_owned())),
        None => train
            .classes
            .map(|classes| (classes, format!("data {:?} has", train.name.as_str()))),
    };
    let Some((known, whose)) = known else {
        return Ok(());
    };
    let others = [(needs_labels && teacher.is_some()).then_some(train), eval];
    for split in others.into_iter().flatten() {
        if let Some(classes) = split.classes.filter(|classes| *classes != known) {
            return Err(PhaseError::BadData(format!(
                "data {:?} has {classes} classes, but {whose} {known}: the same classes are needed, in the same order",
                split.name.as_str()
            )));
        }
    }
    Ok(())
}
