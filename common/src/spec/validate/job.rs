//! The whole job.

use super::super::draft::JobDraft;
use super::super::{JobSpec, PhaseSpec};
use super::check::{At, Check};
use super::kind::{Context, Earlier};
use super::phase::{Shared, phase};
use super::{SpecErrors, data, network, room};
use crate::ids::JobId;

/// The only version so far.
pub(super) const API_VERSION: &str = "diptych/v1";
/// The coordinator appends `-` and six digits; the whole is a DNS label.
const LONGEST_NAME: usize = 50;
const MOST_PHASES: usize = 64;

impl TryFrom<JobDraft> for JobSpec {
    type Error = SpecErrors;

    /// Fills in every default.
    ///
    /// # Errors
    /// Everything that is wrong, each with the path of its field.
    fn try_from(draft: JobDraft) -> Result<Self, SpecErrors> {
        let mut check = Check::default();
        let root = At::root();
        header(&mut check, &draft);
        let seed = draft.seed.unwrap_or(0);
        let data = data::data_sets(&mut check, &root.field("data"), &draft.data);
        let encoder = network::encoder(&mut check, &root.field("encoder"), &draft.encoder);
        let head = network::head(&mut check, &root.field("head"), draft.head.as_ref());
        let names: Vec<&str> = draft
            .phases
            .iter()
            .map(|phase| phase.name.as_str())
            .collect();
        let data_names: Vec<&str> = draft.data.keys().map(String::as_str).collect();
        let shared = Shared {
            data: &data,
            data_names: &data_names,
            resources: draft.resources.as_ref(),
        };
        let mut earlier: Vec<Earlier> = Vec::new();
        let mut phases: Vec<PhaseSpec> = Vec::new();
        for (index, phase_draft) in draft.phases.iter().enumerate() {
            let at = root.field("phases").item(index);
            let context = Context {
                seed,
                encoder: &encoder,
                head: head.as_ref(),
                earlier: &earlier,
                names: &names,
            };
            let (spec, known) = phase(&mut check, &at, phase_draft, shared, context);
            phases.extend(spec);
            earlier.push(known);
        }
        check.finish()?;
        let mut spec = Self {
            seed,
            priority: draft.priority.unwrap_or(0),
            data,
            encoder,
            head,
            phases,
            draft,
        };
        let mut check = Check::default();
        room::choose(&mut check, &mut spec);
        check.finish()?;
        Ok(spec)
    }
}

fn header(check: &mut Check, draft: &JobDraft) {
    let root = At::root();
    check.require(
        &root.field("apiVersion"),
        draft.api_version == API_VERSION,
        || match draft.api_version.as_str() {
            "" => format!("is required: `{API_VERSION}`"),
            other => format!("`{other}` is not supported: `{API_VERSION}`"),
        },
    );
    let name_at = root.field("name");
    let name: Option<JobId> = check.name(&name_at, &draft.name);
    check.require(
        &name_at,
        name.is_none() || draft.name.len() <= LONGEST_NAME,
        || {
            format!(
                "`{}` has {} characters: at most {LONGEST_NAME}",
                draft.name,
                draft.name.len()
            )
        },
    );
    data::url(check, &root.field("storage"), &draft.storage);
    let phases_at = root.field("phases");
    check.require(&phases_at, !draft.phases.is_empty(), || {
        "is required: at least one phase".to_owned()
    });
    check.require(&phases_at, draft.phases.len() <= MOST_PHASES, || {
        format!("{} phases are more than {MOST_PHASES}", draft.phases.len())
    });
}
