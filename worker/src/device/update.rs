//! The Rust skin of `update.cc`: optimiser steps over all parameters at once. Ownership as in [`shim`](super::shim).

use std::ffi::{c_double, c_int};

use tch::{Device, Kind, TchError, Tensor};
use torch_sys::C_tensor;

use super::shim::{check, new_tensor, raws};

/// The tensors of one optimiser step, index by index.
#[derive(Debug)]
pub(crate) struct StepTensors<'a> {
    pub(crate) weights: &'a [Tensor],
    pub(crate) gradients: &'a [Tensor],
    pub(crate) velocities: &'a [Tensor],
    /// Weight decay of each.
    pub(crate) decay: &'a [f64],
    /// 1 where the rate is scaled by the trust ratio.
    pub(crate) adapt: &'a [u8],
}

/// The numbers of one optimiser step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StepNumbers {
    pub(crate) rate: f64,
    pub(crate) momentum: f64,
    pub(crate) trust_coefficient: f64,
    pub(crate) kind: Momentum,
    /// Use the path of devices without a fused kernel.
    pub(crate) foreach: bool,
}

/// What momentum adds up. The numbers are those of the C++ side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Momentum {
    /// Steps; the weight follows it.
    Classic = 0,
    /// Steps; the weight goes one step ahead of it.
    Nesterov = 1,
    /// Gradients; rate and trust ratio scale the step that the weight takes.
    Popular = 2,
}

/// The tensors of one AdamW step, index by index.
#[derive(Debug)]
pub(crate) struct AdamTensors {
    pub(crate) weights: Vec<Tensor>,
    pub(crate) gradients: Vec<Tensor>,
    /// Means of gradients.
    pub(crate) means: Vec<Tensor>,
    /// Means of squared gradients.
    pub(crate) squares: Vec<Tensor>,
}

/// The numbers of one AdamW step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AdamNumbers {
    pub(crate) rate: f64,
    pub(crate) beta1: f64,
    pub(crate) beta2: f64,
    pub(crate) epsilon: f64,
    pub(crate) decay: f64,
    /// From 1.
    pub(crate) step: u64,
}

unsafe extern "C" {
    fn diptych_zero(tensors: *const *mut C_tensor, count: i64) -> c_int;
    fn diptych_all_finite(
        tensors: *const *mut C_tensor,
        count: i64,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_step(
        weights: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        velocities: *const *mut C_tensor,
        decay: *const c_double,
        adapt: *const u8,
        count: i64,
        rate: c_double,
        momentum: c_double,
        trust_coefficient: c_double,
        kind: c_int,
        foreach: c_int,
        trust: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_adamw(
        weights: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        means: *const *mut C_tensor,
        squares: *const *mut C_tensor,
        count: i64,
        rate: c_double,
        beta1: c_double,
        beta2: c_double,
        epsilon: c_double,
        decay: c_double,
        step: c_double,
    ) -> c_int;
}

/// Sets all values to zero.
pub(crate) fn zero(tensors: &[Tensor]) -> Result<(), TchError> {
    if tensors.is_empty() {
        return Ok(());
    }
    let raws = raws(tensors);
    // SAFETY: a list of live tensors.
    check(unsafe { diptych_zero(raws.as_ptr(), raws.len() as i64) })
}

/// Whether all values are finite, as a bool on their device: the host has not waited for it.
pub(crate) fn all_finite(tensors: &[Tensor]) -> Result<Tensor, TchError> {
    if tensors.is_empty() {
        return Tensor::f_ones([], (Kind::Bool, Device::Cpu));
    }
    let raws = raws(tensors);
    // SAFETY: a list of live tensors.
    new_tensor(|result| unsafe { diptych_all_finite(raws.as_ptr(), raws.len() as i64, result) })
}

/// One momentum step over all tensors, in place; returns their trust ratios, f64.
pub(crate) fn step(tensors: &StepTensors<'_>, numbers: StepNumbers) -> Result<Tensor, TchError> {
    let count = tensors.weights.len();
    let lengths = [
        tensors.gradients.len(),
        tensors.velocities.len(),
        tensors.decay.len(),
        tensors.adapt.len(),
    ];
    if lengths.iter().any(|&length| length != count) {
        return Err(TchError::Torch(format!(
            "optimiser: lists of {count} and {lengths:?} entries"
        )));
    }
    let (weights, gradients, velocities) = (
        raws(tensors.weights),
        raws(tensors.gradients),
        raws(tensors.velocities),
    );
    // SAFETY: every list holds `count` entries (checked above), all tensors are live; C++ checks shapes and dtypes.
    new_tensor(|trust| unsafe {
        diptych_step(
            weights.as_ptr(),
            gradients.as_ptr(),
            velocities.as_ptr(),
            tensors.decay.as_ptr(),
            tensors.adapt.as_ptr(),
            count as i64,
            numbers.rate,
            numbers.momentum,
            numbers.trust_coefficient,
            numbers.kind as c_int,
            c_int::from(numbers.foreach),
            trust,
        )
    })
}

/// One step of AdamW over tensors that share their decay, in place.
pub(crate) fn adamw(tensors: &AdamTensors, numbers: AdamNumbers) -> Result<(), TchError> {
    let count = tensors.weights.len();
    let lists = [&tensors.gradients, &tensors.means, &tensors.squares];
    if lists.iter().any(|list| list.len() != count) {
        let lengths = lists.map(Vec::len);
        return Err(TchError::Torch(format!(
            "optimiser: lists of {count} and {lengths:?} entries"
        )));
    }
    let weights = raws(&tensors.weights);
    let [gradients, means, squares] = lists.map(|list| raws(list));
    // SAFETY: every list holds `count` entries (checked above), all tensors are live; C++ checks shapes and dtypes.
    check(unsafe {
        diptych_adamw(
            weights.as_ptr(),
            gradients.as_ptr(),
            means.as_ptr(),
            squares.as_ptr(),
            count as i64,
            numbers.rate,
            numbers.beta1,
            numbers.beta2,
            numbers.epsilon,
            numbers.decay,
            numbers.step as f64,
        )
    })
}
