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
    /// Its class names in label order; `None` where it has no labels.
    pub classes: Option<&'a [String]>,
}

/// One error for all problems; nothing where there are none.
///
/// # Errors
/// The problem, or a list of them.
pub fn all(mut problems: Vec<PhaseError>) -> Result<(), PhaseError> {
    if problems.len() <= 1 {
        return problems.pop().map_or(Ok(()), Err);
    }
    let bad = problems
        .iter()
        .any(|problem| matches!(problem, PhaseError::BadData(_)));
    let list: String = problems
        .iter()
        .map(|problem| format!("\n  {problem}"))
        .collect();
    let text = format!(
        "{} problems, all found before training:{list}",
        problems.len()
    );
    Err(if bad {
        PhaseError::BadData(text)
    } else {
        PhaseError::Refused(text)
    })
}

/// What does not fit between a phase and its data, with what to change. `teacher` are the classes that a distillation's
/// teacher knows.
pub fn problems(
    phase: &PhaseSpec,
    train: Split<'_>,
    eval: Option<Split<'_>>,
    teacher: Option<&[String]>,
) -> Vec<PhaseError> {
    let mut problems = Vec::new();
    for split in [Some(train), eval].into_iter().flatten() {
        if split.images == 0 {
            problems.push(PhaseError::BadData(format!(
                "data {:?} holds no images",
                split.name.as_str()
            )));
        }
    }
    let needs_labels = match &phase.kind {
        PhaseKind::Pretrain(pretrain) => {
            if train.images < u64::from(phase.batch) {
                problems.push(PhaseError::Refused(format!(
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
        problems.push(PhaseError::Refused(format!(
            "phase {}: data {:?} has no labels: name its label column, or use data that has them",
            phase.name,
            train.name.as_str()
        )));
    }
    let pretrain = matches!(phase.kind, PhaseKind::Pretrain(_));
    for (path, metric) in phase.judged_by().filter(|_| pretrain) {
        let bare = [Some(train), eval].into_iter().flatten();
        for split in bare.filter(|split| split.classes.is_none()) {
            problems.push(PhaseError::Refused(format!(
                "phase {}: data {:?} has no labels, so that {} cannot be measured, which {path} names",
                phase.name,
                split.name.as_str(),
                metric.name()
            )));
        }
    }
    if let Some(eval) = eval.filter(|eval| eval.classes.is_none() && !pretrain) {
        problems.push(PhaseError::Refused(format!(
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
        return problems;
    };
    let others = [(needs_labels && teacher.is_some()).then_some(train), eval];
    for split in others.into_iter().flatten() {
        let difference = split
            .classes
            .and_then(|classes| difference(classes, known, &whose));
        if let Some(difference) = difference {
            problems.push(PhaseError::BadData(format!(
                "phase {}: data {:?} has {difference}: the same classes are needed, in the same order; state them with \
                 `classes`",
                phase.name,
                split.name.as_str()
            )));
        }
    }
    problems
}

/// The first difference between two lists of classes.
fn difference(classes: &[String], known: &[String], whose: &str) -> Option<String> {
    let differing = (0..)
        .zip(classes.iter().zip(known))
        .find(|(_, (class, wanted))| class != wanted);
    match differing {
        Some((label, (class, wanted))) => Some(format!(
            "class {class:?} as label {label}, where {whose} {wanted:?}"
        )),
        None if classes.len() != known.len() => Some(format!(
            "{} classes, but {whose} {}",
            classes.len(),
            known.len()
        )),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_compared_by_name_and_order() {
        let names = |all: &[&str]| {
            all.iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let known = names(&["cat", "dog"]);
        let of = |all: &[&str]| difference(&names(all), &known, "the teacher knows");
        assert_eq!(of(&["cat", "dog"]), None);
        assert_eq!(
            of(&["dog", "cat"]).as_deref(),
            Some("class \"dog\" as label 0, where the teacher knows \"cat\"")
        );
        assert_eq!(
            of(&["cat", "dog", "owl"]).as_deref(),
            Some("3 classes, but the teacher knows 2")
        );
    }
}
