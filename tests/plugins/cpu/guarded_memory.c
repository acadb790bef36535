// Memory behind which there is none, to be preloaded: an allocation ends, but for what alignment takes, where a page begins that may
// not be read. So reading beyond it ends the process. For what is allocated while `guard_memory(1)` holds.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, SMALLEST = 512, ALIGNMENT = 64 };

struct Header {  // of an allocation, in the page before it
  size_t size, pages;
};

static const size_t ROOM = (size_t)1 << 40;
static int on;
static char *base, *next;
static void *(*own_malloc)(size_t), *(*own_realloc)(void *, size_t), *(*own_aligned)(size_t, size_t);
static void (*own_free)(void *);

static void begin(void) {
  if (own_free) return;
  own_malloc = dlsym(RTLD_NEXT, "malloc"), own_realloc = dlsym(RTLD_NEXT, "realloc");
  own_aligned = dlsym(RTLD_NEXT, "aligned_alloc");
  base = next = mmap(0, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  own_free = dlsym(RTLD_NEXT, "free");
}

void guard_memory(int wanted) { on = wanted; }

static int guarded(void *p) { return (char *)p >= base && (char *)p < base + ROOM; }

static struct Header *header(void *p) { return (struct Header *)(((uintptr_t)p & -(uintptr_t)PAGE) - PAGE); }

static void *make(size_t size, size_t alignment) {
  if (alignment < ALIGNMENT) alignment = ALIGNMENT;
  const size_t room = (size + alignment - 1) / alignment * alignment, pages = (room + PAGE - 1) / PAGE * PAGE;
  char *at = __atomic_fetch_add(&next, pages + 2 * PAGE, __ATOMIC_SEQ_CST);
  if (at + pages + 2 * PAGE > base + ROOM || mprotect(at, PAGE + pages, PROT_READ | PROT_WRITE)) return NULL;
  *(struct Header *)at = (struct Header){size, pages};
  return at + PAGE + pages - room;
}

void *aligned_alloc(size_t alignment, size_t size) {
  begin();
  return on && size >= SMALLEST && alignment <= PAGE ? make(size, alignment) : own_aligned(alignment, size);
}

void *malloc(size_t size) {
  begin();
  return on && size >= SMALLEST ? make(size, ALIGNMENT) : own_malloc(size);
}

int posix_memalign(void **p, size_t alignment, size_t size) {
  *p = aligned_alloc(alignment, size);
  return *p ? 0 : 12;  // ENOMEM
}

void free(void *p) {
  begin();
  if (!guarded(p)) {
    own_free(p);
    return;
  }
  const size_t size = PAGE + header(p)->pages;
  char *at = (char *)header(p);
  madvise(at, size, MADV_DONTNEED);
  mprotect(at, size, PROT_NONE);
}

void *realloc(void *p, size_t size) {
  begin();
  if (!guarded(p)) return own_realloc(p, size);
  void *to = malloc(size);
  if (!to) return NULL;
  memcpy(to, p, size < header(p)->size ? size : header(p)->size);
  free(p);
  return to;
}
