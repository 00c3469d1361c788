//! Bounds that a right sampler breaks once in ten thousand seeds; the seeds are fixed.

/// Cells that expect fewer are counted together.
const LEAST: f64 = 10.0;

/// Compares counts with probabilities by Pearson's χ².
pub(crate) fn assert_counts(what: &str, counts: &[u64], probabilities: &[f64]) {
    assert_eq!(counts.len(), probabilities.len());
    let total: u64 = counts.iter().sum();
    let sum: f64 = probabilities.iter().sum();
    assert!(
        (sum - 1.0).abs() < 1e-9,
        "{what}: probabilities sum to {sum}"
    );
    let (mut rare, mut cells) = ((0.0, 0.0), Vec::new());
    for (&count, probability) in counts.iter().zip(probabilities) {
        let cell = (count as f64, probability * total as f64);
        assert!(
            *probability > 0.0 || count == 0,
            "{what}: {count} of what cannot be drawn"
        );
        if cell.1 < LEAST {
            rare = (rare.0 + cell.0, rare.1 + cell.1);
        } else {
            cells.push(cell);
        }
    }
    if rare.1 >= LEAST {
        cells.push(rare);
    } else {
        assert!(rare.0 <= rare.1 + 20.0, "{what}: {rare:?} rare ones");
    }
    assert!(cells.len() > 1, "{what}: one cell says nothing");
    let found: f64 = cells
        .iter()
        .map(|(count, expected)| (count - expected).powi(2) / expected)
        .sum();
    let freedom = (cells.len() - 1) as f64;
    let most = quantile(freedom);
    assert!(
        found < most,
        "{what}: χ² is {found}, at most {most} for {freedom}"
    );
}

/// χ² of two samples of the same distribution: both are counts of the same cells.
pub(crate) fn assert_alike(what: &str, ours: &[u64], theirs: &[u64]) {
    let totals = [ours, theirs].map(|counts| counts.iter().sum::<u64>() as f64);
    let (mut found, mut cells) = (0.0, 0.0f64);
    for (&a, &b) in ours.iter().zip(theirs) {
        let both = (a + b) as f64;
        if both < 2.0 * LEAST {
            continue;
        }
        cells += 1.0;
        for (count, total) in [(a, totals[0]), (b, totals[1])] {
            let expected = both * total / (totals[0] + totals[1]);
            found += (count as f64 - expected).powi(2) / expected;
        }
    }
    let most = quantile(cells - 1.0);
    assert!(
        found < most,
        "{what}: χ² is {found}, at most {most} for {cells} cells"
    );
}

/// The 99.99 % quantile of χ² (Wilson and Hilferty's approximation).
fn quantile(freedom: f64) -> f64 {
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + 3.719 * part.sqrt()).powi(3)
}

/// Kolmogorov and Smirnov's test that values are uniform in [low, high).
pub(crate) fn assert_uniform(
    what: &str,
    values: impl IntoIterator<Item = f64>,
    low: f64,
    high: f64,
) {
    let mut values: Vec<f64> = values.into_iter().collect();
    assert!(values.len() >= 1000, "{what}: {} values", values.len());
    assert!(
        // A draw in 64 bits may round up to the end in 32.
        values
            .iter()
            .all(|value| (low - 1e-7..high + 1e-7).contains(value)),
        "{what} outside [{low}, {high})"
    );
    values.sort_by(f64::total_cmp);
    let count = values.len() as f64;
    let distance = values
        .iter()
        .enumerate()
        .map(|(rank, value)| {
            let share = (value - low) / (high - low);
            (share - rank as f64 / count).max((rank + 1) as f64 / count - share)
        })
        .fold(0.0, f64::max);
    let most = 2.23 / count.sqrt();
    assert!(
        distance < most,
        "{what}: {distance} from uniform, at most {most}"
    );
}
