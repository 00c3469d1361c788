//! One event.

use super::event::Event;
use super::observation::Observation;
use super::outcome::{Answer, Outcome, Refusal};
use super::state::State;
use super::time::Now;
use crate::{admit, assign, track};

/// Takes the state through one event.
///
/// Pure but for `state`: the same state, event and `now` give the same outcome. What became different is
/// [`State::changes`], over all events of the batch; the outcome's effects may leave only when that is durable.
///
/// # Errors
/// A client's wish that cannot be met; the state is as before. What workers report is never an error: the answer
/// names why it was ignored.
pub fn apply(state: &mut State, event: Event, now: Now) -> Result<Outcome, Refusal> {
    let mut out = Outcome::default();
    let reported = Observation::of(&event);
    match event {
        Event::Submit(submit) => admit::submit(state, submit, now, &mut out)?,
        Event::Cancel { job, reason } => admit::cancel(state, &job, reason, now, &mut out)?,
        Event::Retry { job } => admit::retry(state, &job, now, &mut out)?,
        Event::Delete { job } => admit::delete(state, &job)?,
        Event::Scale(scale) => admit::scale(state, &scale, now, &mut out)?,
        Event::Cordon { worker, reason } => admit::cordon(state, &worker, reason)?,
        Event::Drain {
            worker,
            reason,
            deadline,
        } => admit::drain(state, &worker, (reason, deadline), now, &mut out)?,
        Event::Pin {
            job,
            phase,
            checkpoint,
            pinned,
        } => {
            admit::pin(state, (&job, phase, checkpoint), pinned, now, &mut out)?;
        }
        Event::Check {
            job,
            phase,
            checkpoint,
        } => track::check(state, (&job, phase, checkpoint), now, &mut out)?,
        Event::Registered(registration) => track::register(state, registration, now, &mut out),
        Event::Heartbeat { session, worker } => {
            track::heartbeat(state, session, &worker, now, &mut out)
        }
        Event::Reset { session, worker } => track::reset(state, session, &worker, now, &mut out),
        Event::Leaving {
            session,
            worker,
            grace,
        } => {
            track::leaving(state, session, &worker, grace, now, &mut out);
        }
        Event::LinkLost {
            session,
            worker,
            other,
            rank,
            reason,
        } => {
            let lost = track::LinkLost {
                session,
                worker: &worker,
                other: &other,
                rank: &rank,
                reason: &reason,
            };
            track::link_lost(state, &lost, now, &mut out);
        }
        Event::DeviceTrouble {
            session,
            worker,
            device,
            problem,
        } => track::device_trouble(state, session, (&worker, device), problem, &mut out),
        Event::Rank(report) => track::report(state, report, now, &mut out),
        Event::Verified(report) => track::verified(state, report, now, &mut out),
        Event::Tick => track::tick(state, now, &mut out),
        Event::Place => assign::place(state, now, &mut out),
    }
    state.derive();
    let ignored = matches!(out.answer, Answer::Ignored(_));
    let holds = |seen: &Observation| !ignored || seen.holds_when_ignored();
    out.observed.extend(reported.filter(holds));
    Ok(out)
}
