//! The Rust skin of `shim.cc`; [`norm`](super::norm) and [`update`](super::update) are those of `norm.cc` and `update.cc`.
//!
//! Ownership: a tensor that goes in is borrowed for the call; a tensor that comes out is new and owned here. A boxed
//! closure that goes in belongs to libtorch from then on, which drops it once. Closures run behind `catch_unwind`: a
//! panic must not cross C++ frames.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use tch::{Device, TchError, Tensor};
use torch_sys::C_tensor;

/// Gradients of the (up to three) inputs, `None` for those not given, from the gradient of the output. Called at most
/// once.
pub(crate) type Backward = Box<dyn FnOnce(&Tensor) -> Result<[Option<Tensor>; 3], TchError> + Send>;

type Notify = Box<dyn Fn() + Send + Sync>;

/// bf16 autocast on the current thread until dropped.
#[derive(Debug)]
pub(crate) struct Autocast {
    cuda: c_int,
    before: c_int,
    /// The state restored on drop is the thread's own.
    _this_thread: std::marker::PhantomData<*const ()>,
}

unsafe extern "C" {
    fn diptych_shim_error() -> *const c_char;
    fn diptych_shim_blame(text: *const c_char);
    fn diptych_attach(
        output: *mut C_tensor,
        a: *mut C_tensor,
        b: *mut C_tensor,
        c: *mut C_tensor,
        state: *mut c_void,
        call: extern "C" fn(*mut c_void, *mut C_tensor, *mut *mut C_tensor) -> c_int,
        drop: extern "C" fn(*mut c_void),
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_on_gradient(
        parameter: *mut C_tensor,
        state: *mut c_void,
        call: extern "C" fn(*mut c_void),
        drop: extern "C" fn(*mut c_void),
    ) -> c_int;
    fn diptych_clear_hook(parameter: *mut C_tensor) -> c_int;
    fn diptych_set_gradient(parameter: *mut C_tensor, gradient: *mut C_tensor) -> c_int;
    fn diptych_backward(
        roots: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        count: i64,
    ) -> c_int;
    fn diptych_channels_last(tensor: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    fn diptych_like(
        tensor: *mut C_tensor,
        model: *mut C_tensor,
        result: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_autocast_enter(cuda: c_int, before: *mut c_int) -> c_int;
    fn diptych_autocast_leave(cuda: c_int, before: c_int) -> c_int;
}

/// Gives `output`, computed without a graph, a place in the graph of `inputs`: its gradient goes through `backward`,
/// on the thread that runs the backward pass. An error of `backward` fails that pass.
pub(crate) fn attach(
    inputs: [Option<&Tensor>; 3],
    output: Tensor,
    backward: Backward,
) -> Result<Tensor, TchError> {
    let state = Box::into_raw(Box::new(Some(backward))).cast::<c_void>();
    let [a, b, c] = inputs.map(|input| input.map_or(ptr::null_mut(), raw));
    let mut result = ptr::null_mut();
    let output = into_raw(output);
    // SAFETY: inputs are live for the call; `output` and `state` are given away; `a` is never null (checked below).
    let code = unsafe {
        if a.is_null() {
            drop_backward(state);
            drop(Tensor::from_ptr(output));
            return Err(TchError::Torch(
                "attach: the first input is missing".to_owned(),
            ));
        }
        diptych_attach(
            output,
            a,
            b,
            c,
            state,
            call_backward,
            drop_backward,
            &mut result,
        )
    };
    check(code)?;
    // SAFETY: success made a new tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}

/// Calls `notify` after each backward pass that added to the parameter's gradient. One hook per parameter: a second
/// one replaces the first.
pub(crate) fn on_gradient(
    parameter: &Tensor,
    notify: impl Fn() + Send + Sync + 'static,
) -> Result<(), TchError> {
    let boxed: Notify = Box::new(notify);
    let state = Box::into_raw(Box::new(boxed)).cast::<c_void>();
    // SAFETY: the parameter is live for the call; `state` is given away.
    check(unsafe { diptych_on_gradient(raw(parameter), state, call_notify, drop_notify) })
}

/// Removes the parameter's hook.
pub(crate) fn clear_hook(parameter: &Tensor) -> Result<(), TchError> {
    // SAFETY: the parameter is live for the call.
    check(unsafe { diptych_clear_hook(raw(parameter)) })
}

/// Makes `gradient` the tensor that backward adds to.
pub(crate) fn set_gradient(parameter: &Tensor, gradient: &Tensor) -> Result<(), TchError> {
    // SAFETY: both are live for the call; C++ keeps its own reference.
    check(unsafe { diptych_set_gradient(raw(parameter), raw(gradient)) })
}

/// One backward pass from several roots, each with the gradient of the final loss with respect to it.
pub(crate) fn backward(roots: &[(&Tensor, &Tensor)]) -> Result<(), TchError> {
    let tensors: Vec<_> = roots.iter().map(|(root, _)| raw(root)).collect();
    let seeds: Vec<_> = roots.iter().map(|(_, seed)| raw(seed)).collect();
    // SAFETY: both lists hold `roots.len()` live tensors.
    check(unsafe { diptych_backward(tensors.as_ptr(), seeds.as_ptr(), roots.len() as i64) })
}

/// The same values in NHWC order.
pub(crate) fn channels_last(tensor: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensor is live for the call.
    new_tensor(|result| unsafe { diptych_channels_last(raw(tensor), result) })
}

/// The same values, dense in the order of `model`.
pub(crate) fn in_layout_of(tensor: &Tensor, model: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: both are live for the call.
    new_tensor(|result| unsafe { diptych_like(raw(tensor), raw(model), result) })
}

extern "C" fn call_backward(
    state: *mut c_void,
    gradient: *mut C_tensor,
    gradients: *mut *mut C_tensor,
) -> c_int {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `state` is the box made in `attach`, alive until `drop_backward`; libtorch runs one node at a time.
        let slot = unsafe { &mut *state.cast::<Option<Backward>>() };
        // SAFETY: the gradient is borrowed for this call and not dropped here.
        let gradient = ManuallyDrop::new(unsafe { Tensor::from_ptr(gradient) });
        let backward = slot.take()?;
        backward(&gradient).map_err(|error| blame(&error)).ok()
    }));
    let Ok(Some(results)) = outcome else { return 1 };
    for (index, tensor) in results.into_iter().enumerate() {
        if let Some(tensor) = tensor {
            // SAFETY: the caller passes room for three pointers and takes what is written.
            unsafe { *gradients.add(index) = into_raw(tensor) };
        }
    }
    0
}

/// Has this thread's failing backward pass say why.
fn blame(error: &TchError) {
    let text = CString::new(error.to_string().replace('\0', " ")).unwrap_or_default();
    // SAFETY: a NUL-terminated text, which C++ copies.
    unsafe { diptych_shim_blame(text.as_ptr()) };
}

extern "C" fn drop_backward(state: *mut c_void) {
    // SAFETY: the box made in `attach`, dropped once by its C++ owner. A panicking destructor must not unwind into it.
    let dropped = catch_unwind(|| drop(unsafe { Box::from_raw(state.cast::<Option<Backward>>()) }));
    drop(dropped);
}

extern "C" fn call_notify(state: *mut c_void) {
    // SAFETY: the box made in `on_gradient`, alive until `drop_notify`; shared use is allowed by `Fn + Sync`.
    let notify = unsafe { &*state.cast::<Notify>() };
    drop(catch_unwind(AssertUnwindSafe(notify)));
}

extern "C" fn drop_notify(state: *mut c_void) {
    let dropped = catch_unwind(|| {
        // SAFETY: the box made in `on_gradient`, dropped once by its C++ owner.
        drop(unsafe { Box::from_raw(state.cast::<Notify>()) });
    });
    drop(dropped);
}

/// A borrowed pointer for the length of a call. C++ changes only what its contract says.
pub(super) fn raw(tensor: &Tensor) -> *mut C_tensor {
    tensor.as_ptr().cast_mut()
}

/// The same for a list.
pub(super) fn raws(tensors: &[Tensor]) -> Vec<*mut C_tensor> {
    tensors.iter().map(raw).collect()
}

/// Gives a tensor away.
fn into_raw(tensor: Tensor) -> *mut C_tensor {
    ManuallyDrop::new(tensor).as_mut_ptr()
}

pub(super) fn check(code: c_int) -> Result<(), TchError> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: a NUL-terminated text of this thread, valid until the next call.
    let text = unsafe { CStr::from_ptr(diptych_shim_error()) };
    Err(TchError::Torch(text.to_string_lossy().into_owned()))
}

pub(super) fn new_tensor(
    call: impl FnOnce(*mut *mut C_tensor) -> c_int,
) -> Result<Tensor, TchError> {
    let mut result = ptr::null_mut();
    check(call(&mut result))?;
    // SAFETY: success made a new tensor.
    Ok(unsafe { Tensor::from_ptr(result) })
}

// === impl Autocast ===

impl Autocast {
    pub(crate) fn enter(device: Device) -> Result<Self, TchError> {
        let cuda = c_int::from(device.is_cuda());
        let mut before = 0;
        // SAFETY: plain numbers.
        check(unsafe { diptych_autocast_enter(cuda, &mut before) })?;
        Ok(Self {
            cuda,
            before,
            _this_thread: std::marker::PhantomData,
        })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: plain numbers; same thread as `enter`, since the guard is not Send. It cannot fail after `enter`.
        unsafe { diptych_autocast_leave(self.cuda, self.before) };
    }
}
