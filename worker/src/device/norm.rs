//! The Rust skin of `norm.cc`: batch norm in pieces, for what ranks exchange between them. Ownership as in
//! [`shim`](super::shim).

use std::ffi::{c_double, c_int};
use std::ptr;

use tch::{TchError, Tensor};
use torch_sys::C_tensor;

use super::shim::{check, new_tensor, raw};

/// What a group of rows is normalised by, `[channels]` each: f64 on CPUs, what libtorch accumulates in on GPUs.
#[derive(Debug)]
pub(crate) struct Moments {
    pub(crate) mean: Tensor,
    /// `1/√(var + ε)`.
    pub(crate) deviation: Tensor,
}

/// A batch norm's input rows, its scale and its ε.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scaled<'a> {
    /// `[rows, channels, …]`.
    pub(crate) x: &'a Tensor,
    /// γ, `[channels]`.
    pub(crate) gamma: &'a Tensor,
    pub(crate) eps: f64,
}

/// Sums over rows, `[channels]`, with `g` the gradient of the output.
#[derive(Debug)]
pub(crate) struct Sums {
    /// `Σ g`.
    pub(crate) sum: Tensor,
    /// `Σ g·x̂`.
    pub(crate) dot: Tensor,
}

/// A layer's running statistics and the groups that it has seen since they last moved.
#[derive(Debug)]
pub(crate) struct Moving<'a> {
    pub(crate) mean: &'a Tensor,
    pub(crate) var: &'a Tensor,
    pub(crate) groups: Vec<Moments>,
}

impl Moments {
    /// The same tensors.
    pub(crate) fn share(&self) -> Self {
        Self {
            mean: self.mean.shallow_clone(),
            deviation: self.deviation.shallow_clone(),
        }
    }
}

unsafe extern "C" {
    fn diptych_norm_statistics(
        x: *mut C_tensor,
        eps: c_double,
        mean: *mut *mut C_tensor,
        deviation: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_norm_apply(
        x: *mut C_tensor,
        gamma: *mut C_tensor,
        beta: *mut C_tensor,
        mean: *mut C_tensor,
        deviation: *mut C_tensor,
        eps: c_double,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_norm_sums(
        gradient: *mut C_tensor,
        x: *mut C_tensor,
        gamma: *mut C_tensor,
        mean: *mut C_tensor,
        deviation: *mut C_tensor,
        eps: c_double,
        sum: *mut *mut C_tensor,
        dot: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_norm_gradient(
        gradient: *mut C_tensor,
        x: *mut C_tensor,
        gamma: *mut C_tensor,
        mean: *mut C_tensor,
        deviation: *mut C_tensor,
        sum: *mut C_tensor,
        dot: *mut C_tensor,
        count: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_norm_commit(
        running_means: *const *mut C_tensor,
        running_vars: *const *mut C_tensor,
        layers: i64,
        means: *const *mut C_tensor,
        deviations: *const *mut C_tensor,
        groups: i64,
        keep: c_double,
        eps: c_double,
    ) -> c_int;
}

/// The moments of `x` over all but its dimension 1.
pub(crate) fn moments(x: &Tensor, eps: f64) -> Result<Moments, TchError> {
    let (mean, deviation) = two_tensors(|mean, deviation| {
        // SAFETY: the tensor is live for the call.
        unsafe { diptych_norm_statistics(raw(x), eps, mean, deviation) }
    })?;
    Ok(Moments { mean, deviation })
}

/// `γ · x̂ + β`.
pub(crate) fn apply(
    rows: Scaled<'_>,
    beta: &Tensor,
    moments: &Moments,
) -> Result<Tensor, TchError> {
    let Scaled { x, gamma, eps } = rows;
    let (mean, deviation) = (raw(&moments.mean), raw(&moments.deviation));
    // SAFETY: all tensors are live for the call.
    new_tensor(|result| unsafe {
        diptych_norm_apply(raw(x), raw(gamma), raw(beta), mean, deviation, eps, result)
    })
}

/// What backward sums over this rank's rows; `gradient` lies in memory as `x` does.
pub(crate) fn sums(
    gradient: &Tensor,
    rows: Scaled<'_>,
    moments: &Moments,
) -> Result<Sums, TchError> {
    let Scaled { x, gamma, eps } = rows;
    let (mean, deviation) = (raw(&moments.mean), raw(&moments.deviation));
    let (sum, dot) = two_tensors(|sum, dot| {
        // SAFETY: all tensors are live for the call.
        unsafe {
            diptych_norm_sums(
                raw(gradient),
                raw(x),
                raw(gamma),
                mean,
                deviation,
                eps,
                sum,
                dot,
            )
        }
    })?;
    Ok(Sums { sum, dot })
}

/// The gradient of `x`: `γ/√(var+ε) · (g − Σg/n − x̂ · Σ(g·x̂)/n)`, with sums over all ranks and `n` their `count`, `[1]`
/// of int32.
pub(crate) fn gradient(
    gradient: &Tensor,
    rows: Scaled<'_>,
    moments: &Moments,
    sums: &Sums,
    count: &Tensor,
) -> Result<Tensor, TchError> {
    // SAFETY: all tensors are live for the call; C++ checks layout and dtype.
    new_tensor(|result| unsafe {
        diptych_norm_gradient(
            raw(gradient),
            raw(rows.x),
            raw(rows.gamma),
            raw(&moments.mean),
            raw(&moments.deviation),
            raw(&sums.sum),
            raw(&sums.dot),
            raw(count),
            result,
        )
    })
}

/// Moves every layer's running statistics once towards the mean of its groups, of which `keep` of the old ones stays. All
/// layers have seen as many groups.
pub(crate) fn commit(layers: &[Moving<'_>], keep: f64, eps: f64) -> Result<(), TchError> {
    let Some(groups @ 1..) = layers.first().map(|layer| layer.groups.len()) else {
        return Ok(());
    };
    if layers.iter().any(|layer| layer.groups.len() != groups) {
        return Err(TchError::Torch(
            "batch norm: layers have seen different numbers of groups".to_owned(),
        ));
    }
    let running =
        |part: fn(&Moving<'_>) -> *mut C_tensor| -> Vec<_> { layers.iter().map(part).collect() };
    let (running_means, running_vars) = (
        running(|layer| raw(layer.mean)),
        running(|layer| raw(layer.var)),
    );
    let seen = |part: fn(&Moments) -> *mut C_tensor| -> Vec<_> {
        (0..groups)
            .flat_map(|group| layers.iter().map(move |layer| part(&layer.groups[group])))
            .collect()
    };
    let (means, deviations) = (
        seen(|group| raw(&group.mean)),
        seen(|group| raw(&group.deviation)),
    );
    // SAFETY: lists of `layers` and of `groups · layers` live tensors.
    check(unsafe {
        diptych_norm_commit(
            running_means.as_ptr(),
            running_vars.as_ptr(),
            layers.len() as i64,
            means.as_ptr(),
            deviations.as_ptr(),
            groups as i64,
            keep,
            eps,
        )
    })
}

fn two_tensors(
    call: impl FnOnce(*mut *mut C_tensor, *mut *mut C_tensor) -> c_int,
) -> Result<(Tensor, Tensor), TchError> {
    let (mut first, mut second) = (ptr::null_mut(), ptr::null_mut());
    check(call(&mut first, &mut second))?;
    // SAFETY: success made both.
    Ok(unsafe { (Tensor::from_ptr(first), Tensor::from_ptr(second)) })
}
