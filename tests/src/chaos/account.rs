//! What faults cost, from the ranks' ledger and the coordinator's events.

use std::collections::BTreeMap;
use std::fmt;

use super::fault::{Fault, Kind};
use crate::ledger::Ledger;

/// What one fault cost.
#[derive(Debug, Clone)]
pub struct Cost {
    /// The fault.
    pub fault: Fault,
    /// Seconds since 1970.
    pub at: f64,
    /// Until the coordinator ended the attempt; `None` where it went on.
    pub detected: Option<f64>,
    /// Until the next step was committed, of the next attempt where the attempt ended.
    pub next: Option<f64>,
    /// Steps that were committed and taken again.
    pub lost: u64,
    /// Ranks that trained when it came.
    pub world: usize,
    /// Nothing else was wrong.
    pub alone: bool,
}

/// An attempt's end by failure, as the coordinator recorded it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// Seconds since 1970.
    pub at: f64,
    /// The attempt.
    pub attempt: u64,
}

/// Clocks of events have milliseconds, the ledger's microseconds.
const ROUNDING: f64 = 0.002;

/// What each fault cost: `faults` with their times, in order.
pub fn costs(faults: &[(f64, Fault)], ledger: &Ledger, failures: &[Failure]) -> Vec<Cost> {
    let mut costs = Vec::new();
    for (index, (at, fault)) in faults.iter().enumerate() {
        let until = faults.get(index + 1).map_or(f64::INFINITY, |(at, _)| *at);
        let failed = failures
            .iter()
            .find(|failure| failure.at >= at - ROUNDING && failure.at < until);
        let after = failed.map_or(0, |failure| failure.attempt + 1);
        let next = ledger
            .commits()
            .find(|entry| entry.at > *at && entry.attempt >= after);
        let before = ledger.commits().rfind(|entry| entry.at <= *at);
        let worlds = ledger.worlds();
        costs.push(Cost {
            fault: fault.clone(),
            at: *at,
            detected: failed.map(|failure| (failure.at - at).max(0.0)),
            next: next.map(|entry| entry.at - at),
            lost: lost(ledger, *at, until),
            world: before.map_or(0, |entry| worlds[&entry.attempt]),
            alone: !fault.hot && !faults.get(index + 1).is_some_and(|(_, next)| next.hot),
        });
    }
    costs
}

/// Steps that attempts which began in this time took again.
fn lost(ledger: &Ledger, from: f64, until: f64) -> u64 {
    let (mut high, mut newest, mut lost) = (0_u64, 0, 0);
    for entry in ledger.commits() {
        if entry.attempt > newest {
            newest = entry.attempt;
            if entry.at >= from && entry.at < until {
                lost += (high + 1).saturating_sub(entry.step);
            }
        }
        high = high.max(entry.step);
    }
    lost
}

impl Cost {
    /// What was promised and not kept; `None` where all was.
    pub fn broken(&self) -> Option<String> {
        if !self.alone {
            return None;
        }
        let kind = self.fault.kind;
        let allowed = if kind.is_harmless() { 0 } else { 1 };
        let survivors = kind.is_harmless() || kind.hits_one() && self.world > 1;
        (survivors && self.lost > allowed)
            .then(|| format!("{}: {} steps lost", kind.name(), self.lost))
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |value: Option<f64>| value.map_or("-".to_owned(), |s| format!("{s:.3}"));
        write!(
            f,
            "{:<18} agent {} step {:<6} lasts {:>5.1}{} | detected {:>7} next step {:>7} lost {} (world {})",
            self.fault.kind.name(),
            self.fault.target,
            self.fault.step,
            self.fault.lasts.as_secs_f64(),
            if self.fault.hot { " hot" } else { "    " },
            seconds(self.detected),
            seconds(self.next),
            self.lost,
            self.world,
        )
    }
}

/// A table in Markdown: per kind, how many, and p50, p95 and max of each figure in seconds.
pub fn table(costs: &[Cost]) -> String {
    let mut by_kind: BTreeMap<Kind, Vec<&Cost>> = BTreeMap::new();
    for cost in costs {
        by_kind.entry(cost.fault.kind).or_default().push(cost);
    }
    let mut text = String::from(
        "| fault | n | ended an attempt | detected p50 / p95 / max | next step p50 / p95 / max | steps lost max |\n\
         |---|---|---|---|---|---|\n",
    );
    let all: Vec<&Cost> = costs.iter().collect();
    let rows = by_kind.iter().map(|(kind, costs)| (kind.name(), costs));
    for (name, costs) in rows.chain([("all", &all)]) {
        let detected: Vec<f64> = costs.iter().filter_map(|cost| cost.detected).collect();
        let next: Vec<f64> = costs.iter().filter_map(|cost| cost.next).collect();
        let lost = costs.iter().map(|cost| cost.lost).max().unwrap_or(0);
        let row = format!(
            "| {name} | {} | {} | {} | {} | {lost} |\n",
            costs.len(),
            detected.len(),
            spread(detected),
            spread(next),
        );
        text.push_str(&row);
    }
    text
}

/// `p50 / p95 / max`, or a dash where there is nothing.
pub fn spread(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    let Some(max) = values.last() else {
        return "-".to_owned();
    };
    let at = |share: f64| values[((values.len() as f64 * share) as usize).min(values.len() - 1)];
    format!("{:.3} / {:.3} / {max:.3}", at(0.5), at(0.95))
}
