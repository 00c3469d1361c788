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
#include <cmath>
#include <string>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DIPTYCH_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define DIPTYCH_CLONES
#endif

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

thread_local std::string last_error;

template <class F>
int guarded(F&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    last_error = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error = error.what();
  } catch (...) {
    last_error = "unknown C++ exception";
  }
  return 1;
}

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

// Sums of squares of w and of g + decay * w, in eight independent double lanes so that they vectorise.
#define DIPTYCH_NORMS(NAME, T)                                                                                    \
  DIPTYCH_CLONES void NAME(const T* w, const T* g, int64_t begin, int64_t end, double decay, double* sums) {      \
    double weight[8] = {0}, step[8] = {0};                                                                        \
    int64_t i = begin;                                                                                            \
    for (; i + 8 <= end; i += 8) {                                                                                \
      for (int k = 0; k < 8; ++k) {                                                                               \
        const double x = w[i + k], d = g[i + k] + decay * x;                                                      \
        weight[k] += x * x;                                                                                       \
        step[k] += d * d;                                                                                         \
      }                                                                                                           \
    }                                                                                                             \
    for (; i < end; ++i) {                                                                                        \
      const double x = w[i], d = g[i] + decay * x;                                                                \
      weight[0] += x * x;                                                                                         \
      step[0] += d * d;                                                                                           \
    }                                                                                                             \
    for (int k = 0; k < 8; ++k) {                                                                                 \
      sums[0] += weight[k];                                                                                       \
      sums[1] += step[k];                                                                                         \
    }                                                                                                             \
  }
DIPTYCH_NORMS(norms_f32, float)
DIPTYCH_NORMS(norms_f64, double)

// v = momentum * v + rate * (g + decay * w); w -= v, or w -= momentum * v + rate * (g + decay * w).
#define DIPTYCH_UPDATE(NAME, T)                                                                                   \
  DIPTYCH_CLONES void NAME(T* __restrict w, const T* __restrict g, T* __restrict v, int64_t begin, int64_t end,   \
                           T decay, T rate, T momentum, bool nesterov) {                                          \
    if (nesterov) {                                                                                               \
      for (int64_t i = begin; i < end; ++i) {                                                                     \
        const T d = rate * (g[i] + decay * w[i]);                                                                 \
        v[i] = momentum * v[i] + d;                                                                               \
        w[i] -= momentum * v[i] + d;                                                                              \
      }                                                                                                           \
    } else {                                                                                                      \
      for (int64_t i = begin; i < end; ++i) {                                                                     \
        v[i] = momentum * v[i] + rate * (g[i] + decay * w[i]);                                                    \
        w[i] -= v[i];                                                                                             \
      }                                                                                                           \
    }                                                                                                             \
  }
DIPTYCH_UPDATE(update_f32, float)
DIPTYCH_UPDATE(update_f64, double)

constexpr int64_t GRAIN = 1 << 16;

template <class T, class Norms, class Update>
double step_cpu(Norms norms, Update update, const Tensor& w, const Tensor& g, const Tensor& v, double decay, bool adapt,
                double rate, double momentum, double trust_coefficient, bool nesterov) {
  T* wp = w.mutable_data_ptr<T>();
  const T* gp = g.const_data_ptr<T>();
  T* vp = v.mutable_data_ptr<T>();
  const int64_t n = w.numel();
  double trust = 1.0;
  if (adapt) {
    // Fixed chunks, added in order: the same bits for any number of threads.
    const int64_t chunks = (n + GRAIN - 1) / GRAIN;
    std::vector<std::array<double, 2>> sums(chunks, {0.0, 0.0});
    at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c) {
        norms(wp, gp, c * GRAIN, std::min(n, (c + 1) * GRAIN), decay, sums[c].data());
      }
    });
    double weight = 0, step = 0;
    for (const auto& sum : sums) {
      weight += sum[0];
      step += sum[1];
    }
    if (weight > 0 && step > 0) trust = trust_coefficient * std::sqrt(weight) / std::sqrt(step);
  }
  at::parallel_for(0, n, GRAIN, [&](int64_t begin, int64_t end) {
    update(wp, gp, vp, begin, end, static_cast<T>(decay), static_cast<T>(rate * trust), static_cast<T>(momentum),
           nesterov);
  });
  return trust;
}

// The same update for any device in a fixed number of launches, without a wait of the host.
Tensor step_foreach(const std::vector<Tensor>& w, const std::vector<Tensor>& g, const std::vector<Tensor>& v,
                    const double* decay, const uint8_t* adapt, double rate, double momentum, double trust_coefficient,
                    bool nesterov) {
  std::vector<at::Scalar> decays(decay, decay + w.size());
  auto step = at::_foreach_mul(w, decays);
  at::_foreach_add_(step, g);
  auto weight_norm = at::stack(at::_foreach_norm(w)), step_norm = at::stack(at::_foreach_norm(step));
  std::vector<double> flags(adapt, adapt + w.size());
  auto adapted = at::tensor(flags, weight_norm.options().device(at::kCPU)).to(weight_norm.device(), /*non_blocking=*/true);
  auto usable = (adapted > 0).logical_and(weight_norm > 0).logical_and(step_norm > 0);
  auto trust = at::where(usable, trust_coefficient * weight_norm / step_norm, at::ones_like(weight_norm));
  at::_foreach_mul_(step, (trust * rate).unbind());
  at::_foreach_mul_(v, momentum);
  at::_foreach_add_(v, step);
  if (nesterov) {
    at::_foreach_add_(step, v, momentum);
    at::_foreach_sub_(w, step);
  } else {
    at::_foreach_sub_(w, v);
  }
  return trust.to(at::kDouble);
}

}  // namespace

extern "C" {

const char* diptych_shim_error() { return last_error.c_str(); }

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

// One step over `count` tensors; *trust is a new tensor of their trust ratios (f64).
int diptych_step(Tensor* const* weights, Tensor* const* gradients, Tensor* const* velocities, const double* decay,
                 const uint8_t* adapt, int64_t count, double rate, double momentum, double trust_coefficient,
                 int nesterov, int foreach, Tensor** trust) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> w, g, v;
    bool fused = foreach == 0;
    for (int64_t i = 0; i < count; ++i) {
      w.push_back(weights[i]->detach());
      g.push_back(gradients[i]->detach());
      v.push_back(velocities[i]->detach());
      TORCH_CHECK(w[i].sizes() == g[i].sizes() && w[i].sizes() == v[i].sizes(), "optimiser: shapes differ");
      const auto kind = w[i].scalar_type();
      TORCH_CHECK(kind == g[i].scalar_type() && kind == v[i].scalar_type(), "optimiser: dtypes differ");
      fused = fused && w[i].is_cpu() && (kind == at::kFloat || kind == at::kDouble) &&
              w[i].is_non_overlapping_and_dense() && w[i].strides() == g[i].strides() && w[i].strides() == v[i].strides();
    }
    if (!fused) {
      *trust = new Tensor(step_foreach(w, g, v, decay, adapt, rate, momentum, trust_coefficient, nesterov != 0));
      return;
    }
    auto ratios = at::ones({count}, at::kDouble);
    double* ratio = ratios.mutable_data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) {
      ratio[i] = w[i].scalar_type() == at::kFloat
                     ? step_cpu<float>(norms_f32, update_f32, w[i], g[i], v[i], decay[i], adapt[i] != 0, rate, momentum,
                                       trust_coefficient, nesterov != 0)
                     : step_cpu<double>(norms_f64, update_f64, w[i], g[i], v[i], decay[i], adapt[i] != 0, rate,
                                        momentum, trust_coefficient, nesterov != 0);
    }
    *trust = new Tensor(ratios);
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
