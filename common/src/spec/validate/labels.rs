//! Which labels a phase may use.

use super::super::Labels;
use super::super::draft::LabelsDraft;
use super::check::{At, Check};
use super::data;

pub(super) fn labels(
    check: &mut Check,
    at: &At,
    draft: Option<&LabelsDraft>,
    job_seed: u64,
) -> Labels {
    let Some(draft) = draft else {
        return Labels::All;
    };
    let seed = draft.seed.unwrap_or(job_seed);
    match (draft.share, draft.per_class, &draft.list) {
        (Some(share), None, None) => Labels::Share {
            share: check.positive(&at.field("share"), share, 1.0),
            seed,
        },
        (None, Some(count), None) => Labels::PerClass {
            count: check.count(&at.field("per_class"), count, 1, u32::MAX.into()),
            seed,
        },
        (None, None, Some(url)) => {
            data::url(check, &at.field("list"), url);
            check.require(&at.field("seed"), draft.seed.is_none(), || {
                "belongs to `share` and `per_class`: a list draws nothing".to_owned()
            });
            Labels::List { url: url.clone() }
        }
        _ => {
            check.refuse(at, "needs exactly one of `share`, `per_class` and `list`; leave `labels` out to use every label");
            Labels::All
        }
    }
}
