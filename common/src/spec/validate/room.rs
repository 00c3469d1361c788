//! Memory limits: how many batch-norm groups are held at once, and whether that is few enough.
//!
//! Decided here, once, from the spec alone: neither the machine nor the number of ranks that a phase later gets changes it.
//! The draft takes it along, so that everybody who is sent it holds the same groups at once.

use super::super::JobSpec;
use super::check::{At, Check};
use crate::plan;
use crate::units::Bytes;

/// Chooses for every phase with a limit.
pub(super) fn choose(check: &mut Check, spec: &mut JobSpec) {
    for index in 0..spec.phases.len() {
        let phase = &spec.phases[index];
        let Some(limit) = phase.gang.memory else {
            continue;
        };
        let given = spec.draft.phases[index].micro_batch_groups;
        match plan::groups_at_once(spec, phase, given, limit) {
            Ok(groups) if groups == phase.micro_batch_groups => {}
            Ok(groups) => {
                spec.phases[index].micro_batch_groups = groups;
                spec.draft.phases[index].micro_batch_groups = Some(groups);
            }
            Err(tight) => {
                let at = At::root().field("phases").item(index);
                check.refuse(&at, refusal(&tight, phase.gang.min, limit));
            }
        }
    }
}

fn refusal(tight: &plan::Tight, ranks: u32, limit: Bytes) -> String {
    let plan::Tight {
        groups,
        needed,
        changes,
    } = tight;
    let advice = plan::advice(changes);
    let s = |count: u32| if count == 1 { "" } else { "s" };
    format!(
        "{ranks} rank{} with {groups} batch-norm group{} at once need {needed} each, more than `resources.memory` ({limit}): \
         {advice}",
        s(ranks),
        s(*groups)
    )
}
