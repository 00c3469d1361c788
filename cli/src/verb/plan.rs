//! `plan`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::time::Duration;

use diptych_common::ids::DataName;
use diptych_common::plan::{DataFacts, Facts, Machine, Origin, Sheet, plan as reckon};
use diptych_common::spec::{DataSpec, JobSpec, Labels, PhaseKind, PhaseSpec};
use diptych_common::store;
use diptych_images::inspect::inspect;
use diptych_images::shard::{DataError, Index, SampleId};

use crate::args::plan::Plan;
use crate::command::read_spec;
use crate::context::Environment;
use crate::failure::{Code, Failure};
use crate::output::Printer;
use crate::view::plan::PlanView;

/// Longest that a data set is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// Images that are decoded to learn how large they are.
const SAMPLED: u64 = 32;

/// A valid spec, what was stated about its data, and a machine.
#[derive(Debug)]
pub(crate) struct Planning {
    spec: JobSpec,
    phases: Vec<String>,
    images: BTreeMap<DataName, u64>,
    classes: BTreeMap<DataName, u64>,
    machine: Machine,
}

impl Planning {
    /// Reads the spec; refuses names that it does not have.
    pub(crate) fn from_args(args: Plan, environment: &Environment) -> Result<Self, Failure> {
        let spec = read_spec(&args.spec, environment)?;
        let usage = |text: String| Failure::new(Code::Usage, text);
        let stated = args.images.iter().map(|(name, _)| ("--images", name));
        let stated = stated.chain(args.classes.iter().map(|(name, _)| ("--classes", name)));
        for (flag, name) in stated {
            if !spec.data().contains_key(name) {
                let known: Vec<_> = spec.data().keys().map(DataName::as_str).collect();
                return Err(usage(format!(
                    "{flag} {name}: the spec's data sets are {}",
                    known.join(", ")
                )));
            }
        }
        let names = spec.phases().iter().map(|phase| phase.name.to_string());
        let phases = match &args.phase {
            None => names.collect(),
            Some(name) if spec.phase_named(name).is_some() => vec![name.to_string()],
            Some(name) => {
                let known: Vec<_> = names.collect();
                return Err(usage(format!(
                    "--phase {name}: the spec has {}",
                    known.join(", ")
                )));
            }
        };
        let machine = machine(&args, &spec);
        Ok(Self {
            phases,
            images: args.images.into_iter().collect(),
            classes: args.classes.into_iter().collect(),
            machine,
            spec,
        })
    }

    /// Looks at the data that the phases use, and notes what could not be read.
    async fn facts(&self) -> (Facts, Vec<String>) {
        let (mut facts, mut notes) = (Facts::default(), Vec::new());
        let used: BTreeSet<_> = self.spec.phases().iter().flat_map(data_of).collect();
        for name in used {
            let Some(data) = self.spec.data().get(name) else {
                continue;
            };
            let mut found = DataFacts::assumed(&self.spec, name);
            if let Some(images) = self.images.get(name) {
                let limit = data.limit.unwrap_or(u64::MAX);
                found = DataFacts {
                    images: limit.min(*images),
                    origin: Origin::Stated,
                    ..found
                };
            } else {
                match tokio::time::timeout(PATIENCE, look_at(data)).await {
                    Ok(Ok(read)) => found = read,
                    Ok(Err(error)) => notes.push(assumed(name, &found, &error.to_string())),
                    Err(_) => {
                        let waited = format!("no answer within {} s", PATIENCE.as_secs());
                        notes.push(assumed(name, &found, &waited));
                    }
                }
            }
            if let Some(classes) = self
                .classes
                .get(name)
                .filter(|_| found.origin != Origin::Read)
            {
                found.classes = *classes;
            }
            facts.data.insert(name.clone(), found);
        }
        for url in self.spec.phases().iter().filter_map(list_of) {
            match names_in(url).await {
                Ok(count) => {
                    facts.lists.insert(url.to_owned(), count);
                }
                Err(error) => notes.push(format!("{error}: reckoned with every image instead")),
            }
        }
        (facts, notes)
    }
}

/// The data sets that a phase reads.
fn data_of(phase: &PhaseSpec) -> impl Iterator<Item = &DataName> {
    std::iter::once(&phase.train).chain(&phase.eval)
}

/// The list of labels that a phase reads.
fn list_of(phase: &PhaseSpec) -> Option<&str> {
    let labels = match &phase.kind {
        PhaseKind::Pretrain(_) => return None,
        PhaseKind::LinearEval(spec) => &spec.labels,
        PhaseKind::Finetune(spec) => &spec.labels,
        PhaseKind::Distill(spec) => &spec.labelled.as_ref()?.labels,
    };
    match labels {
        Labels::List { url } => Some(url),
        Labels::All | Labels::Share { .. } | Labels::PerClass { .. } => None,
    }
}

fn machine(args: &Plan, spec: &JobSpec) -> Machine {
    let first = spec
        .phases()
        .first()
        .map(|phase| Sheet::usual(phase.gang.device));
    let named = args.device.as_deref().and_then(Sheet::named);
    let sheet = named
        .or(first)
        .unwrap_or(Sheet::usual(diptych_common::spec::Device::Cpu));
    let mut machine = Machine::of(sheet);
    if let Some(tflops) = args.device_tflops {
        machine.tflops = Some(tflops);
        machine.device = format!("{tflops} TFLOP/s");
    }
    machine.mfu = args.mfu;
    machine.wire_gbit = args.wire_gbit.unwrap_or(machine.wire_gbit);
    machine.latency_us = args.latency_us.unwrap_or(machine.latency_us);
    machine
}

/// Counts a data set and decodes a few of its images.
async fn look_at(data: &DataSpec) -> Result<DataFacts, DataError> {
    let index = Index::open(data).await?;
    let mut class_sizes = vec![0; index.classes().len()];
    for label in (0..index.len()).filter_map(|id| index.label(SampleId::new(id))) {
        if let Some(size) = class_sizes.get_mut(label as usize) {
            *size += 1;
        }
    }
    let report = inspect(&index, SAMPLED, |_, _| ()).await?;
    let side = |sides: Option<diptych_images::inspect::Sides>| {
        sides.map_or(0, |sides| sides.median as u64)
    };
    Ok(DataFacts {
        images: index.len(),
        classes: index.classes().len() as u64,
        origin: Origin::Read,
        class_sizes,
        decoded_bytes: 3 * side(report.width) * side(report.height),
        stored_bytes: report.mean_bytes,
        row_groups: index.run() > 1,
    })
}

fn assumed(name: &DataName, facts: &DataFacts, reason: &str) -> String {
    format!(
        "data {name} could not be read ({reason}): assumed the papers' {} images in {} classes; state others with \
         --images {name}=N --classes {name}=N",
        facts.images, facts.classes
    )
}

/// Names in a list of labels.
async fn names_in(url: &str) -> Result<u64, store::StoreError> {
    let (objects, path) = store::open(url)?;
    let text = tokio::time::timeout(PATIENCE, store::get(&*objects, &path)).await;
    let text = text.unwrap_or_else(|_| {
        Err(store::StoreError::Failed {
            key: url.to_owned(),
            reason: format!("no answer within {} s", PATIENCE.as_secs()),
        })
    })?;
    let lines = String::from_utf8_lossy(&text);
    Ok(lines.lines().filter(|line| !line.trim().is_empty()).count() as u64)
}

pub(super) async fn plan<W: Write>(
    planning: Planning,
    out: &mut Printer<W>,
) -> Result<(), Failure> {
    let (facts, notes) = planning.facts().await;
    let mut plan = reckon(&planning.spec, &facts, &planning.machine);
    plan.phases
        .retain(|phase| planning.phases.contains(&phase.name.to_string()));
    out.print(&PlanView { plan, notes })
}
