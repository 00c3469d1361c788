//! Early stop, and which checkpoint is the result: both choose by a measurement of the phase's evaluations.

use super::super::draft::PhaseDraft;
use super::super::{Metric, StopAfter};
use super::check::{At, Check};
use super::kind::Kind;

/// What a phase is judged by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judge {
    pub(super) stop_after: Option<StopAfter>,
    pub(super) best: Option<Metric>,
}

/// Reads both; `evaluates` says whether the phase has evaluation data.
pub(super) fn judge(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    kind: Option<Kind>,
    evaluates: bool,
) -> Judge {
    let evaluate = draft.evaluate.clone().unwrap_or_default();
    let select = draft.checkpoint.as_ref().and_then(|it| it.select.as_ref());
    let stop_at = at.field("evaluate").field("stop_after");
    let stop_after = evaluate.stop_after.as_ref().and_then(|stop| {
        let evaluations = stop_at.field("evaluations");
        check.count(&evaluations, stop.evaluations, 1, 1_000_000);
        let metric = metric(check, &stop_at.field("metric"), &stop.metric, draft, kind)?;
        Some(StopAfter {
            metric,
            evaluations: stop.evaluations,
        })
    });
    let select_at = at.field("checkpoint").field("select");
    let best_at = select_at.field("best");
    let best = select.and_then(|select| metric(check, &best_at, &select.best, draft, kind));
    let asked = [
        (stop_at, evaluate.stop_after.is_some()),
        (select_at, select.is_some()),
    ];
    for (at, _) in asked.iter().filter(|(_, given)| *given) {
        check.require(at, evaluates, || {
            "needs evaluation data: name it in `data.eval`".to_owned()
        });
        let often =
            kind.is_none_or(|kind| kind == Kind::Pretrain) || evaluate.every_epochs.is_some();
        check.require(at, often, || {
            "needs `evaluate.every_epochs`: without it this kind of phase is evaluated at its end only"
                .to_owned()
        });
    }
    Judge { stop_after, best }
}

fn metric(
    check: &mut Check,
    at: &At,
    word: &str,
    draft: &PhaseDraft,
    kind: Option<Kind>,
) -> Option<Metric> {
    let pretrain = [Metric::KnnTop1, Metric::ProbeTop1, Metric::ProbeTop5];
    let others = [Metric::EvalTop1, Metric::EvalTop5];
    let known: &[Metric] = if kind? == Kind::Pretrain {
        &pretrain
    } else {
        &others
    };
    let words: Vec<_> = known
        .iter()
        .map(|metric| (metric.name(), *metric))
        .collect();
    let metric = check.choice_or(at, word, &words)?;
    let neighbours = draft.evaluate.as_ref().and_then(|it| it.knn_k) != Some(0);
    check.require(at, metric != Metric::KnnTop1 || neighbours, || {
        "is not measured: `evaluate.knn_k` is 0".to_owned()
    });
    let probe = draft.probe != Some(false);
    let of_probe = matches!(metric, Metric::ProbeTop1 | Metric::ProbeTop5);
    check.require(at, !of_probe || probe, || {
        "is not measured: `probe` is false".to_owned()
    });
    Some(metric)
}
