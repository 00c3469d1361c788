//! The data and the imports of the whole job, looked at before its first step: what a later phase would refuse is refused
//! now.

use std::collections::BTreeSet;

use diptych_common::ids::{DataName, PhaseIndex};
use diptych_common::spec::{JobSpec, PhaseKind, PhaseSpec, Teacher};

use super::data::{Sets, problems as misfits, rules};
use super::{PhaseError, import};

/// Every problem of the job's data sets, label rules and classes, in the order of the spec.
///
/// # Errors
/// Only what says nothing about the data: a store that fails for now, or an abort.
pub fn problems(spec: &JobSpec, sets: &mut Sets<'_>) -> Result<Vec<PhaseError>, PhaseError> {
    let (mut problems, mut seen, mut closed) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    let names = spec
        .phases()
        .iter()
        .flat_map(|phase| std::iter::once(&phase.train).chain(&phase.eval));
    for name in names {
        if seen.insert(name)
            && let Err(error) = sets.get(name)
        {
            problems.push(lasting(error, &format!("data {:?}", name.as_str()))?);
            closed.insert(name);
        }
    }
    for phase in spec.phases() {
        let open = |name: &DataName| !closed.contains(name);
        if !open(&phase.train) || !phase.eval.as_ref().is_none_or(open) {
            continue;
        }
        let train = sets.get(&phase.train)?;
        let eval = phase.eval.as_ref().map(|name| sets.get(name)).transpose()?;
        let teacher = match &phase.kind {
            PhaseKind::Distill(_) => classes(spec, phase, sets, &closed)?,
            _ => None,
        };
        problems.extend(misfits(phase, (&train, eval.as_ref()), teacher.as_deref()));
        if !train.index().labelled() {
            continue;
        }
        let (main, beside) = rules(phase);
        for rule in main.into_iter().chain(beside) {
            if let Err(error) = train.labelled(rule) {
                problems.push(lasting(error.into(), &format!("phase {}", phase.name))?);
            }
        }
    }
    Ok(problems)
}

/// Every import that a phase other than `current` could not use. `current` reads its own anyway.
///
/// # Errors
/// As [`problems`].
pub fn imports(spec: &JobSpec, current: PhaseIndex) -> Result<Vec<PhaseError>, PhaseError> {
    let mut problems = Vec::new();
    for phase in spec.phases().iter().filter(|phase| phase.index != current) {
        if let Err(error) = import::check(spec, phase) {
            problems.push(lasting(error, &format!("phase {}", phase.name))?);
        }
    }
    Ok(problems)
}

/// The classes that a phase's network tells apart, where its data could be opened.
fn classes(
    spec: &JobSpec,
    phase: &PhaseSpec,
    sets: &mut Sets<'_>,
    closed: &BTreeSet<&DataName>,
) -> Result<Option<Vec<String>>, PhaseError> {
    let mut last = phase;
    while let PhaseKind::Distill(distill) = &last.kind {
        // What an import tells apart is known once it is read.
        let Teacher::Phase(name) = &distill.teacher else {
            return Ok(None);
        };
        match spec.phase_named(name) {
            Some(teacher) => last = teacher,
            None => return Ok(None),
        }
    }
    if closed.contains(&last.train) {
        return Ok(None);
    }
    let train = sets.get(&last.train)?;
    let classes = train.index().classes();
    Ok((!classes.is_empty()).then(|| classes.to_vec()))
}

/// A problem that stays, with where it is.
fn lasting(error: PhaseError, place: &str) -> Result<PhaseError, PhaseError> {
    match error {
        PhaseError::BadData(what) => Ok(PhaseError::BadData(format!("{place}: {what}"))),
        PhaseError::Refused(what) => Ok(PhaseError::Refused(format!("{place}: {what}"))),
        PhaseError::BadCheckpoint { object, problem } => {
            Ok(PhaseError::Refused(format!("{place}: {object}: {problem}")))
        }
        other => Err(other),
    }
}
