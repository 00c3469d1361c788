//! Measurements under one name, and the text that Prometheus reads.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::Histogram;

/// Names and values that tell series of one name apart.
pub type Labels = Vec<(&'static str, String)>;

/// All series of one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// As it is scraped, units included, but without a counter's `_total`.
    name: &'static str,
    /// For people.
    help: &'static str,
    kind: Kind,
    series: Vec<(Labels, Value)>,
}

/// What a series holds.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Only grows.
    Counter(u64),
    /// As it is now.
    Gauge(f64),
    /// How often a value was how large.
    Histogram(Histogram),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Families on their way to a reader.
#[derive(Debug)]
struct Page(Vec<Family>);

impl Family {
    /// Values that only grow; `_total` is added to the name.
    pub fn counters(
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = (Labels, u64)>,
    ) -> Self {
        let series = series.into_iter();
        Self {
            name,
            help,
            kind: Kind::Counter,
            series: series
                .map(|(labels, value)| (labels, Value::Counter(value)))
                .collect(),
        }
    }

    /// Values as they are now.
    pub fn gauges(
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = (Labels, f64)>,
    ) -> Self {
        let series = series.into_iter();
        Self {
            name,
            help,
            kind: Kind::Gauge,
            series: series
                .map(|(labels, value)| (labels, Value::Gauge(value)))
                .collect(),
        }
    }

    /// How often values were how large.
    pub fn histograms(
        name: &'static str,
        help: &'static str,
        series: impl IntoIterator<Item = (Labels, Histogram)>,
    ) -> Self {
        let series = series.into_iter();
        Self {
            name,
            help,
            kind: Kind::Histogram,
            series: series
                .map(|(labels, value)| (labels, Value::Histogram(value)))
                .collect(),
        }
    }

    /// As it is scraped, without a counter's `_total`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its series.
    pub fn series(&self) -> &[(Labels, Value)] {
        &self.series
    }
}

/// The text that Prometheus reads (OpenMetrics 1.0).
///
/// # Errors
/// Never by what families hold; the formatter's own.
pub fn text(families: Vec<Family>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Page(families)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for family in &self.0 {
            let kind = match family.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(family.name, family.help, None, kind)?;
            for (labels, value) in &family.series {
                if labels.is_empty() {
                    encode(value, &mut metric)?;
                } else {
                    let labels: Labels = labels.iter().map(escaped).collect();
                    encode(value, &mut metric.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

/// The encoder writes a label's value as it is.
fn escaped((name, value): &(&'static str, String)) -> (&'static str, String) {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    (*name, value.replace('\n', "\\n"))
}

fn encode(value: &Value, to: &mut MetricEncoder<'_>) -> fmt::Result {
    match value {
        Value::Counter(value) => to.encode_counter::<NoLabelSet, _, f64>(value, None),
        Value::Gauge(value) => to.encode_gauge(value),
        Value::Histogram(histogram) => to.encode_histogram::<NoLabelSet>(
            histogram.sum(),
            histogram.count(),
            &histogram.buckets(),
            None,
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_as_prometheus_expects_it() {
        let mut waits = Histogram::new(&[0.5]);
        waits.observe(0.25);
        waits.observe(2.0);
        let labels = vec![("job_id", "a\"b".to_owned())];
        let page = text(vec![
            Family::counters(
                "diptych_lost_steps",
                "Steps that were done again",
                [(labels, 3)],
            ),
            Family::gauges("diptych_queue_depth", "Jobs that wait", [(Vec::new(), 2.0)]),
            Family::histograms("diptych_wait_seconds", "Waits", [(Vec::new(), waits)]),
        ]);
        assert_eq!(
            page.unwrap(),
            "# HELP diptych_lost_steps Steps that were done again\n\
             # TYPE diptych_lost_steps counter\n\
             diptych_lost_steps_total{job_id=\"a\\\"b\"} 3\n\
             # HELP diptych_queue_depth Jobs that wait\n\
             # TYPE diptych_queue_depth gauge\n\
             diptych_queue_depth 2.0\n\
             # HELP diptych_wait_seconds Waits\n\
             # TYPE diptych_wait_seconds histogram\n\
             diptych_wait_seconds_sum 2.25\n\
             diptych_wait_seconds_count 2\n\
             diptych_wait_seconds_bucket{le=\"0.5\"} 1\n\
             diptych_wait_seconds_bucket{le=\"+Inf\"} 2\n\
             # EOF\n"
        );
    }
}
