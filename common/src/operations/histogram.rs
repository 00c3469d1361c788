//! How often a value was how large.

/// Counts of values below fixed bounds. Plain data: whoever fills it decides who may look.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Upper bounds, ascending; what is above the last one is counted beside them.
    bounds: &'static [f64],
    /// One more than bounds.
    counts: Vec<u64>,
    sum: f64,
}

impl Histogram {
    /// An empty one with these upper bounds, ascending.
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: vec![0; bounds.len() + 1],
            sum: 0.0,
        }
    }

    /// Counts a value.
    pub fn observe(&mut self, value: f64) {
        self.observe_times(value, 1);
    }

    /// Counts a value that was seen so many times. What is not a number is not counted.
    pub fn observe_times(&mut self, value: f64, times: u64) {
        if !value.is_finite() {
            return;
        }
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket] += times;
        self.sum += value * times as f64;
    }

    /// How many values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds and the values between each and the one before; the last one is the largest number that there is.
    pub(super) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::MAX]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_counted_below_the_first_bound_that_holds_it() {
        let mut histogram = Histogram::new(&[0.1, 1.0]);
        for value in [0.05, 0.1, 0.5, 7.0, f64::NAN, f64::INFINITY] {
            histogram.observe(value);
        }
        histogram.observe_times(0.5, 10);
        let counts: Vec<u64> = histogram
            .buckets()
            .iter()
            .map(|(_, count)| *count)
            .collect();
        assert_eq!(counts, [2, 11, 1]);
        assert_eq!(histogram.count(), 14);
        assert!((histogram.sum() - 12.65).abs() < 1e-9);
    }
}
