//! Devices of a worker.

use std::collections::BTreeMap;
use std::io::{self, Write};

use diptych_common::units::Bytes;
use diptych_proto::v1;
use serde::Serialize;

use super::some_text;
use crate::output::table::{columns, or_dash};

/// A device that can hold a rank.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct DeviceView {
    pub(crate) index: u32,
    pub(crate) kind: String,
    pub(crate) name: String,
    /// Bytes; absent where unknown.
    pub(crate) memory: Option<u64>,
    /// Why no rank can run on it.
    pub(crate) problem: Option<String>,
    /// Where it is on its machine; devices with equal values are near each other.
    pub(crate) labels: BTreeMap<String, String>,
}

impl From<v1::DeviceInfo> for DeviceView {
    fn from(device: v1::DeviceInfo) -> Self {
        let memory = Some(device.memory).filter(|bytes| *bytes > 0);
        Self {
            index: device.index,
            kind: device.kind,
            name: device.name,
            memory,
            problem: some_text(device.problem),
            labels: device.labels.into_iter().collect(),
        }
    }
}

/// `2 cpu`, or `8 cuda (79.6 GiB each), 1 unusable`.
pub(super) fn counts(devices: &[DeviceView]) -> String {
    let mut kinds: Vec<&str> = devices.iter().map(|device| device.kind.as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let of_kind = |kind: &str| {
        let of_kind: Vec<_> = devices
            .iter()
            .filter(|device| device.kind == kind)
            .collect();
        let memory = of_kind
            .iter()
            .find_map(|device| device.memory)
            .map(|bytes| format!(" ({} each)", Bytes::new(bytes)))
            .unwrap_or_default();
        let broken = of_kind.iter().filter(|device| device.problem.is_some());
        let unusable = match broken.count() {
            0 => String::new(),
            broken => format!(", {broken} unusable"),
        };
        format!("{} {kind}{memory}{unusable}", of_kind.len())
    };
    let kinds: Vec<_> = kinds.into_iter().map(of_kind).collect();
    or_dash(some_text(kinds.join(", ")))
}

/// `numa 0, nvlink 4`.
fn labels(device: &DeviceView) -> String {
    let labels = device.labels.iter();
    let labels: Vec<_> = labels
        .map(|(word, value)| format!("{word} {value}"))
        .collect();
    labels.join(", ")
}

/// What is wrong with them, each problem once.
pub(super) fn problems(devices: &[DeviceView]) -> Vec<String> {
    let mut broken: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for device in devices {
        if let Some(problem) = &device.problem {
            let indices = broken.entry(problem).or_default();
            indices.push(device.index.to_string());
        }
    }
    let told = |(problem, indices): (&str, Vec<String>)| {
        let s = if indices.len() > 1 { "s" } else { "" };
        format!("device{s} {} unusable: {problem}", indices.join(", "))
    };
    broken.into_iter().map(told).collect()
}

/// A row each, and what is wrong with it; nothing where there are none.
pub(super) fn table(devices: &[DeviceView], out: &mut dyn Write) -> io::Result<()> {
    if !devices.is_empty() {
        writeln!(out)?;
        let placed = devices.iter().any(|device| !device.labels.is_empty());
        let rows = devices.iter().map(|device| {
            let mut row = vec![
                device.index.to_string(),
                device.kind.clone(),
                device.name.clone(),
                or_dash(device.memory.map(Bytes::new)),
            ];
            row.extend(placed.then(|| or_dash(some_text(labels(device)))));
            row
        });
        let headings = ["DEVICE", "KIND", "NAME", "MEMORY", "PLACE"];
        columns(
            out,
            &headings[..headings.len() - usize::from(!placed)],
            rows,
        )?;
    }
    for device in devices {
        if let Some(problem) = &device.problem {
            writeln!(out, "\ndevice {} cannot be used: {problem}", device.index)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::worker::samples::worker;
    use super::super::worker::{WorkerList, WorkerView};
    use super::*;
    use crate::output::Output;

    fn table(value: &impl Output) -> String {
        let mut out = Vec::new();
        value.table(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn devices_are_counted_by_kind_and_what_is_wrong_with_one_is_told() {
        let gpu = |index: u32| v1::DeviceInfo {
            index,
            kind: "cuda".to_owned(),
            name: "NVIDIA H200".to_owned(),
            memory: 140 << 30,
            labels: [("nvlink".to_owned(), "0".to_owned())].into(),
            ..v1::DeviceInfo::default()
        };
        let mut described = worker("w1", Vec::new());
        described.devices = vec![gpu(0), gpu(1)];
        described.devices[1].problem = "it fell off the bus: restart the machine".to_owned();
        described.devices.push(v1::DeviceInfo {
            index: 2,
            kind: "cpu".to_owned(),
            name: "cpu slot 2".to_owned(),
            ..v1::DeviceInfo::default()
        });
        let view = WorkerView::from(described);
        let list = table(&WorkerList(vec![view.clone()]));
        assert!(
            list.contains("1 cpu, 2 cuda (140.0 GiB each), 1 unusable")
                && list.contains("device 1 unusable: it fell off the bus: restart the machine"),
            "{list}"
        );
        let text = table(&view);
        assert!(
            text.contains(
                "DEVICE  KIND  NAME         MEMORY     PLACE\n\
                 0       cuda  NVIDIA H200  140.0 GiB  nvlink 0\n\
                 1       cuda  NVIDIA H200  140.0 GiB  nvlink 0\n\
                 2       cpu   cpu slot 2   -          -\n\
                 \n\
                 device 1 cannot be used: it fell off the bus: restart the machine\n"
            ),
            "{text}"
        );
    }
}
