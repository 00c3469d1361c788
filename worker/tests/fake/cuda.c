// A CUDA driver of two devices. -DINIT=CODE is what cuInit answers.
#include <stddef.h>

int cuInit(unsigned flags) { return flags == 0 ? INIT : 1; }
int cuDriverGetVersion(int* version) { return *version = 13010, 0; }
int cuDeviceGetCount(int* count) { return *count = 2, 0; }
int cuGetErrorName(int code, const char** text) {
  *text = code == 100 ? "CUDA_ERROR_NO_DEVICE" : NULL;
  return *text ? 0 : 1;
}
int cuGetErrorString(int code, const char** text) {
  *text = code == 100 ? "no CUDA-capable device is detected" : NULL;
  return *text ? 0 : 1;
}
