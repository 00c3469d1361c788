// What tch lacks, behind C functions. Contract of every function that returns int: 0 is success; otherwise nothing was
// returned and diptych_shim_error() holds the reason until the next call on this thread. No C++ exception leaves this
// file, and a callback must not let a Rust panic in. `at::Tensor*` is what tch calls `C_tensor*`.
#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <c10/core/AutogradState.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <array>
#include <string>
#include <vector>

#include "shim.h"

namespace diptych {

std::string& last_error() {
  thread_local std::string text;
  return text;
}

}  // namespace diptych

namespace {

using at::Tensor;
using diptych::guarded;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// A Rust value and what may be done with it; dropped once, wherever the graph or the parameter ends.
using Backward = int (*)(void* state, Tensor* gradient, Tensor** gradients);
using Notify = void (*)(void* state);
using Drop = void (*)(void* state);

struct RustBackward : torch::CustomClassHolder {
  RustBackward(void* state, Backward call, Drop drop) : state(state), call(call), drop(drop) {}
  ~RustBackward() override { drop(state); }
  void* state;
  Backward call;
  Drop drop;
  Tensor output;
};

// Gives `output`, which was computed without a graph, three inputs and a backward in Rust.
struct Attach : torch::autograd::Function<Attach> {
  static Tensor forward(AutogradContext* context, c10::intrusive_ptr<RustBackward> rust, const Tensor& a,
                        const std::optional<Tensor>& b, const std::optional<Tensor>& c) {
    Tensor output = std::move(rust->output);
    context->saved_data["rust"] = c10::IValue::make_capsule(std::move(rust));
    return output;
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    auto holder = context->saved_data["rust"].toCapsule();
    auto& rust = static_cast<RustBackward&>(*holder);
    std::array<Tensor*, 3> results = {nullptr, nullptr, nullptr};
    at::NoGradGuard no_grad;
    int failed = rust.call(rust.state, &gradients[0], results.data());
    variable_list out(4);
    for (size_t i = 0; i < results.size(); ++i) {
      if (results[i] != nullptr) {
        out[i + 1] = std::move(*results[i]);
        delete results[i];
      }
    }
    TORCH_CHECK(failed == 0, "a backward function in Rust failed: ", diptych::last_error());
    return out;
  }
};

struct RustHook : torch::autograd::PostAccumulateGradHook {
  RustHook(void* state, Notify call, Drop drop) : state(state), call(call), drop(drop) {}
  ~RustHook() override { drop(state); }
  void operator()(const torch::autograd::Variable&) override { call(state); }
  void* state;
  Notify call;
  Drop drop;
};

// Backward on the calling thread, whatever the device. libtorch's own thread of a device serves all graphs of the process:
// ranks that are threads would wait for each other in it. And so one thread makes all calls of a step.
class CallingThread {
 public:
  CallingThread() { set(false); }
  ~CallingThread() { set(before_); }

 private:
  static void set(bool many) { c10::AutogradState::get_tls_state().set_multithreading_enabled(many); }
  const bool before_ = c10::AutogradState::get_tls_state().get_multithreading_enabled();
};

}  // namespace

extern "C" {

void diptych_shim_blame(const char* text) { diptych::last_error() = text; }

const char* diptych_shim_error() { return diptych::last_error().c_str(); }

// Takes `output` (no graph) and `state`, always. *result is a new tensor whose gradient goes through `call`.
int diptych_attach(Tensor* output, Tensor* a, Tensor* b, Tensor* c, void* state, Backward call, Drop drop,
                   Tensor** result) {
  return guarded([&] {
    auto rust = c10::make_intrusive<RustBackward>(state, call, drop);
    rust->output = std::move(*output);
    delete output;
    const auto optional = [](Tensor* tensor) { return tensor ? std::optional<Tensor>(*tensor) : std::nullopt; };
    *result = new Tensor(Attach::apply(rust, *a, optional(b), optional(c)));
  });
}

// Takes `state`, always. Replaces the parameter's hook.
int diptych_on_gradient(Tensor* parameter, void* state, Notify call, Drop drop) {
  return guarded([&] {
    auto hook = std::make_unique<RustHook>(state, call, drop);
    torch::autograd::impl::set_post_acc_grad_hooks(*parameter, std::move(hook));
  });
}

int diptych_clear_hook(Tensor* parameter) {
  return guarded([&] { torch::autograd::impl::set_post_acc_grad_hooks(*parameter, nullptr); });
}

int diptych_set_gradient(Tensor* parameter, Tensor* gradient) {
  return guarded([&] { parameter->mutable_grad() = *gradient; });
}

int diptych_backward(Tensor* const* roots, Tensor* const* gradients, int64_t count) {
  return guarded([&] {
    variable_list tensors, seeds;
    for (int64_t i = 0; i < count; ++i) {
      tensors.push_back(*roots[i]);
      seeds.push_back(*gradients[i]);
    }
    const CallingThread only;
    torch::autograd::backward(tensors, seeds);
  });
}

int diptych_channels_last(Tensor* tensor, Tensor** result) {
  return guarded([&] { *result = new Tensor(tensor->contiguous(at::MemoryFormat::ChannelsLast)); });
}

int diptych_like(Tensor* tensor, Tensor* model, Tensor** result) {
  return guarded([&] { *result = new Tensor(tensor->contiguous(model->suggest_memory_format())); });
}

// Autocast to bf16 on this thread; *before holds what `diptych_autocast_leave` restores.
int diptych_autocast_enter(int cuda, int* before) {
  return guarded([&] {
    const auto device = cuda ? at::kCUDA : at::kCPU;
    *before = at::autocast::is_autocast_enabled(device) ? 1 : 0;
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::increment_nesting();
  });
}

int diptych_autocast_leave(int cuda, int before) {
  return guarded([&] {
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
    at::autocast::set_autocast_enabled(cuda ? at::kCUDA : at::kCPU, before != 0);
  });
}

}  // extern "C"
