//! One phase.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ids::{DataName, PhaseIndex};
use crate::units;

use super::super::draft::{CheckpointDraft, PhaseDraft, ResourcesDraft};
use super::super::suggest;
use super::super::{CheckpointSpec, DataSpec, EvaluateSpec, NonFinitePolicy, PhaseSpec};
use super::check::{At, Check};
use super::gang::{self, Resources};
use super::kind::{self, Context, Earlier, Kind};
use super::{augment, judge, network, optim};

/// What all phases share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shared<'a> {
    pub(super) data: &'a BTreeMap<DataName, DataSpec>,
    pub(super) data_names: &'a [&'a str],
    pub(super) resources: Option<&'a ResourcesDraft>,
}

pub(super) fn phase(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    shared: Shared<'_>,
    context: Context<'_>,
) -> (Option<PhaseSpec>, Earlier) {
    let index = context.earlier.len();
    let name = check.name(&at.field("name"), &draft.name);
    check.require(&at.field("name"), draft.name != "random", || {
        "`random` means fresh weights in `from`: choose another name".to_owned()
    });
    check.require(
        &at.field("name"),
        draft.name.is_empty() || !context.names[..index].contains(&draft.name.as_str()),
        || format!("`{}` is the name of an earlier phase, too", draft.name),
    );
    let word = check.choice_or(&at.field("kind"), &draft.kind, &Kind::WORDS);
    let fewest = if word == Some(Kind::Pretrain) { 2 } else { 1 };
    let layout = gang::layout(check, at, draft, fewest);
    let length = optim::length(check, at, draft);
    let optimizer = optim::optimizer(check, &at.field("optimizer"), &draft.optimizer, length);
    let augment = augment::augment(
        check,
        &at.field("augment"),
        draft.augment.as_ref(),
        word == Some(Kind::Pretrain),
    );
    let resources = Resources {
        job: shared.resources,
        phase: draft.resources.as_ref(),
    };
    let gang = gang::gang(check, at, resources, layout);
    let every_epochs = draft
        .evaluate
        .as_ref()
        .and_then(|evaluate| evaluate.every_epochs);
    let every_epochs = every_epochs
        .map(|epochs| check.positive(&at.field("evaluate").field("every_epochs"), epochs, 1e6));
    let max_bad_images = check.within(
        &at.field("max_bad_images"),
        draft.max_bad_images.unwrap_or(0.01),
        0.0,
        1.0,
    );
    let policies = [
        ("stop", NonFinitePolicy::Stop),
        ("rewind", NonFinitePolicy::Rewind),
    ];
    let on_non_finite = draft.on_non_finite.as_deref();
    let on_non_finite = on_non_finite.map_or(NonFinitePolicy::Stop, |word| {
        check.choice(&at.field("on_non_finite"), word, &policies)
    });
    let (train, eval) = data(check, &at.field("data"), draft, shared);
    let judge = judge::judge(check, at, draft, word, eval.is_some());
    let checkpoint = CheckpointSpec {
        best: judge.best,
        ..checkpoint(check, &at.field("checkpoint"), draft.checkpoint.as_ref())
    };
    if let (Some(Kind::Pretrain), Some(limit)) = (
        word,
        train
            .as_ref()
            .and_then(|name| shared.data.get(name))
            .and_then(|data| data.limit),
    ) {
        check.require(&at.field("batch"), u64::from(layout.batch) <= limit, || {
            format!("{} is more than the {limit} images of its data set: pretraining needs a full batch", layout.batch)
        });
    }
    let (kind, encoder, head_layers) = match word {
        Some(word) => {
            kind::foreign_fields(check, at, draft, word);
            kind::kind(check, at, draft, (word, layout), context)
        }
        None => (None, context.encoder.clone(), context.head_layers()),
    };
    network::fits(
        check,
        &at.field("augment").field("image_size"),
        &encoder,
        augment.image_size,
    );
    let spec = (|| {
        Some(PhaseSpec {
            index: PhaseIndex::new(u32::try_from(index).ok()?),
            name: name?,
            kind: kind?,
            train: train?,
            eval,
            batch: layout.batch,
            length,
            optimizer,
            augment,
            lanes: layout.lanes,
            groups: layout.groups,
            micro_batch_groups: layout.micro_batch_groups,
            gang,
            checkpoint,
            evaluate: EvaluateSpec {
                every_epochs,
                stop_after: judge.stop_after,
            },
            max_bad_images,
            on_non_finite,
        })
    })();
    (
        spec,
        Earlier {
            name: draft.name.clone(),
            kind: word,
            head_layers,
            encoder,
        },
    )
}

fn checkpoint(check: &mut Check, at: &At, draft: Option<&CheckpointDraft>) -> CheckpointSpec {
    let draft = draft.cloned().unwrap_or_default();
    let every = draft
        .every
        .as_deref()
        .map_or(Ok(Duration::from_secs(300)), units::parse_duration);
    let every_at = at.field("every");
    let every = every.unwrap_or_else(|error| {
        check.refuse(&every_at, error.to_string());
        Duration::from_secs(300)
    });
    check.require(&every_at, every >= Duration::from_secs(1), || {
        "is less than 1s".to_owned()
    });
    if let Some(steps) = draft.every_steps {
        check.count(&at.field("every_steps"), steps, 1, u64::MAX);
    }
    let keep = check.count(&at.field("keep"), draft.keep.unwrap_or(2), 1, 10_000);
    CheckpointSpec {
        every,
        every_steps: draft.every_steps,
        keep,
        best: None,
    }
}

fn data(
    check: &mut Check,
    at: &At,
    draft: &PhaseDraft,
    shared: Shared<'_>,
) -> (Option<DataName>, Option<DataName>) {
    let draft = draft.data.clone().unwrap_or_default();
    let mut find = |field: &str, name: &str| {
        check.require(&at.field(field), shared.data_names.contains(&name), || {
            let known = shared.data_names.iter().copied();
            format!("`{name}` is not in `data`{}", suggest::hint(name, known))
        });
        name.parse::<DataName>()
            .ok()
            .filter(|name| shared.data.contains_key(name))
    };
    let train = find("train", draft.train.as_deref().unwrap_or("train"));
    let eval = match draft.eval.as_deref() {
        Some(name) => find("eval", name),
        None => shared
            .data
            .keys()
            .find(|name| name.as_str() == "test")
            .cloned(),
    };
    (train, eval)
}
