//! The Rust skin of `cuda.cc`. Ownership as in [`shim`](super::shim). Call only after [`cuda::load`](super::cuda::load).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use tch::{Device, TchError, Tensor};
use torch_sys::C_tensor;

use super::shim::{check, new_tensor, raw, raws};

/// A stream of a CUDA device beside the one that libtorch's operations run on.
#[derive(Debug)]
pub(crate) struct Stream {
    inner: *mut c_void,
}

// SAFETY: the C++ object is three numbers that never change; streams may be used from any thread.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

/// Device memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceMemory {
    /// That no process holds.
    pub free: u64,
    /// All.
    pub total: u64,
    /// Kept by this process's allocator, for tensors that are and that were.
    pub reserved: u64,
    /// Held by this process's tensors.
    pub held: u64,
    /// The most that they held since the last [`reset_peak`].
    pub peak: u64,
}

unsafe extern "C" {
    fn diptych_torch_version() -> *const c_char;
    fn diptych_cuda_devices(count: *mut c_int) -> c_int;
    fn diptych_cuda_set_device(index: c_int) -> c_int;
    fn diptych_cuda_synchronize(index: c_int) -> c_int;
    fn diptych_cuda_tf32(on: c_int) -> c_int;
    fn diptych_cuda_repeatable(on: c_int) -> c_int;
    fn diptych_cuda_memory(index: c_int, out: *mut i64) -> c_int;
    fn diptych_cuda_reset_peak(index: c_int) -> c_int;
    fn diptych_stream_new(index: c_int, urgent: c_int, out: *mut *mut c_void) -> c_int;
    fn diptych_stream_free(stream: *mut c_void);
    fn diptych_stream_handle(stream: *mut c_void, out: *mut *mut c_void) -> c_int;
    fn diptych_stream_after_current(stream: *mut c_void) -> c_int;
    fn diptych_stream_before_current(stream: *mut c_void) -> c_int;
    fn diptych_stream_idle(stream: *mut c_void, idle: *mut c_int) -> c_int;
    fn diptych_cuda_pin(tensor: *mut C_tensor, result: *mut *mut C_tensor) -> c_int;
    fn diptych_cuda_pinned_room(count: i64, result: *mut *mut C_tensor) -> c_int;
    fn diptych_cuda_fetch(
        tensors: *const *mut C_tensor,
        count: i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn diptych_stream_copy(stream: *mut c_void, from: *mut C_tensor, to: *mut C_tensor) -> c_int;
    fn diptych_stream_keep(stream: *mut c_void, tensor: *mut C_tensor) -> c_int;
}

/// The libtorch that this program was built for.
pub fn torch_version() -> String {
    // SAFETY: a constant text.
    let text = unsafe { CStr::from_ptr(diptych_torch_version()) };
    text.to_string_lossy().into_owned()
}

/// Devices that libtorch can use.
pub(super) fn devices() -> Result<u32, TchError> {
    let mut count = 0;
    // SAFETY: a place for a number.
    check(unsafe { diptych_cuda_devices(&mut count) })?;
    Ok(u32::try_from(count).unwrap_or(0))
}

/// Makes `index` this thread's device.
pub(crate) fn set_device(index: usize) -> Result<(), TchError> {
    // SAFETY: any number; C++ refuses one that is no device.
    check(unsafe { diptych_cuda_set_device(index as c_int) })
}

/// Waits until the device has nothing to do.
pub(crate) fn synchronize(index: usize) -> Result<(), TchError> {
    // SAFETY: as in `set_device`.
    check(unsafe { diptych_cuda_synchronize(index as c_int) })
}

/// Whether fp32 matrix products and convolutions may round their factors to TF32 (10 bits of mantissa), for the whole
/// process.
pub(super) fn set_tf32(on: bool) -> Result<(), TchError> {
    // SAFETY: a plain number.
    check(unsafe { diptych_cuda_tf32(c_int::from(on)) })
}

/// Convolutions that give the same bits in every run, or the fastest ones by trial, for the whole process.
pub(super) fn set_repeatable(on: bool) -> Result<(), TchError> {
    // SAFETY: a plain number.
    check(unsafe { diptych_cuda_repeatable(c_int::from(on)) })
}

/// What a device's memory holds.
pub(crate) fn memory(index: usize) -> Result<DeviceMemory, TchError> {
    let mut out = [0; 5];
    // SAFETY: room for five numbers.
    check(unsafe { diptych_cuda_memory(index as c_int, out.as_mut_ptr()) })?;
    let [free, total, reserved, held, peak] = out.map(|bytes| u64::try_from(bytes).unwrap_or(0));
    Ok(DeviceMemory {
        free,
        total,
        reserved,
        held,
        peak,
    })
}

/// Starts to measure [`DeviceMemory::peak`] anew.
pub(crate) fn reset_peak(index: usize) -> Result<(), TchError> {
    // SAFETY: as in `set_device`.
    check(unsafe { diptych_cuda_reset_peak(index as c_int) })
}

/// The tensor in memory of the host that CUDA devices read without another copy. libtorch keeps such memory for the next.
pub(crate) fn pin(tensor: &Tensor) -> Result<Tensor, TchError> {
    // SAFETY: the tensor is live for the call. (tch's `pin_memory` names a device: deprecated, and said at every call.)
    new_tensor(|result| unsafe { diptych_cuda_pin(raw(tensor), result) })
}

/// Room for so many f32 in such memory, of any content.
pub(crate) fn pinned_room(count: i64) -> Result<Tensor, TchError> {
    // SAFETY: a plain number.
    new_tensor(|result| unsafe { diptych_cuda_pinned_room(count, result) })
}

/// A tensor of the host on a device. The host does not wait.
pub(crate) fn send(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    match device {
        Device::Cuda(_) => pin(tensor)?.f_to_device_(device, tensor.kind(), true, false),
        _ => tensor.f_to_device(device),
    }
}

/// Tensors of one device on the host, with one wait for all of them; those of the host as they are.
pub(crate) fn fetch(tensors: &[Tensor]) -> Result<Vec<Tensor>, TchError> {
    let on_gpu = |tensor: &Tensor| tensor.device().is_cuda();
    if !tensors.first().is_some_and(on_gpu) {
        return Ok(tensors.iter().map(Tensor::shallow_clone).collect());
    }
    let raws = raws(tensors);
    let mut out = vec![ptr::null_mut(); raws.len()];
    // SAFETY: a list of live tensors, and room for as many.
    check(unsafe { diptych_cuda_fetch(raws.as_ptr(), raws.len() as i64, out.as_mut_ptr()) })?;
    // SAFETY: success made all of them.
    let fetched = out.into_iter().map(|raw| unsafe { Tensor::from_ptr(raw) });
    Ok(fetched.collect())
}

// === impl Stream ===

impl Stream {
    /// One of the device's.
    pub(crate) fn new(device: usize) -> Result<Self, TchError> {
        Self::make(device, false)
    }

    /// One of the device's; its work goes before that of ordinary ones.
    pub(crate) fn urgent(device: usize) -> Result<Self, TchError> {
        Self::make(device, true)
    }

    fn make(device: usize, urgent: bool) -> Result<Self, TchError> {
        let mut inner = ptr::null_mut();
        // SAFETY: a place for a pointer, freed once in `drop`.
        check(unsafe { diptych_stream_new(device as c_int, c_int::from(urgent), &mut inner) })?;
        Ok(Self { inner })
    }

    /// Copies on it; from pinned memory the host does not wait. Both tensors are kept until that is done.
    pub(crate) fn copy(&self, from: &Tensor, to: &Tensor) -> Result<(), TchError> {
        // SAFETY: a live stream; tensors live for the call, whose memory libtorch keeps for the stream from then on.
        check(unsafe { diptych_stream_copy(self.inner, raw(from), raw(to)) })?;
        self.keep(to)
    }

    /// The `cudaStream_t`, for libraries that take one. Valid for the life of the process.
    pub(crate) fn handle(&self) -> Result<*mut c_void, TchError> {
        let mut out = ptr::null_mut();
        // SAFETY: a live stream and a place for a pointer.
        check(unsafe { diptych_stream_handle(self.inner, &mut out) })?;
        Ok(out)
    }

    /// It waits for what this thread's operations have queued so far. The host does not.
    pub(crate) fn after_current(&self) -> Result<(), TchError> {
        // SAFETY: a live stream.
        check(unsafe { diptych_stream_after_current(self.inner) })
    }

    /// This thread's later operations wait for what it has been given so far. The host does not.
    pub(crate) fn before_current(&self) -> Result<(), TchError> {
        // SAFETY: a live stream.
        check(unsafe { diptych_stream_before_current(self.inner) })
    }

    /// Whether everything that it was given has run.
    pub(crate) fn idle(&self) -> Result<bool, TchError> {
        let mut idle = 0;
        // SAFETY: a live stream and a place for a number.
        check(unsafe { diptych_stream_idle(self.inner, &mut idle) })?;
        Ok(idle != 0)
    }

    /// Keeps a tensor's memory, even if it is dropped, until what the stream has been given so far has run.
    pub(crate) fn keep(&self, tensor: &Tensor) -> Result<(), TchError> {
        // SAFETY: a live stream; the tensor is borrowed for the call.
        check(unsafe { diptych_stream_keep(self.inner, raw(tensor)) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made in `make`, freed once. The device's stream itself belongs to libtorch's pool.
        unsafe { diptych_stream_free(self.inner) };
    }
}
