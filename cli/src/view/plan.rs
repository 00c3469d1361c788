//! What a job takes.

use std::io::{self, Write};

use diptych_common::plan::{JobPlan, Memory, Origin, PhasePlan, World};
use diptych_common::units::Bytes;
use serde::Serialize;

use crate::output::Output;
use crate::output::table::{columns, percent, properties, seconds};

/// A plan, and what had to be assumed for it.
#[derive(Debug, Serialize)]
pub(crate) struct PlanView {
    #[serde(flatten)]
    pub(crate) plan: JobPlan,
    pub(crate) notes: Vec<String>,
}

impl Output for PlanView {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let machine = &self.plan.machine;
        for phase in &self.plan.phases {
            writeln!(out, "{} ({})", phase.name, phase.kind)?;
            properties(out, &facts(phase))?;
            writeln!(out)?;
            let over = worlds(phase, machine.sheet.memory_gib, out)?;
            if over {
                let (memory, device) = (machine.sheet.memory_gib, machine.sheet.name);
                writeln!(out, "* more than the {memory} GiB of {device}")?;
            }
            writeln!(out)?;
            memory(phase, out)?;
            writeln!(out)?;
        }
        writeln!(
            out,
            "Times are estimates for {} with {} Gbit/s and {} µs a collective for each rank; reading and augmenting \
             images is not in them.",
            machine.device, machine.wire_gbit, machine.latency_us
        )?;
        for note in &self.notes {
            writeln!(out, "note: {note}")?;
        }
        Ok(())
    }
}

fn facts(phase: &PhasePlan) -> Vec<(&'static str, Option<String>)> {
    let origin = match phase.facts.origin {
        Origin::Read => "counted",
        Origin::Stated => "as stated",
        Origin::Assumed => "assumed",
    };
    let images = match phase.images == phase.facts.images {
        true => phase.images.to_string(),
        false => format!("{} of {}", phase.images, phase.facts.images),
    };
    let labels = match phase.facts.classes {
        0 => "no labels".to_owned(),
        classes => format!("{classes} classes"),
    };
    let parameters = &phase.parameters;
    let parts = [
        ("encoder", parameters.encoder),
        ("head", parameters.head),
        ("classifier", parameters.classifier),
        ("fixed teacher", parameters.teacher),
    ];
    let parts: Vec<_> = parts
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {}", scaled(count as f64, "")))
        .collect();
    let views = if phase.views == 2 {
        "2 views"
    } else {
        "1 view"
    };
    let micro = (phase.micro_batch_groups < phase.groups).then(|| {
        let held = phase.micro_batch_groups;
        format!("{held} of {} batch-norm groups at once", phase.groups)
    });
    vec![
        (
            "data",
            Some(format!(
                "{}: {images} images, {labels} ({origin})",
                phase.data
            )),
        ),
        (
            "steps",
            Some(format!(
                "{} of {} images, {views} of {} pixels: {:.1} epochs",
                phase.steps, phase.batch, phase.image_size, phase.epochs
            )),
        ),
        ("micro-batches", micro),
        (
            "parameters",
            Some(format!(
                "{} trained ({})",
                scaled(parameters.trained as f64, ""),
                parts.join(", ")
            )),
        ),
        (
            "work",
            Some(format!(
                "{} an image forward, {} a step, {} in all",
                scaled(phase.work.forward, "FLOP"),
                scaled(phase.work.step, "FLOP"),
                scaled(phase.work.phase, "FLOP")
            )),
        ),
        (
            "rate",
            Some(format!(
                "{}/s a device: {} of its peak",
                scaled(phase.flops_per_s, "FLOP"),
                percent(phase.mfu)
            )),
        ),
        (
            "evaluations",
            Some(phase.evaluations.to_string()).filter(|_| phase.evaluations > 0),
        ),
        (
            "checkpoint",
            Some(Bytes::new(phase.checkpoint_bytes).to_string()),
        ),
    ]
}

/// The worlds that are faster than every smaller one, and the last. Says whether one needs more than a device's memory,
/// where that is known (0 is not).
fn worlds(phase: &PhasePlan, memory_gib: u64, out: &mut dyn Write) -> io::Result<bool> {
    let last = phase.worlds.last().map_or(0, |world| world.ranks);
    let shown = |world: &&World| world.faster || world.ranks == last;
    let parts = phase.micro_batch_groups < phase.groups;
    let mut headings = vec!["RANKS", "IMAGES/RANK", "MEMORY/RANK"];
    headings.extend(parts.then_some("ALL AT ONCE"));
    headings.extend(["SENT/STEP", "STEP", "IMAGES/S", "EFFICIENCY", "PHASE"]);
    let is_over = |bytes: u64| memory_gib > 0 && bytes > memory_gib << 30;
    let marked = |bytes: u64| {
        let mark = if is_over(bytes) { " *" } else { "" };
        format!("{}{mark}", Bytes::new(bytes))
    };
    let rows = phase.worlds.iter().filter(shown).map(|world| {
        let mut row = vec![
            world.ranks.to_string(),
            world.images.to_string(),
            marked(world.memory.device),
        ];
        row.extend(world.memory_at_once.map(|memory| marked(memory.device)));
        row.extend([
            Bytes::new(world.traffic.total()).to_string(),
            step(world.step_s),
            format!("{:.0}", world.images_per_s),
            percent(world.efficiency),
            seconds(world.phase_s),
        ]);
        row
    });
    columns(out, &headings, rows)?;
    let mut needs = phase.worlds.iter().filter(shown).flat_map(|world| {
        let at_once = world.memory_at_once.map(|memory| memory.device);
        std::iter::once(world.memory.device).chain(at_once)
    });
    Ok(needs.any(is_over))
}

/// What the fullest rank of the largest world holds, and what each rank of it sends.
fn memory(phase: &PhasePlan, out: &mut dyn Write) -> io::Result<()> {
    let Some(world) = phase.worlds.last() else {
        return Ok(());
    };
    let bytes = |bytes: u64| Some(Bytes::new(bytes).to_string()).filter(|_| bytes > 0);
    let ranks = if world.ranks == 1 { "rank" } else { "ranks" };
    writeln!(out, "at {} {ranks}:", world.ranks)?;
    let Memory { device, host, .. } = world.memory;
    let at_once = world.memory_at_once.map(|memory| memory.activations);
    let mut rows: Vec<_> = parts(&world.memory)
        .into_iter()
        .map(|(name, size)| (name, bytes(size)))
        .collect();
    rows.extend([
        (
            "  activations with all groups at once",
            at_once.and_then(bytes),
        ),
        ("memory of a rank at its peak", bytes(device)),
        ("memory of its host beside that", bytes(host)),
        ("sent: gradients", bytes(world.traffic.gradients)),
        ("sent: embeddings", bytes(world.traffic.embeddings)),
        (
            "sent: batch-norm statistics",
            bytes(world.traffic.statistics),
        ),
    ]);
    properties(out, &rows)
}

fn parts(memory: &Memory) -> [(&'static str, u64); 17] {
    [
        ("  weights", memory.weights),
        ("  gradients", memory.gradients),
        ("  optimiser", memory.optimizer),
        ("  images of the step", memory.batch),
        ("  resident images", memory.resident),
        ("  activations", memory.activations),
        ("  workspace", memory.workspace),
        ("  allocator's slack", memory.slack),
        ("  embeddings of all ranks", memory.embeddings),
        ("  loss, in strips", memory.loss),
        ("  evaluations beside that", memory.evaluation),
        ("  making the weights beside that", memory.start),
        ("  snapshot for checkpoints", memory.snapshot),
        ("  steps loaded ahead", memory.prefetch),
        ("  images kept", memory.images),
        ("  index of the data", memory.index),
        ("  program and libraries", memory.program),
    ]
}

/// Seconds of a step.
fn step(seconds: f64) -> String {
    if seconds < 1.0 {
        format!("{:.1} ms", seconds * 1e3)
    } else {
        format!("{seconds:.2} s")
    }
}

/// `8.2 GFLOP`, or `23.5 M` without a unit.
fn scaled(value: f64, unit: &str) -> String {
    let prefixes = [
        (1e21, "Z"),
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ];
    let prefix = prefixes.into_iter().find(|(scale, _)| value >= *scale);
    match prefix {
        Some((scale, prefix)) => format!("{:.2} {prefix}{unit}", value / scale),
        None => format!("{value:.0} {unit}").trim_end().to_owned(),
    }
}
