// Optimiser steps over all parameters at once, behind the contract of shim.cc.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "shim.h"

namespace {

using at::Tensor;
using diptych::guarded;
using diptych::list_of;

// Adds the sums of squares of w[i] and of D(i) to sums, in eight independent double lanes so that they vectorise.
#define DIPTYCH_SQUARES(D)                                                                                        \
  double weight[8] = {0}, step[8] = {0};                                                                          \
  int64_t i = begin;                                                                                              \
  for (; i + 8 <= end; i += 8) {                                                                                  \
    for (int k = 0; k < 8; ++k) {                                                                                 \
      const double d = D(i + k), x = w[i + k];                                                                    \
      weight[k] += x * x;                                                                                         \
      step[k] += d * d;                                                                                           \
    }                                                                                                             \
  }                                                                                                               \
  for (; i < end; ++i) {                                                                                          \
    const double d = D(i), x = w[i];                                                                              \
    weight[0] += x * x;                                                                                           \
    step[0] += d * d;                                                                                             \
  }                                                                                                               \
  for (int k = 0; k < 8; ++k) {                                                                                   \
    sums[0] += weight[k];                                                                                         \
    sums[1] += step[k];                                                                                           \
  }

// Of w and of g + decay * w.
#define DIPTYCH_DECAYED(i) (g[i] + decay * static_cast<double>(w[i]))
#define DIPTYCH_NORMS(NAME, T)                                                                                    \
  DIPTYCH_CLONES void NAME(const T* w, const T* g, int64_t begin, int64_t end, double decay, double* sums) {      \
    DIPTYCH_SQUARES(DIPTYCH_DECAYED)                                                                              \
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

// v = momentum * v + g + decay * w; of w and of the new v.
#define DIPTYCH_ADDED(i) (v[i] = momentum * v[i] + (g[i] + decay * w[i]))
#define DIPTYCH_VELOCITY(NAME, T)                                                                                 \
  DIPTYCH_CLONES void NAME(const T* __restrict w, const T* __restrict g, T* __restrict v, int64_t begin,          \
                           int64_t end, T decay, T momentum, double* sums) {                                      \
    DIPTYCH_SQUARES(DIPTYCH_ADDED)                                                                                \
  }
DIPTYCH_VELOCITY(velocity_f32, float)
DIPTYCH_VELOCITY(velocity_f64, double)

// w -= rate * v.
#define DIPTYCH_DESCEND(NAME, T)                                                                                  \
  DIPTYCH_CLONES void NAME(T* __restrict w, const T* __restrict v, int64_t begin, int64_t end, T rate) {          \
    for (int64_t i = begin; i < end; ++i) w[i] -= rate * v[i];                                                    \
  }
DIPTYCH_DESCEND(descend_f32, float)
DIPTYCH_DESCEND(descend_f64, double)

constexpr int64_t GRAIN = 1 << 16;

// What momentum adds up; the numbers are those of the Rust side.
enum Momentum { CLASSIC = 0, NESTEROV = 1, POPULAR = 2 };

// What one step of momentum depends on beside its tensors.
struct StepNumbers {
  double rate, momentum, trust_coefficient;
  int kind;
};

// Sums of fixed chunks, added in order: the same bits for any number of threads.
template <class F>
std::array<double, 2> chunked(int64_t n, F&& chunk) {
  const int64_t chunks = (n + GRAIN - 1) / GRAIN;
  std::vector<std::array<double, 2>> sums(chunks, {0.0, 0.0});
  at::parallel_for(0, chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) chunk(c * GRAIN, std::min(n, (c + 1) * GRAIN), sums[c].data());
  });
  std::array<double, 2> total = {0.0, 0.0};
  for (const auto& sum : sums) {
    total[0] += sum[0];
    total[1] += sum[1];
  }
  return total;
}

double trust_of(const std::array<double, 2>& squares, double coefficient) {
  if (squares[0] > 0 && squares[1] > 0) return coefficient * std::sqrt(squares[0]) / std::sqrt(squares[1]);
  return 1.0;
}

template <class T, class Velocity, class Descend>
double popular_cpu(Velocity velocity, Descend descend, const Tensor& w, const Tensor& g, const Tensor& v, double decay,
                   bool adapt, const StepNumbers& numbers) {
  T* wp = w.mutable_data_ptr<T>();
  const T* gp = g.const_data_ptr<T>();
  T* vp = v.mutable_data_ptr<T>();
  const int64_t n = w.numel();
  const auto squares = chunked(n, [&](int64_t begin, int64_t end, double* sums) {
    velocity(wp, gp, vp, begin, end, static_cast<T>(decay), static_cast<T>(numbers.momentum), sums);
  });
  const double trust = adapt ? trust_of(squares, numbers.trust_coefficient) : 1.0;
  at::parallel_for(0, n, GRAIN, [&](int64_t begin, int64_t end) {
    descend(wp, vp, begin, end, static_cast<T>(numbers.rate * trust));
  });
  return trust;
}

template <class T, class Norms, class Update>
double step_cpu(Norms norms, Update update, const Tensor& w, const Tensor& g, const Tensor& v, double decay, bool adapt,
                const StepNumbers& numbers) {
  T* wp = w.mutable_data_ptr<T>();
  const T* gp = g.const_data_ptr<T>();
  T* vp = v.mutable_data_ptr<T>();
  const int64_t n = w.numel();
  double trust = 1.0;
  if (adapt) {
    const auto squares = chunked(
        n, [&](int64_t begin, int64_t end, double* sums) { norms(wp, gp, begin, end, decay, sums); });
    trust = trust_of(squares, numbers.trust_coefficient);
  }
  at::parallel_for(0, n, GRAIN, [&](int64_t begin, int64_t end) {
    update(wp, gp, vp, begin, end, static_cast<T>(decay), static_cast<T>(numbers.rate * trust),
           static_cast<T>(numbers.momentum), numbers.kind == NESTEROV);
  });
  return trust;
}

// The same update for any device in a few launches for all tensors (but one for each where the trust ratio is applied),
// without a wait of the host.
Tensor step_foreach(const std::vector<Tensor>& w, const std::vector<Tensor>& g, const std::vector<Tensor>& v,
                    const double* decay, const uint8_t* adapt, const StepNumbers& numbers) {
  std::vector<at::Scalar> decays(decay, decay + w.size());
  auto step = at::_foreach_mul(w, decays);
  at::_foreach_add_(step, g);
  if (numbers.kind == POPULAR) {
    at::_foreach_mul_(v, numbers.momentum);
    at::_foreach_add_(v, step);
    step = at::_foreach_mul(v, 1.0);
  }
  auto weight_norm = at::stack(at::_foreach_norm(w)), step_norm = at::stack(at::_foreach_norm(step));
  std::vector<double> flags(adapt, adapt + w.size());
  auto adapted = at::tensor(flags, weight_norm.options().device(at::kCPU)).to(weight_norm.device(), /*non_blocking=*/true);
  auto usable = (adapted > 0).logical_and(weight_norm > 0).logical_and(step_norm > 0);
  auto trust = at::where(usable, numbers.trust_coefficient * weight_norm / step_norm, at::ones_like(weight_norm));
  at::_foreach_mul_(step, (trust * numbers.rate).unbind());
  if (numbers.kind == POPULAR) {
    at::_foreach_sub_(w, step);
    return trust.to(at::kDouble);
  }
  at::_foreach_mul_(v, numbers.momentum);
  at::_foreach_add_(v, step);
  if (numbers.kind == NESTEROV) {
    at::_foreach_add_(step, v, numbers.momentum);
    at::_foreach_sub_(w, step);
  } else {
    at::_foreach_sub_(w, v);
  }
  return trust.to(at::kDouble);
}

}  // namespace

extern "C" {

int diptych_zero(Tensor* const* tensors, int64_t count) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    at::_foreach_zero_(list_of(tensors, count));
  });
}

// Whether all values of at least one tensor are finite, as a bool of their device; the host does not wait.
int diptych_all_finite(Tensor* const* tensors, int64_t count, Tensor** result) {
  return guarded([&] {
    const auto list = list_of(tensors, count);
    if (list[0].is_cuda()) {
      // A sum of magnitudes that overflows is no gradient to step by either.
      *result = new Tensor(at::stack(at::_foreach_norm(list, 1)).isfinite().all());
      return;
    }
    // One pass over memory: a NaN wins both the minimum and the maximum.
    std::vector<Tensor> bounds;
    for (const auto& tensor : list) {
      auto [least, most] = at::aminmax(tensor);
      bounds.push_back(least);
      bounds.push_back(most);
    }
    *result = new Tensor(at::stack(bounds).isfinite().all());
  });
}

// One step over `count` tensors; *trust is a new tensor of their trust ratios (f64).
int diptych_step(Tensor* const* weights, Tensor* const* gradients, Tensor* const* velocities, const double* decay,
                 const uint8_t* adapt, int64_t count, double rate, double momentum, double trust_coefficient, int kind,
                 int foreach, Tensor** trust) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    const StepNumbers numbers = {rate, momentum, trust_coefficient, kind};
    TORCH_CHECK(kind == CLASSIC || kind == NESTEROV || kind == POPULAR, "optimiser: kind of momentum ", kind);
    std::vector<Tensor> w, g, v;
    bool fused = foreach == 0;
    for (int64_t i = 0; i < count; ++i) {
      w.push_back(weights[i]->detach());
      g.push_back(gradients[i]->detach());
      v.push_back(velocities[i]->detach());
      TORCH_CHECK(w[i].sizes() == g[i].sizes() && w[i].sizes() == v[i].sizes(), "optimiser: shapes differ");
      const auto dtype = w[i].scalar_type();
      TORCH_CHECK(dtype == g[i].scalar_type() && dtype == v[i].scalar_type(), "optimiser: dtypes differ");
      fused = fused && w[i].is_cpu() && (dtype == at::kFloat || dtype == at::kDouble) &&
              w[i].is_non_overlapping_and_dense() && w[i].strides() == g[i].strides() && w[i].strides() == v[i].strides();
    }
    if (!fused) {
      *trust = new Tensor(step_foreach(w, g, v, decay, adapt, numbers));
      return;
    }
    auto ratios = at::ones({count}, at::kDouble);
    double* ratio = ratios.mutable_data_ptr<double>();
    for (int64_t i = 0; i < count; ++i) {
      const bool single = w[i].scalar_type() == at::kFloat, adapts = adapt[i] != 0;
      if (kind == POPULAR) {
        ratio[i] = single ? popular_cpu<float>(velocity_f32, descend_f32, w[i], g[i], v[i], decay[i], adapts, numbers)
                          : popular_cpu<double>(velocity_f64, descend_f64, w[i], g[i], v[i], decay[i], adapts, numbers);
      } else {
        ratio[i] = single ? step_cpu<float>(norms_f32, update_f32, w[i], g[i], v[i], decay[i], adapts, numbers)
                          : step_cpu<double>(norms_f64, update_f64, w[i], g[i], v[i], decay[i], adapts, numbers);
      }
    }
    *trust = new Tensor(ratios);
  });
}

// Step `step` (from 1) of AdamW over `count` tensors that share their decay.
int diptych_adamw(Tensor* const* weights, Tensor* const* gradients, Tensor* const* means, Tensor* const* squares,
                  int64_t count, double rate, double beta1, double beta2, double epsilon, double decay, double step) {
  return guarded([&] {
    at::NoGradGuard no_grad;
    std::vector<Tensor> w, g, m, s, steps;
    for (int64_t i = 0; i < count; ++i) {
      w.push_back(weights[i]->detach());
      for (const auto& [list, from] : {std::pair{&g, gradients}, std::pair{&m, means}, std::pair{&s, squares}}) {
        list->push_back(from[i]->detach());
        // The fused kernels walk over memory, whatever its order.
        TORCH_CHECK(w[i].sizes() == list->back().sizes() && w[i].strides() == list->back().strides() &&
                        w[i].scalar_type() == list->back().scalar_type() && w[i].is_non_overlapping_and_dense(),
                    "optimiser: shapes, layouts or dtypes differ");
      }
      steps.push_back(i == 0 ? at::full({}, step, w[0].options().dtype(at::kFloat)) : steps[0]);
    }
    if (count > 0) {
      at::_fused_adamw_(w, g, m, s, {}, steps, rate, beta1, beta2, decay, epsilon, /*amsgrad=*/false,
                        /*maximize=*/false);
    }
  });
}

}  // extern "C"
