// What tch lacks, behind C functions. Contract of every function that returns int: 0 is success; otherwise nothing was
// returned and diptych_shim_error() holds the reason until the next call on this thread. No C++ exception leaves this
// file, and a callback must not let a Rust panic in. `at::Tensor*` is what tch calls `C_tensor*`.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <c10/util/BFloat16.h>
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
    TORCH_CHECK(failed == 0, "a backward function in Rust failed");
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

// out = scale[c] * g + slope[c] * x + shift[c], over `rows` rows of `inner` elements that share a channel
// (inner > 1: NCHW planes) or over rows of all channels (inner == 1: NHWC pixels).
#define DIPTYCH_AFFINE(NAME, T, M, LOAD, STORE)                                                                  \
  DIPTYCH_CLONES void NAME(const T* g, const T* x, T* out, const M* scale, const M* slope, const M* shift,        \
                           int64_t begin, int64_t end, int64_t channels, int64_t inner) {                         \
    for (int64_t row = begin; row < end; ++row) {                                                                 \
      if (inner == 1) {                                                                                           \
        const T* gr = g + row * channels;                                                                         \
        const T* xr = x + row * channels;                                                                         \
        T* yr = out + row * channels;                                                                             \
        for (int64_t c = 0; c < channels; ++c) {                                                                  \
          yr[c] = STORE(scale[c] * LOAD(gr[c]) + slope[c] * LOAD(xr[c]) + shift[c]);                              \
        }                                                                                                         \
      } else {                                                                                                    \
        const M a = scale[row % channels], b = slope[row % channels], s = shift[row % channels];                  \
        const T* gr = g + row * inner;                                                                            \
        const T* xr = x + row * inner;                                                                            \
        T* yr = out + row * inner;                                                                                \
        for (int64_t i = 0; i < inner; ++i) {                                                                     \
          yr[i] = STORE(a * LOAD(gr[i]) + b * LOAD(xr[i]) + s);                                                   \
        }                                                                                                         \
      }                                                                                                           \
    }                                                                                                             \
  }

#define DIPTYCH_SAME(v) (v)
#define DIPTYCH_WIDEN(v) static_cast<float>(v)
#define DIPTYCH_NARROW(v) c10::BFloat16(v)
DIPTYCH_AFFINE(affine_f32, float, float, DIPTYCH_SAME, DIPTYCH_SAME)
DIPTYCH_AFFINE(affine_f64, double, double, DIPTYCH_SAME, DIPTYCH_SAME)
DIPTYCH_AFFINE(affine_bf16, c10::BFloat16, float, DIPTYCH_WIDEN, DIPTYCH_NARROW)

template <class T, class M, class F>
void run_affine(F kernel, const Tensor& g, const Tensor& x, Tensor& out, const Tensor& scale, const Tensor& slope,
                const Tensor& shift) {
  const int64_t channels = x.size(1);
  const bool last = x.dim() == 4 && x.suggest_memory_format() == at::MemoryFormat::ChannelsLast;
  const int64_t inner = last ? 1 : x.numel() / (x.size(0) * channels);
  const bool pixels = inner == 1;
  const int64_t rows = pixels ? x.numel() / channels : x.size(0) * channels;
  const int64_t grain = std::max<int64_t>(1, 32768 / (inner == 1 ? channels : inner));
  const T* gp = g.const_data_ptr<T>();
  const T* xp = x.const_data_ptr<T>();
  T* op = out.mutable_data_ptr<T>();
  const M *a = scale.const_data_ptr<M>(), *b = slope.const_data_ptr<M>(), *s = shift.const_data_ptr<M>();
  at::parallel_for(0, rows, grain,
                   [&](int64_t begin, int64_t end) { kernel(gp, xp, op, a, b, s, begin, end, channels, inner); });
}

}  // namespace

extern "C" {

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
    torch::autograd::backward(tensors, seeds);
  });
}

int diptych_channels_last(Tensor* tensor, Tensor** result) {
  return guarded([&] { *result = new Tensor(tensor->contiguous(at::MemoryFormat::ChannelsLast)); });
}

int diptych_like(Tensor* tensor, Tensor* model, Tensor** result) {
  return guarded([&] { *result = new Tensor(tensor->contiguous(model->suggest_memory_format())); });
}

// sum over rows of g, and of g * (x - mean) / sqrt(var + eps), per channel.
int diptych_batch_norm_sums(Tensor* g, Tensor* x, Tensor* mean, Tensor* var, double eps, Tensor** sum, Tensor** dot) {
  return guarded([&] {
    auto results = at::native_batch_norm_backward(*g, *x, /*weight=*/{}, *mean, *var, /*save_mean=*/{},
                                                  /*save_invstd=*/{}, /*train=*/false, eps, {false, true, true});
    *sum = new Tensor(std::get<2>(results));
    *dot = new Tensor(std::get<1>(results));
  });
}

int diptych_affine(Tensor* g, Tensor* x, Tensor* scale, Tensor* slope, Tensor* shift, Tensor** result) {
  return guarded([&] {
    const auto format = x->suggest_memory_format();
    if (!x->device().is_cpu()) {
      std::vector<int64_t> shape(x->dim(), 1);
      shape[1] = x->size(1);
      auto out = at::addcmul(shift->view(shape), *g, scale->view(shape)).addcmul(*x, slope->view(shape));
      *result = new Tensor(out.to(x->scalar_type()));
      return;
    }
    TORCH_CHECK(x->is_contiguous(format) && g->is_contiguous(format) && x->scalar_type() == g->scalar_type(),
                "batch norm: input and gradient must be dense, of one layout and dtype");
    Tensor out = at::empty_like(*x, x->options(), format);
    switch (x->scalar_type()) {
      case at::kFloat: run_affine<float, float>(affine_f32, *g, *x, out, *scale, *slope, *shift); break;
      case at::kDouble: run_affine<double, double>(affine_f64, *g, *x, out, *scale, *slope, *shift); break;
      case at::kBFloat16: run_affine<c10::BFloat16, float>(affine_bf16, *g, *x, out, *scale, *slope, *shift); break;
      default: TORCH_CHECK(false, "batch norm: dtype ", x->scalar_type(), " is not supported");
    }
    *result = new Tensor(out);
  });
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
