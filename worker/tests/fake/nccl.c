// NCCL on host memory, for ranks that are threads of one process. As the real one with `blocking = 0`: making a
// communicator and queueing an operation never wait, operations run on their stream (a thread), an abort from any
// thread frees what hangs. -DVERSION=CODE is its version; -DOLD leaves out what old versions lack.
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifndef VERSION
#define VERSION 22809
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 4, IN_PROGRESS = 7 };
enum { MOST_RANKS = 16 };

typedef struct { char bytes[128]; } id_t_;

// The ranks that meet at one id, and the operation that they are in.
typedef struct group {
  id_t_ id;
  int world, met, arrived, left, round;
  int aborted;
  const void* from[MOST_RANKS];
  // What each rank is doing: `count`, type, kind and root.
  size_t what[MOST_RANKS][4];
  pthread_cond_t changed;
  struct group* next;
} group;

typedef struct comm {
  group* with;
  int rank, ended;
  // That of the thread that made it, and the operations that the device is in for it.
  int device, running;
  struct comm* next;
} comm;

typedef struct op {
  comm* on;
  const void* from;
  void* to;
  size_t count;
  int type, kind, root;
  struct op* next;
} op;

typedef struct {
  op *first, *last;
  int running, closed;
  pthread_cond_t changed;
} stream;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t rested = PTHREAD_COND_INITIALIZER;
static group* groups;
static unsigned ids;
static comm* comms;
static int devices;
static _Thread_local int device;
// What a thread ends together.
static _Thread_local int grouped, ending;
static _Thread_local comm* ends[4];

int ncclGetVersion(int* version) { return *version = VERSION, SUCCESS; }
const char* ncclGetErrorString(int code) { return code == INVALID_ARGUMENT ? "invalid argument" : "unhandled error"; }
const char* ncclGetLastError(void* on) { return ""; }

int ncclGetUniqueId(id_t_* id) {
  pthread_mutex_lock(&lock);
  memset(id, 7, sizeof *id);
  memcpy(id->bytes, &ids, sizeof ids);
  ids++;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}

static group* group_of(id_t_ id, int world) {
  for (group* g = groups; g; g = g->next)
    if (!memcmp(&g->id, &id, sizeof id)) return g;
  group* g = calloc(1, sizeof *g);
  g->id = id;
  g->world = world;
  pthread_cond_init(&g->changed, NULL);
  g->next = groups;
  return groups = g;
}

static int init(comm** out, int world, id_t_ id, int rank, const int* config) {
  // size, magic, version, blocking
  if (world > MOST_RANKS || rank >= world || config[2] != (int)0xcafebeef || config[4] != 0) return INVALID_ARGUMENT;
  pthread_mutex_lock(&lock);
  comm* c = calloc(1, sizeof *c);
  c->with = group_of(id, world);
  c->rank = rank;
  c->with->met++;
  if (!device) device = ++devices;
  c->device = device;
  c->next = comms;
  comms = c;
  pthread_mutex_unlock(&lock);
  *out = c;
  return IN_PROGRESS;
}

int ncclCommGetAsyncError(comm* c, int* code) {
  pthread_mutex_lock(&lock);
  *code = c->with->met < c->with->world ? IN_PROGRESS : SUCCESS;
  pthread_mutex_unlock(&lock);
  return SUCCESS;
}

static int busy(int device) {
  for (const comm* c = comms; c; c = c->next)
    if (c->device == device && c->running) return 1;
  return 0;
}

int ncclGroupStart(void) { return grouped++, SUCCESS; }

// As the real one, which frees memory of the device: it waits for the device to come to rest.
int ncclGroupEnd(void) {
  if (--grouped) return SUCCESS;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < ending; i++)
    while (busy(ends[i]->device)) pthread_cond_wait(&rested, &lock);
  pthread_mutex_unlock(&lock);
  return ending = 0, SUCCESS;
}

// Only this rank's part ends: others hang until they are aborted themselves, as on real devices.
int ncclCommAbort(comm* c) {
  ncclGroupStart();
  pthread_mutex_lock(&lock);
  c->ended = 1;
  pthread_cond_broadcast(&c->with->changed);
  pthread_mutex_unlock(&lock);
  if (ending < 4) ends[ending++] = c;
  return ncclGroupEnd();
}

int ncclCommDestroy(comm* c) { return ncclCommAbort(c); }

#ifndef OLD
int ncclCommInitRankConfig(comm** out, int world, id_t_ id, int rank, void* config) {
  return init(out, world, id, rank, config);
}
int ncclCommFinalize(comm* c) { return SUCCESS; }
#else
int ncclCommInitRank(comm** out, int world, id_t_ id, int rank) {
  static const int config[12] = {48, 0, (int)0xcafebeef, VERSION, 0};
  return init(out, world, id, rank, config);
}
#endif

static void add(int type, void* into, const void* from, size_t count) {
  for (size_t i = 0; i < count; i++) switch (type) {
      case 4: ((uint64_t*)into)[i] += ((const uint64_t*)from)[i]; break;
      case 7: ((float*)into)[i] += ((const float*)from)[i]; break;
      case 8: ((double*)into)[i] += ((const double*)from)[i]; break;
    }
}

static size_t size_of(int type) { return type == 1 ? 1 : type == 9 ? 2 : type == 7 ? 4 : 8; }

// Waits for the others; 0 if this rank was aborted meanwhile. Called with the lock held.
static int meet(comm* c, int* count) {
  group* g = c->with;
  int round = g->round;
  if (++*count == g->world) {
    *count = 0;
    g->round++;
    pthread_cond_broadcast(&g->changed);
  }
  while (g->round == round && !c->ended) pthread_cond_wait(&g->changed, &lock);
  return !c->ended;
}

// Whether all ranks do the same; the real one hangs or worse where they do not.
static int alike(const group* g) {
  for (int r = 1; r < g->world; r++)
    if (memcmp(g->what[0], g->what[r], sizeof g->what[0])) return 0;
  return 1;
}

static void run(op* o) {
  comm* c = o->on;
  group* g = c->with;
  size_t bytes = o->count * size_of(o->type);
  char* copy = malloc(bytes);
  memcpy(copy, o->from, bytes);
  pthread_mutex_lock(&lock);
  c->running++;
  g->from[c->rank] = copy;
  const size_t what[4] = {o->count, (size_t)o->type, (size_t)o->kind, (size_t)o->root};
  memcpy(g->what[c->rank], what, sizeof what);
  int met = !c->ended && meet(c, &g->arrived);
  if (met && !alike(g)) {
    while (!c->ended) pthread_cond_wait(&g->changed, &lock);
  } else if (met) {
    if (o->kind == 'g') {
      for (int r = 0; r < g->world; r++) memcpy((char*)o->to + r * bytes, g->from[r], bytes);
    } else if (o->kind == 'b') {
      memcpy(o->to, g->from[o->root], bytes);
    } else {
      memcpy(o->to, g->from[0], bytes);
      for (int r = 1; r < g->world; r++) add(o->type, o->to, g->from[r], o->count);
    }
    // Nobody frees what others still read.
    if (meet(c, &g->left)) free(copy);
  }
  c->running--;
  pthread_cond_broadcast(&rested);
  pthread_mutex_unlock(&lock);
}

static void* work(void* on) {
  stream* s = on;
  for (;;) {
    pthread_mutex_lock(&lock);
    while (!s->first && !s->closed) pthread_cond_wait(&s->changed, &lock);
    op* o = s->first;
    if (!o) {
      pthread_mutex_unlock(&lock);
      free(s);
      return NULL;
    }
    s->first = o->next;
    s->running = 1;
    pthread_mutex_unlock(&lock);
    run(o);
    free(o);
    pthread_mutex_lock(&lock);
    s->running = 0;
    pthread_mutex_unlock(&lock);
  }
}

void* fake_stream_new(void) {
  stream* s = calloc(1, sizeof *s);
  pthread_cond_init(&s->changed, NULL);
  pthread_t thread;
  pthread_create(&thread, NULL, work, s);
  pthread_detach(thread);
  return s;
}

void fake_stream_free(stream* s) {
  pthread_mutex_lock(&lock);
  s->closed = 1;
  pthread_cond_signal(&s->changed);
  pthread_mutex_unlock(&lock);
}

int fake_stream_idle(stream* s) {
  pthread_mutex_lock(&lock);
  int idle = !s->first && !s->running;
  pthread_mutex_unlock(&lock);
  return idle;
}

static int queue(stream* s, op what) {
  op* o = malloc(sizeof *o);
  *o = what;
  pthread_mutex_lock(&lock);
  if (s->first) {
    s->last->next = o;
  } else {
    s->first = o;
  }
  s->last = o;
  pthread_cond_signal(&s->changed);
  pthread_mutex_unlock(&lock);
  return IN_PROGRESS;
}

int ncclAllReduce(const void* from, void* to, size_t count, int type, int kind, comm* on, stream* s) {
  if (kind != 0 || (type != 4 && type != 7 && type != 8)) return INVALID_ARGUMENT;
  return queue(s, (op){on, from, to, count, type, 'r', 0, NULL});
}

int ncclAllGather(const void* from, void* to, size_t count, int type, comm* on, stream* s) {
  return queue(s, (op){on, from, to, count, type, 'g', 0, NULL});
}

int ncclBroadcast(const void* from, void* to, size_t count, int type, int root, comm* on, stream* s) {
  return queue(s, (op){on, from, to, count, type, 'b', root, NULL});
}
