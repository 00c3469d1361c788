//! What a phase trains: the fields that belong to its kind, and the phases that it builds on.

use super::super::draft::{LossDraft, PhaseDraft};
use super::super::suggest;
use super::super::{
    DistillSpec, EncoderSpec, FinetuneSpec, HeadSpec, Knn, LabelledStream, LinearEvalSpec,
    MemorySpec, NtXentSpec, PhaseKind, PretrainSpec, Source,
};
use super::check::{At, Check};
use super::gang::Layout;
use super::{data, labels, layers, network};
use crate::ids::PhaseName;

/// The word in `kind:`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pretrain,
    LinearEval,
    Finetune,
    Distill,
}

use Kind::{Distill, Finetune, LinearEval, Pretrain};

/// What a later phase needs to know of an earlier one. `None` where the earlier one is itself in error.
#[derive(Debug, Clone)]
pub(super) struct Earlier {
    pub(super) name: String,
    pub(super) kind: Option<Kind>,
    /// Layers of the projection head that its checkpoint keeps.
    pub(super) head_layers: u32,
    pub(super) encoder: EncoderSpec,
}

/// What surrounds a phase.
#[derive(Debug, Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) seed: u64,
    pub(super) encoder: &'a EncoderSpec,
    pub(super) head: Option<&'a HeadSpec>,
    pub(super) earlier: &'a [Earlier],
    /// The names of all phases, this one and later ones too.
    pub(super) names: &'a [&'a str],
}

impl Context<'_> {
    /// Layers of the job's projection head.
    pub(super) fn head_layers(&self) -> u32 {
        self.head.map_or(0, |head| head.layers)
    }
}

impl Kind {
    pub(super) const WORDS: [(&'static str, Self); 4] = [
        ("pretrain", Pretrain),
        ("linear_eval", LinearEval),
        ("finetune", Finetune),
        ("distill", Distill),
    ];

    fn word(self) -> &'static str {
        Self::WORDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(word, _)| word)
    }
}

/// Refuses every field that means nothing under this kind.
pub(super) fn foreign_fields(check: &mut Check, at: &At, draft: &PhaseDraft, kind: Kind) {
    let evaluate = draft.evaluate.clone().unwrap_or_default();
    let fields: [(&str, bool, &[Kind]); 13] = [
        (
            "from",
            draft.from.is_some(),
            &[Pretrain, LinearEval, Finetune],
        ),
        ("loss", draft.loss.is_some(), &[Pretrain]),
        ("probe", draft.probe.is_some(), &[Pretrain]),
        ("probe_layer", draft.probe_layer.is_some(), &[Pretrain]),
        ("evaluate.knn_k", evaluate.knn_k.is_some(), &[Pretrain]),
        (
            "evaluate.knn_temperature",
            evaluate.knn_temperature.is_some(),
            &[Pretrain],
        ),
        (
            "head_layer",
            draft.head_layer.is_some(),
            &[LinearEval, Finetune],
        ),
        (
            "labels",
            draft.labels.is_some(),
            &[LinearEval, Finetune, Distill],
        ),
        ("teacher", draft.teacher.is_some(), &[Distill]),
        ("student", draft.student.is_some(), &[Distill]),
        ("temperature", draft.temperature.is_some(), &[Distill]),
        ("alpha", draft.alpha.is_some(), &[Distill]),
        ("labelled_batch", draft.labelled_batch.is_some(), &[Distill]),
    ];
    for (field, given, kinds) in fields {
        if given && !kinds.contains(&kind) {
            let kinds = kinds
                .iter()
                .map(|kind| format!("`{}`", kind.word()))
                .collect::<Vec<_>>()
                .join(", ");
            let more = if field == "temperature" && kind == Pretrain {
                "; NT-Xent's is `loss.temperature`"
            } else {
                ""
            };
            check.refuse(
                &at.field(field),
                format!(
                    "does not belong to `{}`, only to {kinds}{more}",
                    kind.word()
                ),
            );
        }
    }
}

/// Reads what the kind adds, and what later phases can build on.
pub(super) fn kind(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    (kind, layout): (Kind, Layout),
    context: Context<'_>,
) -> (Option<PhaseKind>, EncoderSpec, u32) {
    match kind {
        Pretrain => pretrain(check, at, draft, layout, context),
        LinearEval | Finetune => supervised(check, at, draft, kind, context),
        Distill => distill(check, at, draft, layout, context),
    }
}

fn pretrain(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    layout: Layout,
    context: Context<'_>,
) -> (Option<PhaseKind>, EncoderSpec, u32) {
    let from = match draft.from.as_deref() {
        None => Some(Source::Random),
        Some(word) => {
            source(check, &at.field("from"), word, &[Pretrain], context).map(|(source, _)| source)
        }
    };
    let loss = draft.loss.clone().unwrap_or_default();
    let loss_at = at.field("loss");
    let scale = loss.scale.as_deref();
    let evaluate = draft.evaluate.clone().unwrap_or_default();
    let evaluate_at = at.field("evaluate");
    let k = check.count(
        &evaluate_at.field("knn_k"),
        evaluate.knn_k.unwrap_or(200),
        0,
        1_000_000,
    );
    let knn_temperature = check.positive(
        &evaluate_at.field("knn_temperature"),
        evaluate.knn_temperature.unwrap_or(0.1),
        100.0,
    );
    let memory = memory(check, &loss_at, &loss, layout);
    let loss = NtXentSpec {
        temperature: check.positive(
            &loss_at.field("temperature"),
            loss.temperature.unwrap_or(0.1),
            100.0,
        ),
        normalize: loss.normalize.unwrap_or(true),
        scale: scale.map_or(1.0, |word| {
            check.choice(
                &loss_at.field("scale"),
                word,
                &[("paper", 1.0), ("code", 2.0)],
            )
        }),
    };
    let probe_at = at.field("probe_layer");
    let probe_layer = draft.probe_layer.unwrap_or(0);
    layers::exists(check, &probe_at, probe_layer, context.head_layers());
    check.require(
        &probe_at,
        draft.probe_layer.is_none() || draft.probe != Some(false),
        || "needs a probe: `probe` is false".to_owned(),
    );
    let kind = from.map(|from| {
        PhaseKind::Pretrain(PretrainSpec {
            from,
            encoder: context.encoder.clone(),
            head: context.head.cloned(),
            loss,
            memory,
            probe: draft.probe,
            probe_layer,
            knn: (k > 0).then_some(Knn {
                k,
                temperature: knn_temperature,
            }),
        })
    });
    (kind, context.encoder.clone(), context.head_layers())
}

fn memory(check: &mut Check, at: &At, loss: &LossDraft, layout: Layout) -> Option<MemorySpec> {
    let draft = loss.memory.as_ref()?;
    let at = at.field("memory");
    check.require(&at, loss.normalize != Some(false), || {
        "holds unit rows, which raw ones cannot be compared with: drop it, or `normalize: false`"
            .to_owned()
    });
    let size = draft.size.unwrap_or(1 << 16);
    let step = 2 * u64::from(layout.batch);
    check.require(&at.field("size"), u64::from(size) >= step, || {
        format!("{size} is less than the {step} rows that a step adds (both views of the batch)")
    });
    check.count(&at.field("size"), size, 1, 1 << 24);
    let decay = draft.decay.unwrap_or(0.999);
    check.require(&at.field("decay"), (0.0..1.0).contains(&decay), || {
        format!("{decay} is not in 0 ≤ decay < 1: at 1 the average would never move")
    });
    Some(MemorySpec { size, decay })
}

fn supervised(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    kind: Kind,
    context: Context<'_>,
) -> (Option<PhaseKind>, EncoderSpec, u32) {
    let labels = labels::labels(
        check,
        &at.field("labels"),
        draft.labels.as_ref(),
        context.seed,
    );
    let from_at = at.field("from");
    let found = match draft.from.as_deref() {
        Some(word) => source(
            check,
            &from_at,
            word,
            &[Pretrain, Finetune, Distill],
            context,
        ),
        None => {
            check.refuse(
                &from_at,
                "is required: an earlier phase's name, `random` or a URL",
            );
            None
        }
    };
    let Some((from, earlier)) = found else {
        return (None, context.encoder.clone(), context.head_layers());
    };
    let most = earlier.map_or(context.head_layers(), |phase| phase.head_layers);
    let (layers_at, wanted) = (at.field("head_layer"), draft.head_layer.as_ref());
    let encoder = earlier.map_or_else(|| context.encoder.clone(), |phase| phase.encoder.clone());
    if kind == LinearEval {
        let layers = layers::several(check, &layers_at, wanted, most);
        let kept = layers.deepest();
        let spec = LinearEvalSpec {
            from,
            layers,
            labels,
        };
        return (Some(PhaseKind::LinearEval(spec)), encoder, kept);
    }
    let head_layer = layers::one(check, &layers_at, wanted, most);
    let spec = FinetuneSpec {
        from,
        head_layer,
        labels,
    };
    (Some(PhaseKind::Finetune(spec)), encoder, head_layer)
}

fn distill(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    layout: Layout,
    context: Context<'_>,
) -> (Option<PhaseKind>, EncoderSpec, u32) {
    let student = draft
        .student
        .as_ref()
        .map(|student| network::encoder(check, &at.field("student"), student));
    let temperature = check.positive(
        &at.field("temperature"),
        draft.temperature.unwrap_or(1.0),
        1000.0,
    );
    let alpha = check.within(&at.field("alpha"), draft.alpha.unwrap_or(1.0), 0.0, 1.0);
    let labelled = (alpha < 1.0).then(|| {
        let batch_at = at.field("labelled_batch");
        let batch = check.count(&batch_at, draft.labelled_batch.unwrap_or(layout.batch), 1, 1 << 20);
        check.require(&batch_at, batch.is_multiple_of(layout.lanes), || {
            format!("{batch} is not a multiple of the {} lanes: every lane takes as many labelled images", layout.lanes)
        });
        LabelledStream { batch, labels: labels::labels(check, &at.field("labels"), draft.labels.as_ref(), context.seed) }
    });
    if alpha == 1.0 {
        for (field, given) in [
            ("labels", draft.labels.is_some()),
            ("labelled_batch", draft.labelled_batch.is_some()),
        ] {
            check.require(&at.field(field), !given, || {
                "needs `alpha` below 1: no label is used otherwise".to_owned()
            });
        }
    }
    let teacher_at = at.field("teacher");
    let teacher = match draft.teacher.as_deref() {
        Some(word) => earlier_phase(
            check,
            &teacher_at,
            word,
            &[LinearEval, Finetune, Distill],
            context,
        ),
        None => {
            check.refuse(
                &teacher_at,
                "is required: the earlier phase whose classifier teaches",
            );
            None
        }
    };
    let encoder = student
        .clone()
        .or(teacher.as_ref().map(|(_, phase)| phase.encoder.clone()))
        .unwrap_or_else(|| context.encoder.clone());
    let kind = teacher.map(|(teacher, _)| {
        PhaseKind::Distill(DistillSpec {
            teacher,
            student,
            temperature,
            alpha,
            labelled,
        })
    });
    (kind, encoder, 0)
}

fn source<'a>(
    check: &mut Check,
    at: &At,
    word: &str,
    kinds: &[Kind],
    context: Context<'a>,
) -> Option<(Source, Option<&'a Earlier>)> {
    if word == "random" {
        return Some((Source::Random, None));
    }
    if word.contains(':') {
        data::url(check, at, word);
        return Some((Source::Import(word.to_owned()), None));
    }
    let (name, phase) = earlier_phase(check, at, word, kinds, context)?;
    Some((Source::Phase(name), Some(phase)))
}

fn earlier_phase<'a>(
    check: &mut Check,
    at: &At,
    word: &str,
    kinds: &[Kind],
    context: Context<'a>,
) -> Option<(PhaseName, &'a Earlier)> {
    let Some(phase) = context.earlier.iter().find(|phase| phase.name == word) else {
        let known = context.earlier.iter().map(|phase| phase.name.as_str());
        let problem = if context.names.get(context.earlier.len()) == Some(&word) {
            "is this phase itself".to_owned()
        } else if context.names.contains(&word) {
            "is a later phase: move it before this one".to_owned()
        } else {
            format!("is no earlier phase{}", suggest::hint(word, known))
        };
        check.refuse(at, format!("`{word}` {problem}"));
        return None;
    };
    let fits = phase.kind.is_none_or(|kind| kinds.contains(&kind));
    check.require(at, fits, || {
        let kinds = kinds
            .iter()
            .map(|kind| format!("`{}`", kind.word()))
            .collect::<Vec<_>>()
            .join(", ");
        format!(
            "`{word}` is a `{}` phase; this needs one of {kinds}",
            phase.kind.map_or("", Kind::word)
        )
    });
    Some((word.parse().ok()?, phase))
}
