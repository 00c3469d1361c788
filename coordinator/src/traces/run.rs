//! What is open of one job: itself, phases that had an attempt, and the attempt that lives.

use std::collections::BTreeMap;

use diptych_common::ids::{Attempt, JobId, PhaseName, Rank, Step};

use super::ids::{Part, SpanId, TraceId};
use super::span::{Events, Span, Value, short};
use crate::core::{FailureKind, Happening, Job, PhaseState, Placement, StartFrom, UnixMs};

/// A job from its submit, or a retry, to its end.
#[derive(Debug)]
pub(super) struct Run {
    job: JobId,
    id: SpanId,
    /// The job's own span, where this is a retry.
    parent: Option<SpanId>,
    since: UnixMs,
    events: Events,
    /// Since when it waits for devices, where it does.
    waits: Option<UnixMs>,
    /// The newest attempt.
    last: Attempt,
    attempts: u64,
    phases: BTreeMap<PhaseName, OpenPhase>,
    live: Option<OpenAttempt>,
}

/// A phase, from its first attempt to its end.
#[derive(Debug)]
struct OpenPhase {
    id: SpanId,
    since: UnixMs,
    events: Events,
    attempts: u64,
}

/// An attempt, from its placement to its end.
#[derive(Debug)]
struct OpenAttempt {
    phase: PhaseName,
    attempt: Attempt,
    since: UnixMs,
    events: Events,
    /// What was known when it was placed.
    placed: Vec<(&'static str, Value)>,
    steps: Steps,
}

/// How far an attempt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steps {
    /// Its ranks are not told to begin.
    Loading,
    /// They are, at this step.
    From(Step),
    /// They step; the step that they began at, where this process saw it.
    Taken(Option<Step>),
}

/// How an attempt ended, beside what its history says.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) failure: Option<FailureKind>,
    pub(super) reached: Step,
}

/// How something ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Done,
    /// Every phase of it is done.
    Succeeded,
    Failed,
    /// Somebody meant it, and the job goes on.
    Planned,
    Cancelled,
    /// With its job, which ended for another reason.
    Stopped,
    /// Nobody was there to see.
    Unknown,
}

impl Fate {
    const fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Planned => "planned",
            Self::Cancelled => "cancelled",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

impl Run {
    /// It is submitted.
    pub(super) fn submitted(line: &Happening) -> Self {
        let id = SpanId::of(&line.job, Part::Job);
        Self::new(line, id, None)
    }

    /// It had ended, and goes on: within the job's own span, which ended before.
    pub(super) fn retried(line: &Happening) -> Self {
        let id = SpanId::of(&line.job, Part::Retry(line.at));
        Self::new(line, id, Some(SpanId::of(&line.job, Part::Job)))
    }

    fn new(line: &Happening, id: SpanId, parent: Option<SpanId>) -> Self {
        Self {
            job: line.job.clone(),
            id,
            parent,
            since: line.at,
            events: Events::default(),
            waits: Some(line.at),
            last: Attempt::default(),
            attempts: 0,
            phases: BTreeMap::new(),
            live: None,
        }
    }

    /// Keeps a line as an event of the least span that it is about.
    pub(super) fn note(&mut self, line: &Happening) {
        let live = self.live.as_mut();
        let live = live.filter(|live| live.attempt == line.attempt);
        let phase = line.phase.as_ref();
        let phase = phase.and_then(|phase| self.phases.get_mut(phase));
        let events = match (live, phase) {
            (Some(live), _) => &mut live.events,
            (None, Some(phase)) => &mut phase.events,
            (None, None) => &mut self.events,
        };
        events.push(line.at, &line.kind, &line.message);
    }

    /// An attempt has its devices: what waited for them waits no longer.
    pub(super) fn placed(&mut self, job: Option<&Job>, line: &Happening, spans: &mut Vec<Span>) {
        let Some(name) = &line.phase else { return };
        spans.extend(self.attempt_ends(line, Fate::Unknown, None));
        spans.extend(self.waited(line));
        self.last = line.attempt;
        self.attempts += 1;
        let id = SpanId::of(&self.job, Part::Phase(self.id, name));
        let phase = self.phases.entry(name.clone());
        let phase = phase.or_insert_with(|| OpenPhase {
            id,
            since: line.at,
            events: Events::default(),
            attempts: 0,
        });
        phase.attempts += 1;
        let placement = job.and_then(Job::live).map(|(_, placement)| placement);
        let placement = placement.filter(|placement| placement.attempt == line.attempt);
        self.live = Some(OpenAttempt {
            phase: name.clone(),
            attempt: line.attempt,
            since: line.at,
            events: Events::default(),
            placed: placement.map_or_else(Vec::new, seats),
            steps: Steps::Loading,
        });
    }

    /// The ranks of the live attempt are told to begin.
    pub(super) fn begun(&mut self, job: Option<&Job>, line: &Happening) {
        let live = self.live.as_mut();
        let Some(live) = live.filter(|live| live.attempt == line.attempt) else {
            return;
        };
        let phase = job.and_then(Job::live).map(|(index, _)| index);
        let from = phase.and_then(|index| Some(job?.phases[index].progress.step));
        live.steps = from.map_or(Steps::Taken(None), Steps::From);
    }

    /// A rank is at this step.
    pub(super) fn stepped(&mut self, attempt: Attempt, rank: Rank, step: Step, at: UnixMs) {
        let live = self.live.as_mut();
        if let Some(live) = live.filter(|live| live.attempt == attempt)
            && let Steps::From(from) = live.steps
            && step > from
        {
            live.steps = Steps::Taken(Some(from));
            let message = format!("rank {rank} reports step {step}");
            live.events.push(at, "first_step", &message);
        }
    }

    /// What came before was seen by another process, which told of the first step if there was one.
    pub(super) fn recalled(&mut self) {
        if let Some(live) = &mut self.live
            && live.steps != Steps::Loading
        {
            live.steps = Steps::Taken(None);
        }
    }

    /// The attempt that lives ends.
    pub(super) fn attempt_ends(
        &mut self,
        line: &Happening,
        fate: Fate,
        end: Option<&End>,
    ) -> Option<Span> {
        let live = self.live.take()?;
        self.waits = Some(line.at);
        let part = Part::Attempt(&live.phase, live.attempt);
        let parent = self.phases.get(&live.phase).map(|phase| phase.id);
        let mut span = self.span("attempt", part, parent, (live.since, line.at));
        span.attributes
            .push(("diptych.phase", text(live.phase.as_str())));
        let number = Value::Number(live.attempt.get());
        span.attributes.push(("diptych.attempt", number));
        span.attributes.extend(live.placed);
        if let Steps::From(from) | Steps::Taken(Some(from)) = live.steps {
            let from = Value::Number(from.get());
            span.attributes.push(("diptych.step.from", from));
        }
        if let Some(end) = end {
            let reached = Value::Number(end.reached.get());
            span.attributes.push(("diptych.step.reached", reached));
        }
        if let Some(kind) = end.and_then(|end| end.failure) {
            span.attributes.push(("diptych.failure", text(kind.name())));
        }
        close(&mut span, live.events, fate, line);
        Some(span)
    }

    /// A phase is done, and with it its attempt.
    pub(super) fn phase_done(
        &mut self,
        job: Option<&Job>,
        line: &Happening,
        spans: &mut Vec<Span>,
    ) {
        let Some(name) = &line.phase else { return };
        let end = job.and_then(|job| steps_of(job, name)).map(|reached| End {
            failure: None,
            reached,
        });
        spans.extend(self.attempt_ends(line, Fate::Done, end.as_ref()));
        spans.extend(self.phase_ends((name, job), Fate::Done, line));
    }

    fn phase_ends(
        &mut self,
        (name, job): (&PhaseName, Option<&Job>),
        fate: Fate,
        line: &Happening,
    ) -> Option<Span> {
        let phase = self.phases.remove(name)?;
        let part = Part::Phase(self.id, name);
        let times = (phase.since, line.at);
        let called = format!("phase {name}");
        let mut span = self.span(&called, part, Some(self.id), times);
        span.attributes.push(("diptych.phase", text(name.as_str())));
        if let Some(job) = job {
            let plan = job
                .index_of(name.as_str())
                .map(|i| &job.submission.phases[i]);
            let kind = plan.map(|plan| ("diptych.phase.kind", text(plan.kind)));
            span.attributes.extend(kind);
            let reached = steps_of(job, name).map(|steps| Value::Number(steps.get()));
            let reached = reached.map(|steps| ("diptych.step.reached", steps));
            span.attributes.extend(reached);
        }
        let attempts = Value::Number(phase.attempts);
        span.attributes.push(("diptych.attempts", attempts));
        close(&mut span, phase.events, fate, line);
        Some(span)
    }

    /// The job ends, and with it everything that is open of it.
    pub(super) fn ends(mut self, job: Option<&Job>, fate: Fate, line: &Happening) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::new();
        spans.extend(self.attempt_ends(line, Fate::Unknown, None));
        spans.extend(self.waited(line));
        let names: Vec<PhaseName> = self.phases.keys().cloned().collect();
        for name in names {
            let fate = match fate {
                Fate::Failed if line.phase.as_ref() != Some(&name) => Fate::Stopped,
                fate => fate,
            };
            spans.extend(self.phase_ends((&name, job), fate, line));
        }
        let (part, called) = match self.parent {
            None => (Part::Job, "job"),
            Some(_) => (Part::Retry(self.since), "retry"),
        };
        let mut span = self.span(called, part, self.parent, (self.since, line.at));
        if let Some(job) = job {
            let name = text(&job.submission.draft.name);
            span.attributes.push(("diptych.job.name", name));
        }
        let attempts = Value::Number(self.attempts);
        span.attributes.push(("diptych.attempts", attempts));
        close(&mut span, self.events, fate, line);
        spans.push(span);
        spans
    }

    /// The wait for devices ends, where it took any time.
    fn waited(&mut self, line: &Happening) -> Option<Span> {
        let since = self.waits.take().filter(|since| *since < line.at)?;
        let part = Part::Queued(self.id, self.last);
        Some(self.span("queued", part, Some(self.id), (since, line.at)))
    }

    fn span(
        &self,
        name: &str,
        part: Part<'_>,
        parent: Option<SpanId>,
        (start, end): (UnixMs, UnixMs),
    ) -> Span {
        Span {
            trace: TraceId::of(&self.job),
            id: SpanId::of(&self.job, part),
            parent,
            name: name.to_owned(),
            start,
            // The clock of people may have been set back.
            end: end.max(start),
            attributes: vec![("diptych.job", text(self.job.as_str()))],
            events: Vec::new(),
            left_out: 0,
            error: None,
        }
    }
}

fn close(span: &mut Span, events: Events, fate: Fate, line: &Happening) {
    events.fill(span);
    span.error = (fate == Fate::Failed).then(|| short(&line.message));
    let outcome = ("diptych.outcome", text(fate.name()));
    span.attributes.push(outcome);
}

/// Who takes part in an attempt, and what it starts from.
fn seats(placement: &Placement) -> Vec<(&'static str, Value)> {
    let world = placement.seats.len() as u64;
    let workers = placement.seats.iter().map(|seat| seat.worker.to_string());
    let start = match placement.start {
        StartFrom::Memory => "memory",
        StartFrom::Checkpoint if placement.resume.is_some() => "checkpoint",
        StartFrom::Checkpoint => "beginning",
    };
    vec![
        ("diptych.world", Value::Number(world)),
        ("diptych.workers", Value::Texts(workers.collect())),
        ("diptych.start", text(start)),
    ]
}

/// The steps of a phase that is done.
fn steps_of(job: &Job, phase: &PhaseName) -> Option<Step> {
    match &job.phases[job.index_of(phase.as_str())?].record.state {
        PhaseState::Done { steps, .. } => *steps,
        PhaseState::Waiting | PhaseState::Live(_) | PhaseState::Failed { .. } => None,
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}
