// What the files of the shim share.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <exception>
#include <string>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define DIPTYCH_CLONES __attribute__((target_clones("avx512f", "arch=haswell", "default")))
#else
#define DIPTYCH_CLONES
#endif

namespace diptych {

// Why the last failed call on this thread failed.
std::string& last_error();

// Runs `body`; 0, or 1 with the reason in last_error().
template <class F>
int guarded(F&& body) noexcept {
  try {
    body();
    return 0;
  } catch (const c10::Error& error) {
    last_error() = error.what_without_backtrace();
  } catch (const std::exception& error) {
    last_error() = error.what();
  } catch (...) {
    last_error() = "unknown C++ exception";
  }
  return 1;
}

// The tensors, without a graph.
inline std::vector<at::Tensor> list_of(at::Tensor* const* tensors, int64_t count) {
  std::vector<at::Tensor> list;
  for (int64_t i = 0; i < count; ++i) list.push_back(tensors[i]->detach());
  return list;
}

}  // namespace diptych
