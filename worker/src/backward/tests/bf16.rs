//! bf16 is for forward and backward only.

use super::*;

fn all(gradients: &[(String, Vec<f64>)]) -> Vec<f64> {
    gradients
        .iter()
        .flat_map(|(_, numbers)| numbers.iter().copied())
        .collect()
}

#[test]
fn a_step_in_bf16_goes_the_way_of_one_in_fp32() {
    let whole = train(Machine::plain(1, Precision::Fp32), true, 1).remove(0);
    let half = train(Machine::plain(1, Precision::Bf16), true, 1).remove(0);
    let (loss, near) = (whole.figures[0], half.figures[0]);
    assert!((loss - near).abs() < 0.03 * loss, "{loss} and {near}");
    assert_ne!(loss, near, "it was not computed in bf16");
    let (a, b) = (all(&whole.gradients), all(&half.gradients));
    let along: f64 = a.iter().zip(&b).map(|(a, b)| a * b).sum();
    let cosine = along / (norm(&a) * norm(&b));
    assert!(cosine > 0.9, "the gradients' angle has cosine {cosine}");
}

#[test]
fn under_bf16_weights_statistics_momentum_and_gradients_stay_fp32() {
    let alone = Machine::plain(1, Precision::Bf16);
    let mut rig = Rig::new(&spec(true), alone, 2, solo::gang());
    rig.step().expect("a step");
    rig.commit().expect("a commit");
    for named in rig.state() {
        assert_eq!(named.tensor.kind(), Kind::Float, "{}", named.name);
    }
    for gradient in rig.buckets.gradients() {
        assert_eq!(gradient.kind(), Kind::Float);
        assert!(gradient.isfinite().all().int64_value(&[]) == 1);
    }
}

#[test]
fn several_groups_and_ranks_take_bf16_too() {
    for world in [1, 2] {
        let machine = Machine {
            world,
            groups: 2,
            groups_at_once: 1,
            precision: Precision::Bf16,
        };
        for left in train(machine, true, 2) {
            assert!(left.figures.iter().all(|figure| figure.is_finite()));
        }
    }
}
