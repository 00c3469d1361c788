// NVML on a machine of three devices: 0 and 1 over NVLink, 2 far away and without ECC. -DINIT=CODE is what
// nvmlInit answers; -DLOST=N is a device that fell off the bus.
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef LOST
#define LOST 9
#endif

enum { NOT_SUPPORTED = 3, TIMEOUT = 10 };
typedef uint64_t* device;
static uint64_t devices[3] = {0, 1, 2};
static int told = 0;

typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct {
  char legacy[16];
  unsigned domain, bus, device, ids[2];
  char bus_id[32];
} pci;
typedef struct {
  device from;
  unsigned long long kind, data;
  unsigned instances[2];
} event;

int nvmlInit_v2(void) { return INIT; }
int nvmlShutdown(void) { return 0; }
const char* nvmlErrorString(int code) {
  return code == 9 ? "Driver Not Loaded" : code == 15 ? "GPU is lost" : "Unknown Error";
}
int nvmlSystemGetDriverVersion(char* out, unsigned size) { return snprintf(out, size, "580.82.07"), 0; }
int nvmlSystemGetCudaDriverVersion_v2(int* out) { return *out = 13000, 0; }
int nvmlDeviceGetCount_v2(unsigned* out) { return *out = 3, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device* out) {
  if (index > 2) return 2;
  if (index == LOST) return 15;
  return *out = &devices[index], 0;
}
int nvmlDeviceGetName(device d, char* out, unsigned size) { return snprintf(out, size, "Fake GPU %d", (int)*d), 0; }
int nvmlDeviceGetUUID(device d, char* out, unsigned size) { return snprintf(out, size, "GPU-fake-%d", (int)*d), 0; }
int nvmlDeviceGetMemoryInfo(device d, memory* out) {
  *out = (memory){80ull << 30, 60ull << 30, 20ull << 30};
  return 0;
}
int nvmlDeviceGetUtilizationRates(device d, utilization* out) {
  *out = (utilization){90, 40};
  return *d == 2 ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetPciInfo_v3(device d, pci* out) {
  memset(out, 0, sizeof *out);
  out->domain = 0xffff;
  out->bus = 0xf0 + (unsigned)*d;
  snprintf(out->bus_id, sizeof out->bus_id, "0000FFFF:%02X:00.0", out->bus);
  return 0;
}
int nvmlDeviceGetCudaComputeCapability(device d, int* major, int* minor) { return *major = 9, *minor = 0, 0; }
int nvmlDeviceGetTotalEccErrors(device d, int type, int counter, unsigned long long* out) {
  *out = type == 1 && counter == 0 ? 7 : 0;
  return *d == 2 ? NOT_SUPPORTED : 0;
}
int nvmlDeviceGetTopologyCommonAncestor(device a, device b, int* out) { return *out = *a == *b ? 0 : 50, 0; }
int nvmlDeviceGetP2PStatus(device a, device b, int caps, int* out) {
  *out = caps == 2 && *a < 2 && *b < 2 ? 0 : 5;
  return 0;
}
int nvmlEventSetCreate(void** out) { return *out = &told, 0; }
int nvmlEventSetFree(void* set) { return set == &told ? 0 : 2; }
int nvmlDeviceRegisterEvents(device d, unsigned long long kinds, void* set) {
  return *d == 2 ? NOT_SUPPORTED : kinds == 10 && set == &told ? 0 : 2;
}
int nvmlEventSetWait_v2(void* set, event* out, unsigned millis) {
  if (told == 2) return TIMEOUT;
  if (told++ == 0) {
    *out = (event){&devices[1], 8, 79, {0, 0}};
  } else {
    *out = (event){&devices[0], 2, 0, {0, 0}};
  }
  return 0;
}
