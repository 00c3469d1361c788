//! A valid spec, as the coordinator needs it.

use diptych_common::ids::{PhaseIndex, PhaseName};
use diptych_common::spec::{
    Device, JobDraft, JobSpec, NonFinitePolicy, PhaseKind, PhaseSpec, Source, Teacher,
};
use serde_json::Value;

use crate::core::{PhasePlan, Submission};

/// What the coordinator needs to know of a spec.
pub fn submission(spec: &JobSpec) -> Submission {
    Submission {
        digest: spec.digest().to_string(),
        draft: spec.draft().clone(),
        priority: spec.priority(),
        phases: spec
            .phases()
            .iter()
            .map(|phase| plan(spec, phase))
            .collect(),
        invalid: None,
    }
}

/// What is left of a spec that an older version accepted and this one does not: enough to show the job and to let it
/// go. `None` where even names cannot be made.
pub fn unusable(draft: JobDraft, problem: String, phases: usize) -> Option<Submission> {
    let plan = |index: usize| {
        let written = draft.phases.get(index);
        let name = written.and_then(|phase| phase.name.parse().ok());
        let kinds = ["pretrain", "linear_eval", "finetune", "distill"];
        let kind = kinds
            .into_iter()
            .find(|kind| written.is_some_and(|phase| phase.kind == *kind));
        Some(PhasePlan {
            index: PhaseIndex::new(index as u32),
            name: name.or_else(|| format!("phase-{index}").parse().ok())?,
            kind: kind.unwrap_or("unknown"),
            device: Device::Cpu,
            min: 1,
            max: 1,
            most: 1,
            spares: 0,
            rewinds: false,
            inputs: Vec::new(),
            keep: u32::MAX,
        })
    };
    let phases = (0..phases).map(plan).collect::<Option<_>>()?;
    Some(Submission {
        draft,
        digest: String::new(),
        priority: 0,
        phases,
        invalid: Some(problem),
    })
}

fn plan(spec: &JobSpec, phase: &PhaseSpec) -> PhasePlan {
    let position = |name: &PhaseName| spec.phase_named(name).map(|phase| phase.index);
    let mut inputs = Vec::new();
    if let PhaseKind::Distill(distill) = &phase.kind
        && let Teacher::Phase(name) = &distill.teacher
    {
        inputs.extend(position(name));
    }
    if let Source::Phase(name) = phase.kind.source() {
        // One phase may be both.
        inputs.extend(position(name).filter(|from| !inputs.contains(from)));
    }
    PhasePlan {
        index: phase.index,
        name: phase.name.clone(),
        kind: phase.kind.word(),
        device: phase.gang.device,
        min: phase.gang.min,
        max: phase.gang.max,
        most: phase.lanes / phase.groups.max(1),
        spares: phase.gang.spares,
        rewinds: phase.on_non_finite == NonFinitePolicy::Rewind,
        inputs,
        keep: phase.checkpoint.keep,
    }
}

/// Paths of the fields in which two specs differ, at most ten.
pub fn differences(one: &JobDraft, other: &JobDraft) -> Vec<String> {
    let value = |draft: &JobDraft| serde_json::to_value(draft).unwrap_or(Value::Null);
    let mut paths = Vec::new();
    differ(&value(one), &value(other), String::new(), &mut paths);
    paths.truncate(10);
    paths
}

fn differ(one: &Value, other: &Value, path: String, paths: &mut Vec<String>) {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let keys: std::collections::BTreeSet<_> = one.keys().chain(other.keys()).collect();
            for key in keys {
                let child = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                let (a, b) = (
                    one.get(key).unwrap_or(&Value::Null),
                    other.get(key).unwrap_or(&Value::Null),
                );
                differ(a, b, child, paths);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (index, (a, b)) in one.iter().zip(other).enumerate() {
                differ(a, b, format!("{path}[{index}]"), paths);
            }
        }
        _ if one == other => {}
        _ => paths.push(path),
    }
}
