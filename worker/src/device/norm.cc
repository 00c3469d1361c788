// Batch norm in pieces, for what ranks exchange between them; behind the contract of shim.cc. GPUs run libtorch's kernels
// for synchronised batch norm, which it has for no other device.
//
// `mean` and `deviation` = 1 / sqrt(var + eps) are [C]: f64 on CPUs, and on GPUs what libtorch accumulates in (f32, of f64
// f64). `gamma` is [C] of the parameters' dtype, which is that of x unless x is bf16.
#include <ATen/ATen.h>
#include <ATen/OpMathType.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <vector>

#include "shim.h"

namespace {

using at::Tensor;
using diptych::guarded;
using diptych::list_of;

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

Tensor variance(const Tensor& deviation, double eps) { return deviation.pow(-2).sub_(eps).clamp_min_(0); }

Tensor affine_cpu(const Tensor& g, const Tensor& x, const Tensor& scale, const Tensor& slope, const Tensor& shift) {
  const auto format = x.suggest_memory_format();
  TORCH_CHECK(x.is_contiguous(format) && g.is_contiguous(format) && x.scalar_type() == g.scalar_type(),
              "batch norm: input and gradient must be dense, of one layout and dtype");
  Tensor out = at::empty_like(x, x.options(), format);
  switch (x.scalar_type()) {
    case at::kFloat: run_affine<float, float>(affine_f32, g, x, out, scale, slope, shift); break;
    case at::kDouble: run_affine<double, double>(affine_f64, g, x, out, scale, slope, shift); break;
    case at::kBFloat16: run_affine<c10::BFloat16, float>(affine_bf16, g, x, out, scale, slope, shift); break;
    default: TORCH_CHECK(false, "batch norm: dtype ", x.scalar_type(), " is not supported");
  }
  return out;
}

// running = keep * running + (1 - keep) / groups * sum, over all layers at once.
void move_towards(const std::vector<Tensor>& running, const std::vector<Tensor>& sum, double keep, int64_t groups) {
  auto step = at::_foreach_mul(sum, (1 - keep) / static_cast<double>(groups));
  for (size_t i = 0; i < step.size(); ++i) step[i] = step[i].to(running[i].scalar_type());
  at::_foreach_mul_(running, keep);
  at::_foreach_add_(running, step);
}

}  // namespace

extern "C" {

// Mean and deviation of x over all but its dimension 1.
int diptych_norm_statistics(Tensor* x, double eps, Tensor** mean, Tensor** deviation) {
  return guarded([&] {
    if (x->is_cuda()) {
      auto [found, inverse] = at::batch_norm_stats(*x, eps);
      *mean = new Tensor(found);
      *deviation = new Tensor(inverse);
      return;
    }
    // Their dtype asks for statistics in full precision where x is bf16.
    auto unused = at::zeros({x->size(1)}, x->options().dtype(at::toOpMathType(x->scalar_type())));
    auto [found, var] = at::batch_norm_update_stats(*x, unused, unused.clone(), /*momentum=*/0.0);
    *mean = new Tensor(found.to(at::kDouble));
    *deviation = new Tensor((var.to(at::kDouble) + eps).rsqrt_());
  });
}

// gamma * (x - mean) * deviation + beta.
int diptych_norm_apply(Tensor* x, Tensor* gamma, Tensor* beta, Tensor* mean, Tensor* deviation, double eps,
                       Tensor** result) {
  return guarded([&] {
    if (x->is_cuda()) {
      *result = new Tensor(at::batch_norm_elemt(*x, *gamma, *beta, *mean, *deviation, eps));
      return;
    }
    const auto dtype = gamma->scalar_type();
    auto results = at::native_batch_norm(*x, *gamma, *beta, mean->to(dtype), variance(*deviation, eps).to(dtype),
                                         /*training=*/false, /*momentum=*/0.0, eps);
    *result = new Tensor(std::get<0>(results));
  });
}

// Over this rank's rows: the sum of g, and of g * (x - mean) * deviation; in the statistics' dtype.
int diptych_norm_sums(Tensor* g, Tensor* x, Tensor* gamma, Tensor* mean, Tensor* deviation, double eps, Tensor** sum,
                      Tensor** dot) {
  return guarded([&] {
    if (x->is_cuda()) {
      auto results = at::batch_norm_backward_reduce(*g, *x, *mean, *deviation, *gamma, /*input_g=*/true,
                                                    /*weight_g=*/true, /*bias_g=*/false);
      *sum = new Tensor(std::get<0>(results));
      *dot = new Tensor(std::get<2>(results).to(deviation->scalar_type()));
      return;
    }
    const auto dtype = gamma->scalar_type();
    auto results = at::native_batch_norm_backward(*g, *x, /*weight=*/{}, mean->to(dtype),
                                                  variance(*deviation, eps).to(dtype), /*save_mean=*/{},
                                                  /*save_invstd=*/{}, /*train=*/false, eps, {false, true, true});
    *sum = new Tensor(std::get<2>(results).to(at::kDouble));
    *dot = new Tensor(std::get<1>(results).to(at::kDouble));
  });
}

// The gradient of x, from the sums over all ranks and the `count` ([1] of int32) of what they are sums of.
int diptych_norm_gradient(Tensor* g, Tensor* x, Tensor* gamma, Tensor* mean, Tensor* deviation, Tensor* sum,
                          Tensor* dot, Tensor* count, Tensor** result) {
  return guarded([&] {
    if (x->is_cuda()) {
      // It takes the sum of g * (x - mean).
      *result = new Tensor(
          at::batch_norm_backward_elemt(*g, *x, *mean, *deviation, *gamma, *sum, *dot / *deviation, *count));
      return;
    }
    const auto scale = *deviation * *gamma;
    const auto slope = (scale * *deviation * (*dot / *count)).neg_();
    const auto shift = (scale * (*sum / *count)).neg_().sub_(slope * *mean);
    const auto dtype = gamma->scalar_type();
    *result = new Tensor(affine_cpu(*g, *x, scale.to(dtype), slope.to(dtype), shift.to(dtype)));
  });
}

// Moves the running statistics of `layers` layers, once, towards the mean over `groups` groups: means and deviations are
// [groups][layers].
int diptych_norm_commit(Tensor* const* running_means, Tensor* const* running_vars, int64_t layers,
                        Tensor* const* means, Tensor* const* deviations, int64_t groups, double keep, double eps) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> mean, var;
    for (int64_t group = 0; group < groups; ++group) {
      auto group_mean = list_of(means + group * layers, layers);
      auto group_var = at::_foreach_pow(list_of(deviations + group * layers, layers), -2);
      at::_foreach_sub_(group_var, eps);
      at::_foreach_clamp_min_(group_var, 0);
      if (group == 0) {
        mean = std::move(group_mean);
        var = std::move(group_var);
      } else {
        mean = at::_foreach_add(mean, group_mean);
        at::_foreach_add_(var, group_var);
      }
    }
    move_towards(list_of(running_means, layers), mean, keep, groups);
    move_towards(list_of(running_vars, layers), var, keep, groups);
  });
}

}  // extern "C"
