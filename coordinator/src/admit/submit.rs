//! A new job, or the same again.

use std::sync::Arc;

use diptych_common::ids::Attempt;

use super::submission::differences;
use crate::core::{Answer, Job, JobRecord, JobState, Now, Outcome, Phase, Refusal, State, Submit};

/// Queues a job. The same request id and spec give the same job again.
///
/// # Errors
/// The request id was used for another spec; there are too many jobs; the random id is taken.
pub fn submit(
    state: &mut State,
    submit: Submit,
    now: Now,
    out: &mut Outcome,
) -> Result<(), Refusal> {
    if let Some(request) = &submit.request
        && let Some(job) = state.job_of_request(request)
    {
        if job.submission.digest == submit.submission.digest {
            out.answer = Answer::Submitted {
                job: job.id().clone(),
                created: false,
            };
            return Ok(());
        }
        return Err(Refusal::RequestIdTaken {
            request: request.0.clone(),
            job: job.id().clone(),
            differing: differences(&job.submission.draft, &submit.submission.draft),
        });
    }
    let active = state.queue().len() + state.live().len();
    if active >= state.settings().jobs {
        return Err(Refusal::TooManyJobs(active));
    }
    if state.job(&submit.id).is_some() {
        return Err(Refusal::JobIdTaken(submit.id));
    }
    let phase = || Phase {
        waiting: now.mono,
        ..Phase::new()
    };
    let job = Job {
        record: JobRecord {
            id: submit.id.clone(),
            sequence: state.next_sequence(),
            request: submit.request,
            secret: submit.secret,
            submitted: now.wall,
            last_attempt: Attempt::default(),
            state: JobState::Active,
        },
        phases: submit.submission.phases.iter().map(|_| phase()).collect(),
        submission: Arc::clone(&submit.submission),
    };
    let phases: Vec<_> = job
        .submission
        .phases
        .iter()
        .map(|plan| plan.name.as_str())
        .collect();
    out.note(
        &job,
        now.wall,
        "submitted",
        None,
        format!("phases {}", phases.join(", ")),
    );
    out.answer = Answer::Submitted {
        job: submit.id,
        created: true,
    };
    state.insert_job(job);
    Ok(())
}
