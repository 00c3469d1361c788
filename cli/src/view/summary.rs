//! The results of a job: the last thing that a follower prints.

use std::io::{self, Write};

use serde::Serialize;

use super::{JobView, PhaseView};
use crate::output::Output;
use crate::output::table::{columns, or_dash, percent, seconds};

/// One row a phase; draws of one phase (`tuned-0`, `tuned-1`, …) are followed by their mean, and a phase that evaluated
/// several layers by a row for each.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub(crate) struct Summary(pub(crate) JobView);

/// A column of shares: its heading, and the measurements that fill it, best first.
const SHARES: [(&str, &[&str]); 3] = [
    ("TOP-1", &["eval_top1", "probe_top1"]),
    ("TOP-5", &["eval_top5", "probe_top5"]),
    ("KNN", &["knn_top1"]),
];

impl Output for Summary {
    fn table(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut headings = vec!["PHASE", "KIND", "STATE", "STEPS", "TIME"];
        headings.extend(SHARES.map(|(heading, _)| heading));
        let rows = groups(&self.0.phases).into_iter().flat_map(|group| {
            let mean = (group.len() > 1).then(|| mean_row(group));
            let rows = group
                .iter()
                .flat_map(|phase| std::iter::once(phase_row(phase)).chain(layer_rows(phase)));
            rows.chain(mean)
        });
        columns(out, &headings, rows)
    }
}

fn phase_row(phase: &PhaseView) -> Vec<String> {
    let mut row = vec![
        phase.name.clone(),
        phase.kind.clone(),
        phase.state.word().to_owned(),
        phase.step.to_string(),
        or_dash(phase.seconds.map(seconds)),
    ];
    row.extend(SHARES.map(|(_, names)| or_dash(phase.value(names).map(percent))));
    row
}

/// `linear @h`, `linear @1`, …: what was measured as `eval_top1@h` and so on.
fn layer_rows(phase: &PhaseView) -> Vec<Vec<String>> {
    let names = phase.results.keys().chain(phase.metrics.keys());
    let mut layers: Vec<&str> = names
        .filter_map(|name| name.strip_prefix("eval_top1@"))
        .collect();
    layers.sort_by_key(|layer| match *layer {
        "h" => 0,
        layer => layer.parse().unwrap_or(u32::MAX),
    });
    layers.dedup();
    let row = |layer: &str| {
        let mut row = vec![format!("{} @{layer}", phase.name)];
        row.extend(["", "", "", ""].map(str::to_owned));
        row.extend(SHARES.map(|(_, names)| {
            let name = format!("{}@{layer}", names[0]);
            or_dash(phase.value(&[&name]).map(percent))
        }));
        row
    };
    layers.into_iter().map(row).collect()
}

fn mean_row(group: &[PhaseView]) -> Vec<String> {
    let mut row = vec![
        format!("{} mean", stem(&group[0].name)),
        format!("of {}", group.len()),
    ];
    row.extend(["", "", ""].map(str::to_owned));
    row.extend(SHARES.map(|(_, names)| {
        let values: Option<Vec<f64>> = group.iter().map(|phase| phase.value(names)).collect();
        or_dash(values.map(|values| percent(values.iter().sum::<f64>() / values.len() as f64)))
    }));
    row
}

/// Neighbours of one kind whose names differ in a closing `-NUMBER` only are draws of one phase.
fn groups(phases: &[PhaseView]) -> Vec<&[PhaseView]> {
    let same = |a: &PhaseView, b: &PhaseView| {
        let draws = [a, b].map(|phase| stem(&phase.name) != phase.name);
        draws == [true, true] && a.kind == b.kind && stem(&a.name) == stem(&b.name)
    };
    phases.chunk_by(same).collect()
}

/// A name without its closing `-NUMBER`.
fn stem(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((stem, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => stem,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::super::PhaseState;
    use super::super::job::samples::{job, phase};
    use super::*;

    #[test]
    fn a_phase_of_several_layers_has_a_row_for_each_in_their_order() {
        let mut linear = phase("linear", PhaseState::Done);
        for (layer, top1) in [
            ("", 0.9),
            ("@h", 0.9),
            ("@1", 0.8),
            ("@2", 0.7),
            ("@10", 0.6),
            ("@z", 0.5),
        ] {
            linear.results.insert(format!("eval_top1{layer}"), top1);
            linear.results.insert(format!("eval_top5{layer}"), 1.0);
        }
        let mut out = Vec::new();
        Summary(job(vec![linear])).table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let layers: Vec<&str> = rows[2..].iter().map(|row| row[1]).collect();
        assert_eq!(layers, ["@h", "@1", "@2", "@10", "@z"], "{text}");
        assert_eq!(rows[1][5..7], ["90.0", "%"]);
        assert_eq!(rows[6], ["linear", "@z", "50.0", "%", "100.0", "%", "-"]);
    }

    #[test]
    fn draws_of_one_phase_are_followed_by_their_mean() {
        let done = |name: &str, top1: f64| {
            let mut done = phase(name, PhaseState::Done);
            done.results.insert("eval_top1".to_owned(), top1);
            done
        };
        let phases = vec![
            done("linear", 0.98),
            done("tuned-0", 0.90),
            done("tuned-1", 0.95),
            done("scratch-0", 0.80),
        ];
        let mut out = Vec::new();
        Summary(job(phases)).table(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let names: Vec<&str> = rows.iter().map(|row| row[0]).collect();
        assert_eq!(
            names,
            [
                "PHASE",
                "linear",
                "tuned-0",
                "tuned-1",
                "tuned",
                "scratch-0"
            ]
        );
        assert_eq!(rows[4], ["tuned", "mean", "of", "2", "92.5", "%", "-", "-"]);
    }
}
