//! Devices that break while their worker lives.

use diptych_common::ids::WorkerId;

use crate::core::{Ignored, Outcome, SessionId, State};

/// A device broke: nothing is placed on it any more. What runs there goes on for as long as it can.
pub fn device_trouble(
    state: &mut State,
    session: SessionId,
    (worker, device): (&WorkerId, u32),
    problem: String,
    out: &mut Outcome,
) {
    if state.worker(worker).and_then(|worker| worker.session()) != Some(session) {
        return out.ignore(Ignored::OldSession);
    }
    let slot = state.worker_mut(worker);
    if let Some(slot) = slot.and_then(|worker| worker.slot_mut(device)) {
        slot.problem = Some(problem);
    }
}
