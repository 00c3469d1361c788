// What tch lacks of CUDA, through libtorch's device-neutral interfaces: no CUDA header is needed, and nothing here is
// linked to CUDA. The contract is that of shim.cc. Only valid after libtorch_cuda.so has been loaded: a question about
// CUDA before that is answered with "no" for the rest of the process.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/DeviceAccelerator.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/Event.h>
#include <c10/core/Stream.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/version.h>

#include <vector>

#include "shim.h"

namespace {

using at::Tensor;
using diptych::guarded;

c10::impl::VirtualGuardImpl cuda() { return c10::impl::VirtualGuardImpl(c10::DeviceType::CUDA); }

c10::Device device(int index) { return c10::Device(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index)); }

// `later` goes on only when everything that is queued on `earlier` now has run.
void order(const c10::Stream& earlier, const c10::Stream& later) {
  c10::Event event(c10::DeviceType::CUDA);
  event.record(earlier);
  event.block(later);
}

// It knows no device before the first tensor, or this.
void prepare_allocator() { at::globalContext().lazyInitDevice(c10::DeviceType::CUDA); }

}  // namespace

extern "C" {

const char* diptych_torch_version() { return TORCH_VERSION; }

int diptych_cuda_devices(int* count) {
  return guarded([&] { *count = cuda().deviceCount(); });
}

int diptych_cuda_set_device(int index) {
  return guarded([&] { cuda().setDevice(device(index)); });
}

int diptych_cuda_synchronize(int index) {
  return guarded([&] { cuda().synchronizeDevice(device(index).index()); });
}

// TF32 in matrix products and convolutions of fp32 tensors.
int diptych_cuda_tf32(int on) {
  return guarded([&] {
    at::globalContext().setAllowTF32CuBLAS(on != 0);
    at::globalContext().setAllowTF32CuDNN(on != 0);
  });
}

// Convolutions: the same bits in every run, or the fastest algorithm by trial.
int diptych_cuda_repeatable(int on) {
  return guarded([&] {
    at::globalContext().setDeterministicCuDNN(on != 0);
    at::globalContext().setBenchmarkCuDNN(on == 0);
  });
}

// Bytes: free and all of the device, kept by the allocator, and of these held by tensors now and at most since the last
// reset.
int diptych_cuda_memory(int index, int64_t* out) {
  return guarded([&] {
    prepare_allocator();
    const auto at = device(index).index();
    const auto [free, total] = at::accelerator::getMemoryInfo(at);
    const auto stats = at::accelerator::getDeviceStats(at);
    out[0] = static_cast<int64_t>(free);
    out[1] = static_cast<int64_t>(total);
    out[2] = stats.reserved_bytes[0].current;
    out[3] = stats.allocated_bytes[0].current;
    out[4] = stats.allocated_bytes[0].peak;
  });
}

int diptych_cuda_reset_peak(int index) {
  return guarded([&] {
    prepare_allocator();
    at::accelerator::resetPeakStats(device(index).index());
  });
}

// The tensor in memory of the host that a device reads without another copy.
int diptych_cuda_pin(Tensor* tensor, Tensor** result) {
  return guarded([&] { *result = new Tensor(tensor->is_pinned() ? *tensor : tensor->pin_memory()); });
}

// Room for `count` numbers of f32 in such memory.
int diptych_cuda_pinned_room(int64_t count, Tensor** result) {
  return guarded([&] { *result = new Tensor(at::empty({count}, at::TensorOptions(at::kFloat).pinned_memory(true))); });
}

// Copies to the host by way of pinned memory, with one wait for all of them.
int diptych_cuda_fetch(Tensor* const* tensors, int64_t count, Tensor** out) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> host;
    for (int64_t i = 0; i < count; ++i) {
      const auto options = tensors[i]->options().device(at::kCPU).pinned_memory(true);
      host.push_back(at::empty_strided(tensors[i]->sizes(), tensors[i]->strides(), options));
      host.back().copy_(*tensors[i], /*non_blocking=*/true);
    }
    if (count > 0) cuda().getStream(tensors[0]->device()).synchronize();
    for (int64_t i = 0; i < count; ++i) out[i] = new Tensor(host[i]);
  });
}

// A stream of the pool, as long as the process lives; `urgent` ones go first.
int diptych_stream_new(int index, int urgent, c10::Stream** out) {
  return guarded([&] { *out = new c10::Stream(cuda().getStreamFromGlobalPool(device(index), urgent != 0)); });
}

void diptych_stream_free(c10::Stream* stream) { delete stream; }

int diptych_stream_handle(c10::Stream* stream, void** out) {
  return guarded([&] { *out = cuda().getStreamNativeHandle(*stream); });
}

// `stream` waits for what this thread's current stream has been given.
int diptych_stream_after_current(c10::Stream* stream) {
  return guarded([&] { order(cuda().getStream(stream->device()), *stream); });
}

// This thread's current stream waits for what `stream` has been given.
int diptych_stream_before_current(c10::Stream* stream) {
  return guarded([&] { order(*stream, cuda().getStream(stream->device())); });
}

int diptych_stream_idle(c10::Stream* stream, int* idle) {
  return guarded([&] { *idle = cuda().queryStream(*stream) ? 1 : 0; });
}

// `to` = `from`, copied on `stream`.
int diptych_stream_copy(c10::Stream* stream, Tensor* from, Tensor* to) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const c10::StreamGuard on(*stream);
    to->copy_(*from, /*non_blocking=*/true);
  });
}

// The allocator does not give the tensor's memory to others before `stream` is done with what it has now.
int diptych_stream_keep(c10::Stream* stream, Tensor* tensor) {
  return guarded([&] { tensor->record_stream(*stream); });
}

}  // extern "C"
