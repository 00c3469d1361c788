// NVML on a machine of three devices: 0 and 1 over NVLink, 2 far away and without ECC. Of the options, -DINIT=CODE is
// what nvmlInit answers, -DTOPOLOGY=CODE what nvmlDeviceGetTopologyCommonAncestor does, -DNO_MIG a driver that does not
// know of MIG; the others name a device:
//   LOST       fell off the bus before
//   FALLS      falls off the bus as soon as somebody waits for its events
//   FORBIDDEN  tells this user neither counters nor events
//   XID_ONLY   reports Xids and no ECC errors
//   MIG        is in MIG mode
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#ifndef INIT
#define INIT 0
#endif
#ifndef LOST
#define LOST 9
#endif
#ifndef FALLS
#define FALLS 9
#endif
#ifndef FORBIDDEN
#define FORBIDDEN 9
#endif
#ifndef XID_ONLY
#define XID_ONLY 9
#endif
#ifndef MIG
#define MIG 9
#endif
#ifndef TOPOLOGY
#define TOPOLOGY 0
#endif

enum { INVALID = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4, TIMEOUT = 10, GPU_IS_LOST = 15 };
enum { ECC = 2, XID = 8 };
typedef uint64_t* device;
static uint64_t devices[3] = {0, 1, 2};
static int told = 0;
static int fallen = 0;
// Kinds of events that a set holds, by device.
static unsigned long long heard[3];

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
  return code == 3    ? "Not Supported"
         : code == 4  ? "Insufficient Permissions"
         : code == 9  ? "Driver Not Loaded"
         : code == 15 ? "GPU is lost"
                      : "Unknown Error";
}
int nvmlSystemGetDriverVersion(char* out, unsigned size) { return snprintf(out, size, "580.82.07"), 0; }
int nvmlSystemGetCudaDriverVersion_v2(int* out) { return *out = 13000, 0; }
int nvmlDeviceGetCount_v2(unsigned* out) { return *out = 3, 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device* out) {
  if (index > 2) return INVALID;
  if (index == LOST) return GPU_IS_LOST;
  return *out = &devices[index], 0;
}
int nvmlDeviceGetName(device d, char* out, unsigned size) { return snprintf(out, size, "Fake GPU %d", (int)*d), 0; }
int nvmlDeviceGetUUID(device d, char* out, unsigned size) { return snprintf(out, size, "GPU-fake-%d", (int)*d), 0; }
int nvmlDeviceGetMemoryInfo(device d, memory* out) {
  if (fallen && *d == FALLS) return GPU_IS_LOST;
  *out = (memory){80ull << 30, 60ull << 30, 20ull << 30};
  return 0;
}
int nvmlDeviceGetUtilizationRates(device d, utilization* out) {
  *out = (utilization){90, 40};
  return *d == FORBIDDEN ? NO_PERMISSION : *d == 2 ? NOT_SUPPORTED : 0;
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
  return *d == FORBIDDEN ? NO_PERMISSION : *d == 2 ? NOT_SUPPORTED : 0;
}
#ifndef NO_MIG
int nvmlDeviceGetMigMode(device d, unsigned* current, unsigned* pending) {
  *current = *d == MIG;
  *pending = *d != MIG;
  return *d == 2 ? NOT_SUPPORTED : 0;
}
#endif
int nvmlDeviceGetTopologyCommonAncestor(device a, device b, int* out) { return *out = *a == *b ? 0 : 50, TOPOLOGY; }
int nvmlDeviceGetP2PStatus(device a, device b, int caps, int* out) {
  *out = caps == 2 && *a < 2 && *b < 2 ? 0 : 5;
  return 0;
}
int nvmlEventSetCreate(void** out) {
  memset(heard, 0, sizeof heard);
  return *out = &told, 0;
}
int nvmlEventSetFree(void* set) { return set == &told ? 0 : INVALID; }
int nvmlDeviceRegisterEvents(device d, unsigned long long kinds, void* set) {
  if (set != &told || (kinds != XID && kinds != (ECC | XID))) return INVALID;
  if (fallen && *d == FALLS) return GPU_IS_LOST;
  if (*d == FORBIDDEN) return NO_PERMISSION;
  if (*d == 2 || (*d == XID_ONLY && kinds != XID)) return NOT_SUPPORTED;
  return heard[*d] = kinds, 0;
}
int nvmlEventSetWait_v2(void* set, event* out, unsigned millis) {
  for (int i = 0; i < 3; ++i) {
    // As long as the set holds it, it answers nothing else.
    if (i == FALLS && heard[i]) return fallen = 1, GPU_IS_LOST;
  }
  while (told < 2) {
    event next = told++ == 0 ? (event){&devices[1], XID, 79, {0, 0}} : (event){&devices[0], ECC, 0, {0, 0}};
    if (heard[*next.from] & next.kind) return *out = next, 0;
  }
  return TIMEOUT;
}
