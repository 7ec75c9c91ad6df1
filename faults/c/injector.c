/* Injector: loaded before libc (LD_PRELOAD), it makes calls on files below $INJECT_ROOT fail or wait, steered at run time
 * by another process through a small shared file ($INJECT_CONTROL): int32 { mask, errno, skip, left, hits, wait_ms }.
 * A call whose bit is in the mask is let through `skip` times, then hit `left` times (-1: for ever): it waits, then
 * fails with errno (0: it only waits). No root, no tracing, full speed while the mask is 0.
 *
 * bits: 1 write  2 sync  4 truncate, allocate  8 open with O_CREAT  16 rename, unlink  32 read  64 half a write
 * cc -O2 -shared -fPIC -o injector.so injector.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { WRITE = 1, SYNC = 2, SIZE = 4, MAKE = 8, NAME = 16, READ = 32, HALF = 64 };
struct control { int mask, error, skip, left, hits, wait_ms; };
static volatile struct control *control;
static const char *root;
static size_t root_bytes;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("INJECT_CONTROL");
  root = getenv("INJECT_ROOT");
  if (!path || !root) return;
  root_bytes = strlen(root);
  int fd = open(path, O_RDWR);
  if (fd < 0) return;
  void *map = mmap(NULL, sizeof(struct control), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (map != MAP_FAILED) control = map;
}

static int below_root(int fd) {
  char link[32], path[512];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t n = readlink(link, path, sizeof path - 1);
  return n > 0 && (size_t)n >= root_bytes && !strncmp(path, root, root_bytes);
}

static int hit(int bit) {
  if (!control || !(control->mask & bit)) return 0;
  if (__sync_fetch_and_sub(&control->skip, 1) > 0) return 0;
  control->skip = 0;
  if (!control->left) return 0;
  if (control->left > 0) __sync_fetch_and_sub(&control->left, 1);
  __sync_fetch_and_add(&control->hits, 1);
  for (int waited = 0; control->mask & bit && waited < control->wait_ms; waited += 10) {
    struct timespec ten_ms = { 0, 10000000 };
    nanosleep(&ten_ms, NULL);
  }
  errno = control->error;
  return control->error != 0 || bit == HALF;
}
#define FD(fd, bit) (control && (control->mask & (bit)) && below_root(fd) && hit(bit))
#define PATH(path, bit) (control && (control->mask & (bit)) && !strncmp(path, root, root_bytes) && hit(bit))
#define NEXT(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)

#define PWRITE(f) ssize_t f(int fd, const void *data, size_t n, off_t at) { NEXT(ssize_t, #f, int, const void *, size_t, off_t); \
  if (FD(fd, WRITE)) return -1; return next(fd, data, n > 1 && FD(fd, HALF) ? n / 2 : n, at); }
PWRITE(pwrite) PWRITE(pwrite64)
ssize_t write(int fd, const void *data, size_t n) { NEXT(ssize_t, "write", int, const void *, size_t); if (FD(fd, WRITE)) return -1; return next(fd, data, n > 1 && FD(fd, HALF) ? n / 2 : n); }
#define PREAD(f) ssize_t f(int fd, void *data, size_t n, off_t at) { NEXT(ssize_t, #f, int, void *, size_t, off_t); return FD(fd, READ) ? -1 : next(fd, data, n, at); }
PREAD(pread) PREAD(pread64)
ssize_t read(int fd, void *data, size_t n) { NEXT(ssize_t, "read", int, void *, size_t); return FD(fd, READ) ? -1 : next(fd, data, n); }
#define FLUSH(f) int f(int fd) { NEXT(int, #f, int); return FD(fd, SYNC) ? -1 : next(fd); }
FLUSH(fsync) FLUSH(fdatasync)
#define TRUNCATE(f) int f(int fd, off_t n) { NEXT(int, #f, int, off_t); return FD(fd, SIZE) ? -1 : next(fd, n); }
TRUNCATE(ftruncate) TRUNCATE(ftruncate64)
#define ALLOCATE(f) int f(int fd, off_t at, off_t n) { NEXT(int, #f, int, off_t, off_t); return FD(fd, SIZE) ? errno : next(fd, at, n); }
ALLOCATE(posix_fallocate) ALLOCATE(posix_fallocate64)
#define OPEN(f) int f(const char *path, int flags, ...) { NEXT(int, #f, const char *, int, ...); mode_t mode = 0; \
  if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); if (PATH(path, MAKE)) return -1; } return next(path, flags, mode); }
OPEN(open) OPEN(open64)
int rename(const char *a, const char *b) { NEXT(int, "rename", const char *, const char *); return PATH(a, NAME) ? -1 : next(a, b); }
int unlink(const char *a) { NEXT(int, "unlink", const char *); return PATH(a, NAME) ? -1 : next(a); }
