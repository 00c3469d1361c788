//! Specs, names, what ranks say, and orders by kind.

use std::sync::Arc;

use diptych_common::ids::{JobId, Step, WorkerId};
use diptych_common::spec::{JobDraft, JobSpec};
use diptych_coordinator::admit;
use diptych_coordinator::core::{Exit, FailureKind, Metric, Order, RankEvent, Submission};

/// A spec with these phases: `name` or `name<input`, each on `min..=max` ranks.
pub(crate) fn submission(ranks: (u32, u32), priority: i32, phases: &[&str]) -> Arc<Submission> {
    let mut text = format!(
        "apiVersion: diptych/v1\nname: job\npriority: {priority}\nstorage: file:///nowhere\n\
         data: {{train: {{url: 'file:///nowhere/*.parquet'}}}}\nencoder: {{depth: 18, stem: cifar}}\n\
         resources: {{ranks: {{min: {}, max: {}}}}}\nphases:\n",
        ranks.0, ranks.1
    );
    for phase in phases {
        let (name, from) = phase
            .split_once('<')
            .map_or((*phase, String::new()), |(n, i)| {
                (n, format!(", from: {i}"))
            });
        let kind = if from.is_empty() {
            "pretrain"
        } else {
            "linear_eval"
        };
        text += &format!(
            "  - {{name: {name}, kind: {kind}{from}, batch: 64, steps: 10, checkpoint: {{keep: 2}}, \
             optimizer: {{kind: sgd, learning_rate: 0.1}}, augment: {{image_size: 32}}}}\n"
        );
    }
    let draft = JobDraft::from_yaml(&text).expect("the text is a draft");
    let spec = JobSpec::try_from(draft).unwrap_or_else(|errors| panic!("{errors}"));
    Arc::new(admit::submission(&spec))
}

/// One phase that goes back to a checkpoint after a number that is not finite.
pub(crate) fn rewinding(ranks: (u32, u32)) -> Arc<Submission> {
    with_plan(ranks, |submission| submission.phases[0].rewinds = true)
}

/// One phase beside which trainers stand by.
pub(crate) fn sparing(ranks: (u32, u32), spares: u32) -> Arc<Submission> {
    with_plan(ranks, |submission| submission.phases[0].spares = spares)
}

fn with_plan(ranks: (u32, u32), change: impl FnOnce(&mut Submission)) -> Arc<Submission> {
    let mut submission = Submission::clone(&submission(ranks, 0, &["a"]));
    change(&mut submission);
    Arc::new(submission)
}

pub(crate) fn id(text: &str) -> JobId {
    text.parse().unwrap()
}

pub(crate) fn worker(text: &str) -> WorkerId {
    text.parse().unwrap()
}

pub(crate) fn ready(step: u64, digest: &str) -> RankEvent {
    RankEvent::Ready {
        endpoint: "127.0.0.1:1".to_owned(),
        step: Step::new(step),
        digest: digest.to_owned(),
        data: String::new(),
        nccl_id: Vec::new(),
        empty: false,
        tensors: Vec::new(),
    }
}

pub(crate) fn ready_with_data(of: &str) -> RankEvent {
    RankEvent::Ready {
        endpoint: "127.0.0.1:1".to_owned(),
        step: Step::new(0),
        digest: "aa".to_owned(),
        data: of.to_owned(),
        nccl_id: Vec::new(),
        empty: false,
        tensors: Vec::new(),
    }
}

pub(crate) fn progress(step: u64) -> RankEvent {
    let metrics = vec![Metric {
        step: Step::new(step),
        name: "loss".to_owned(),
        value: 1.0,
    }];
    RankEvent::Progress {
        step: Step::new(step),
        total: 10,
        images_per_s: 1.0,
        step_s: 1.0,
        waited_s: 0.0,
        metrics,
    }
}

pub(crate) fn finished(step: u64) -> RankEvent {
    let results = vec![Metric {
        step: Step::new(step),
        name: "eval_top1".to_owned(),
        value: 0.5,
    }];
    RankEvent::Finished {
        step: Step::new(step),
        results,
    }
}

pub(crate) fn failed(kind: FailureKind) -> RankEvent {
    RankEvent::Failed {
        kind,
        message: "it broke".to_owned(),
        object: None,
        step: None,
    }
}

/// A checkpoint or import could not be loaded.
pub(crate) fn unloadable(object: &str) -> RankEvent {
    RankEvent::Failed {
        kind: FailureKind::BadCheckpoint,
        message: "shard-00000 has 3 bytes, not 5".to_owned(),
        object: Some(object.to_owned()),
        step: None,
    }
}

/// Ready, but without a state.
pub(crate) fn empty() -> RankEvent {
    match ready(0, "") {
        RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            tensors,
            ..
        } => RankEvent::Ready {
            endpoint,
            step,
            digest,
            data,
            nccl_id,
            empty: true,
            tensors,
        },
        other => other,
    }
}

pub(crate) fn held(step: u64) -> RankEvent {
    RankEvent::Held {
        step: Step::new(step),
        reason: "lost its peers".to_owned(),
        lost: Vec::new(),
    }
}

pub(crate) fn not_finite(step: u64) -> RankEvent {
    RankEvent::Failed {
        kind: FailureKind::NonFinite,
        message: "loss is not finite".to_owned(),
        object: None,
        step: Some(Step::new(step)),
    }
}

pub(crate) fn exited(exit: Exit) -> RankEvent {
    RankEvent::Exited {
        exit,
        last_lines: vec!["last words".to_owned()],
    }
}

pub(crate) fn is_abort(order: &Order) -> bool {
    matches!(order, Order::Abort { .. })
}

pub(crate) fn is_end(order: &Order) -> bool {
    matches!(order, Order::End { .. })
}

pub(crate) fn is_prepare(order: &Order) -> bool {
    matches!(order, Order::Prepare(_))
}

pub(crate) fn is_begin(order: &Order) -> bool {
    matches!(order, Order::Begin { .. })
}

pub(crate) fn is_committed(order: &Order) -> bool {
    matches!(order, Order::Committed { .. })
}
