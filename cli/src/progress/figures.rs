//! A phase in numbers, in one line.

use crate::output::table::{percent, seconds};
use crate::view::{PhaseState, PhaseView};

/// What evaluations measure, and what people call it.
const EVALUATED: [(&str, &str); 2] = [("eval_top1", "top-1"), ("knn_top1", "kNN")];
/// The concurrent probe's accuracy on its batches, which changes with every step.
const PROBE: (&str, &str) = ("probe_top1", "probe");

/// E.g. `1,234 images/s · loss 5.1234 · kNN 80.1 % · 1m 03s left`.
pub(crate) fn figures(phase: &PhaseView) -> String {
    let training = phase.state == PhaseState::Training;
    let mut parts = Vec::new();
    if training && phase.images_per_s.is_finite() && phase.images_per_s > 0.0 {
        parts.push(format!("{} images/s", thousands(phase.images_per_s)));
    }
    if let Some(loss) = phase.value(&["loss"]) {
        parts.push(format!("loss {loss:.4}"));
    }
    parts.extend(shares(phase, &[PROBE]));
    parts.extend(evaluated(phase));
    match (training, phase.eta_s, phase.seconds) {
        (true, Some(eta), _) if eta.is_finite() && eta >= 0.0 => {
            parts.push(format!("{} left", seconds(eta)))
        }
        (false, _, Some(took)) => parts.push(seconds(took)),
        _ => {}
    }
    if let Some(unsaved) = phase.unsaved() {
        parts.push(format!("{} not saved", seconds(unsaved)));
    }
    parts.join(" · ")
}

/// How many ranks a gang has where that may vary, and what it went through, e.g. `2 of 1–4 ranks`.
pub(crate) fn gang(phase: &PhaseView) -> Vec<String> {
    let varies = phase.ranks_min != phase.ranks_max && phase.world > 0;
    let ranks = phase
        .gang()
        .filter(|_| varies)
        .map(|gang| format!("{gang} ranks"));
    let skipped = match phase.skipped_steps.len() {
        0 => None,
        1 => Some("1 step skipped".to_owned()),
        steps => Some(format!("{steps} steps skipped")),
    };
    [ranks, restarted(phase), skipped]
        .into_iter()
        .flatten()
        .collect()
}

/// That this is not the phase's first attempt, e.g. `restarted twice (attempt 5)`.
fn restarted(phase: &PhaseView) -> Option<String> {
    let times = match phase.restarts {
        0 => return None,
        1 => "once".to_owned(),
        2 => "twice".to_owned(),
        more => format!("{more} times"),
    };
    Some(format!("restarted {times} (attempt {})", phase.attempt))
}

/// The accuracies of the last evaluation alone, e.g. `kNN 80.1 %`.
pub(crate) fn evaluated(phase: &PhaseView) -> Vec<String> {
    shares(phase, &EVALUATED)
}

fn shares(phase: &PhaseView, measured: &[(&str, &str)]) -> Vec<String> {
    let show =
        |(name, word): &(&str, &str)| Some(format!("{word} {}", percent(phase.value(&[name])?)));
    measured.iter().filter_map(show).collect()
}

/// A rate with its thousands set apart, and a decimal where it is small.
fn thousands(rate: f64) -> String {
    if rate < 10.0 {
        return format!("{rate:.1}");
    }
    let digits = format!("{rate:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::job::samples::phase;

    #[test]
    fn a_training_phase_shows_speed_loss_accuracy_and_time_left() {
        let mut training = phase("pretrain", PhaseState::Training);
        training.images_per_s = 12_345.6;
        training.eta_s = Some(63.0);
        training.metrics.insert("loss".to_owned(), 5.12345);
        training.metrics.insert("knn_top1".to_owned(), 0.8012);
        assert_eq!(
            figures(&training),
            "12,346 images/s · loss 5.1235 · kNN 80.1 % · 1m 03s left"
        );
    }

    #[test]
    fn a_gang_that_varies_is_counted() {
        let mut training = phase("pretrain", PhaseState::Training);
        assert_eq!(gang(&training), [""; 0]);
        (training.world, training.ranks_min, training.ranks_max) = (2, 2, 2);
        assert_eq!(gang(&training), [""; 0]);
        training.ranks_max = 4;
        (training.restarts, training.attempt) = (2, 5);
        training.skipped_steps = vec![7];
        assert_eq!(
            gang(&training),
            [
                "2 of 2–4 ranks",
                "restarted twice (attempt 5)",
                "1 step skipped"
            ]
        );
    }

    #[test]
    fn numbers_that_make_no_sense_are_left_out() {
        let mut training = phase("pretrain", PhaseState::Training);
        for odd in [f64::NAN, f64::INFINITY, -1.0] {
            training.images_per_s = odd;
            training.eta_s = Some(odd);
            training.unsaved_s = Some(odd);
            assert_eq!(figures(&training), "");
        }
        training.unsaved_s = Some(192.0);
        assert_eq!(figures(&training), "3m 12s not saved");
    }

    #[test]
    fn a_finished_phase_shows_results_and_how_long_it_took() {
        let mut done = phase("linear", PhaseState::Done);
        done.seconds = Some(125.0);
        done.images_per_s = 900.0;
        done.results.insert("eval_top1".to_owned(), 0.975);
        assert_eq!(figures(&done), "top-1 97.5 % · 2m 05s");
        assert_eq!(figures(&phase("later", PhaseState::Blocked)), "");
    }

    #[test]
    fn rates_read_well() {
        for (rate, text) in [
            (0.25, "0.2"),
            (9.96, "10.0"),
            (49.6, "50"),
            (1234.4, "1,234"),
            (1e6, "1,000,000"),
        ] {
            assert_eq!(thousands(rate), text);
        }
    }
}
