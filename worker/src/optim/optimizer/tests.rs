//! Every rule against numbers that were worked out elsewhere, and against its formula in plain f64.

use diptych_common::spec::{Depth, EncoderSpec, Precision, Scaling, Stem};
use tch::{Kind, no_grad};

use super::*;
use crate::device::Compute;
use crate::project::{ModelSpec, Reader};

const LARS: Rule = Rule::Lars {
    trust_coefficient: 0.001,
    momentum: 0.9,
    kind: MomentumKind::Classic,
};
const POPULAR: Rule = Rule::Lars {
    trust_coefficient: 0.001,
    momentum: 0.9,
    kind: MomentumKind::Popular,
};
const SGD: Rule = Rule::Sgd { momentum: 0.9 };
const ADAMW: Rule = Rule::AdamW {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
};

/// An optimiser of these weights; (decay, adapted) of each.
fn optimizer(rule: Rule, weights: Vec<Tensor>, how: &[(f64, bool)]) -> Optimizer {
    let zeros = || weights.iter().map(Tensor::zeros_like).collect();
    let adam = matches!(rule, Rule::AdamW { .. });
    let adapts = matches!(rule, Rule::Lars { .. });
    Optimizer {
        rule,
        names: (0..weights.len()).map(|index| index.to_string()).collect(),
        velocities: zeros(),
        squares: if adam { zeros() } else { Vec::new() },
        decay: how.iter().map(|(decay, _)| *decay).collect(),
        adapt: how
            .iter()
            .map(|(_, adapted)| u8::from(*adapted && adapts))
            .collect(),
        weights,
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.to_kind(Kind::Double).flatten(0, -1)).expect("numbers")
}

fn close(got: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(got.len(), expected.len());
    for (got, expected) in got.iter().zip(expected) {
        let near = (got - expected).abs() <= tolerance * expected.abs().max(1e-3);
        assert!(near, "{got}, not {expected}");
    }
}

fn pace(step: u64, rate: f64) -> Pace {
    Pace { step, rate }
}

#[test]
fn classic_lars_takes_the_steps_of_the_official_code() {
    let weight = Tensor::from_slice(&[3.0, 4.0]);
    let lars = optimizer(LARS, vec![weight], &[(1e-4, true)]);
    let gradients = [Tensor::from_slice(&[0.1, -0.2])];
    let mut trusts = Vec::new();
    for step in 0..2 {
        let trust = lars.update(&gradients, pace(step, 4.8), false);
        trusts.push(trust.expect("a step").expect("ratios").double_value(&[0]));
        if step == 0 {
            close(
                &numbers(&lars.velocities[0]),
                &[0.010_776_08, -0.021_444_72],
                1e-6,
            );
            close(
                &numbers(&lars.weights[0]),
                &[2.989_223_92, 4.021_444_72],
                1e-8,
            );
        }
    }
    close(&trusts, &[0.022_383_02, 0.022_431_32], 1e-6);
    close(
        &numbers(&lars.weights[0]),
        &[2.968_726_23, 4.062_235_74],
        1e-8,
    );
}

#[test]
fn nesterov_sgd_decays_inside_the_gradient() {
    // By hand: d = 0.5·(0.2 + 0.1·1) = 0.15, v = 0.15, w = 1 − (0.9·0.15 + 0.15) = 0.715; then
    // d = 0.5·(0.2 + 0.0715) = 0.13575, v = 0.135 + 0.13575 = 0.27075, w = 0.715 − (0.243675 + 0.13575) = 0.335575.
    let sgd = optimizer(SGD, vec![Tensor::from_slice(&[1.0])], &[(0.1, false)]);
    let gradients = [Tensor::from_slice(&[0.2])];
    for (step, (velocity, weight)) in [(0.15, 0.715), (0.270_75, 0.335_575)].iter().enumerate() {
        let done = sgd.update(&gradients, pace(step as u64, 0.5), false);
        assert!(done.is_ok());
        close(&numbers(&sgd.velocities[0]), &[*velocity], 1e-12);
        close(&numbers(&sgd.weights[0]), &[*weight], 1e-12);
    }
}

/// `w`, `v` and the trust ratio after one step of popular momentum (official code, `classic_momentum=False`).
fn popular(
    w: &mut [f64],
    v: &mut [f64],
    g: &[f64],
    (decay, adapted, rate): (f64, bool, f64),
) -> f64 {
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>().sqrt();
    for ((v, g), w) in v.iter_mut().zip(g).zip(w.iter()) {
        *v = 0.9 * *v + (g + decay * w);
    }
    let (weight, step) = (norm(w), norm(v));
    let usable = adapted && weight > 0.0 && step > 0.0;
    let trust = if usable { 0.001 * weight / step } else { 1.0 };
    for (w, v) in w.iter_mut().zip(v.iter()) {
        *w -= rate * trust * v;
    }
    trust
}

/// `w`, `m` and `s` after step `t` (from 1) of AdamW (Loshchilov and Hutter 2019, algorithm 2).
fn adamw(
    w: &mut [f64],
    m: &mut [f64],
    s: &mut [f64],
    g: &[f64],
    (decay, rate, t): (f64, f64, i32),
) {
    let (beta1, beta2): (f64, f64) = (0.9, 0.999);
    for (((w, m), s), g) in w.iter_mut().zip(m).zip(s).zip(g) {
        *w -= rate * decay * *w;
        *m = beta1 * *m + (1.0 - beta1) * g;
        *s = beta2 * *s + (1.0 - beta2) * g * g;
        let (mean, square) = (*m / (1.0 - beta1.powi(t)), *s / (1.0 - beta2.powi(t)));
        *w -= rate * mean / (square.sqrt() + 1e-8);
    }
}

fn wave(count: i64, phase: f64) -> Tensor {
    (Tensor::arange(count, (Kind::Double, tch::Device::Cpu)) * 0.3 + phase).sin()
}

/// A weight that decays and adapts over several chunks, one that does neither, and one that starts at zero.
const HOW: [(f64, bool); 3] = [(1e-2, true), (0.0, false), (1e-2, true)];

fn weights() -> Vec<Tensor> {
    let zero = Tensor::zeros([5], (Kind::Double, tch::Device::Cpu));
    vec![wave(70_001, 0.0), wave(12, 1.0).view([3, 4]), zero]
}

fn gradients(step: u64) -> Vec<Tensor> {
    let of = |weight: &Tensor| (weight * (step as f64 + 1.0) + 0.1).cos();
    weights().iter().map(of).collect()
}

#[test]
fn popular_momentum_and_adamw_follow_their_formulas() {
    for rule in [POPULAR, ADAMW] {
        let tested = optimizer(rule, weights(), &HOW);
        let zeros = || weights().iter().map(|w| vec![0.0; w.numel()]).collect();
        let mut plain: Vec<Vec<f64>> = weights().iter().map(numbers).collect();
        let (mut first, mut second): (Vec<Vec<f64>>, Vec<Vec<f64>>) = (zeros(), zeros());
        for step in 0..4 {
            let rate = 0.5 / (step as f64 + 1.0);
            let all = gradients(step);
            let trust = tested
                .update(&all, pace(step, rate), false)
                .expect("a step");
            let mut expected = Vec::new();
            for (index, gradient) in all.iter().enumerate() {
                let (w, v, g) = (&mut plain[index], &mut first[index], &numbers(gradient));
                let (decay, adapted) = HOW[index];
                if rule == POPULAR {
                    expected.push(popular(w, v, g, (decay, adapted, rate)));
                } else {
                    adamw(w, v, &mut second[index], g, (decay, rate, step as i32 + 1));
                }
            }
            match &trust {
                Some(trust) => close(&numbers(trust), &expected, 1e-12),
                None => assert_eq!(rule, ADAMW),
            }
            for index in 0..plain.len() {
                close(&numbers(&tested.weights[index]), &plain[index], 1e-11);
                close(&numbers(&tested.velocities[index]), &first[index], 1e-11);
            }
        }
        let moved = numbers(&tested.weights[2]);
        assert!(moved.iter().all(|w| *w != 0.0), "a zero weight moves");
    }
}

#[test]
fn a_zero_norm_has_the_full_rate() {
    for rule in [LARS, POPULAR] {
        let zero = || Tensor::zeros([3], (Kind::Double, tch::Device::Cpu));
        let still = Tensor::from_slice(&[1.0, 2.0, 2.0]);
        let lars = optimizer(
            rule,
            vec![zero(), still.copy()],
            &[(0.0, true), (0.0, true)],
        );
        let gradients = [Tensor::from_slice(&[1.0, 0.0, -1.0]), zero()];
        let trust = lars
            .update(&gradients, pace(0, 0.5), false)
            .expect("a step");
        assert_eq!(numbers(&trust.expect("ratios")), [1.0, 1.0], "{rule:?}");
        assert_eq!(numbers(&lars.weights[0]), [-0.5, 0.0, 0.5]);
        assert!(lars.weights[1].equal(&still));
    }
}

#[test]
fn every_role_decays_and_adapts_as_the_official_code_has_it() {
    let reader = Reader {
        layer: 0,
        classes: 3,
    };
    let model = Model::new(
        &ModelSpec {
            classifier: Some(reader),
            beside: vec![reader],
            probe: Some(reader),
            ..ModelSpec::bare(EncoderSpec {
                width: 1.0 / 16.0,
                stem: Stem::Cifar,
                ..EncoderSpec::torchvision(Depth::D18)
            })
        },
        1,
        Compute::cpu(Precision::Fp32),
    )
    .expect("a model");
    for (rule, bias_decays, adapted) in [(LARS, 0.0, 1), (SGD, 0.1, 0), (ADAMW, 0.0, 0)] {
        let spec = OptimizerSpec {
            rule,
            learning_rate: 1.0,
            scaling: Scaling::None,
            warmup_epochs: 0.0,
            weight_decay: 0.1,
        };
        let optimizer = Optimizer::new(&spec, &model).expect("an optimiser");
        let of = |name: &str| {
            let place = optimizer.names.iter().position(|own| own == name);
            let place = place.expect("is trained");
            (optimizer.decay[place], optimizer.adapt[place])
        };
        assert_eq!(of("conv1.weight"), (0.1, adapted));
        assert_eq!(of("fc.weight"), (0.1, 0));
        assert_eq!(of("fc_at.0.weight"), (0.1, 0));
        assert_eq!(of("probe.weight"), (0.1, 0));
        assert_eq!(of("fc.bias"), (bias_decays, 0));
        assert_eq!(of("bn1.weight"), (0.0, 0));
        assert_eq!(of("bn1.bias"), (0.0, 0));
    }
}

#[test]
fn the_fused_update_equals_the_one_for_other_devices() {
    for rule in [LARS, POPULAR, SGD] {
        let single = || {
            let kind = |weight: &Tensor| weight.to_kind(Kind::Float);
            optimizer(rule, weights().iter().map(kind).collect(), &HOW)
        };
        let (fused, foreach) = (single(), single());
        for step in 1..4 {
            let gradients: Vec<Tensor> = fused
                .weights
                .iter()
                .map(|w| (w * f64::from(step) + 0.1).cos())
                .collect();
            let now = pace(step as u64, 0.7);
            let one = fused.update(&gradients, now, false).expect("a step");
            let other = no_grad(|| foreach.update(&gradients, now, true)).expect("a step");
            let (one, other) = (one.expect("ratios"), other.expect("ratios"));
            assert!(
                (one - &other).abs().max().double_value(&[]) < 1e-6 * other.max().double_value(&[])
            );
            for (a, b) in fused.weights.iter().zip(&foreach.weights) {
                assert!((a - b).abs().max().double_value(&[]) < 2e-6);
            }
        }
    }
}
