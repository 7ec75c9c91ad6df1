/* Recorder: loaded before libc (LD_PRELOAD), it writes down in one total order what a process does to files below
 * $RECORD_ROOT (made, written, cut, synced, renamed, removed) and the beginning of everything it sends to a socket.
 * `faults/images.py` replays the record into disks as a power cut could leave them. No root needed.
 *
 * A change is noted after it was made and a sync when it begins and when it has ended; an answer is noted before it is
 * sent. Every doubt is so decided against the program under test.
 *
 * cc -O2 -shared -fPIC -o recorder.so recorder.c -ldl -lpthread */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MADE = 1, WRITTEN, CUT, SYNC_BEGAN, SYNC_ENDED, RENAMED, REMOVED, FOLDER, SENT, SYNC_FAILED };
struct entry { uint32_t magic, kind; uint64_t number; int64_t offset; uint32_t path_bytes, data_bytes; };

#define MAGIC 0x48464c4fu
#define FDS 65536
static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int out = -1;
static uint64_t number;
static char root[PATH_MAX];
static size_t root_bytes;
static char *paths[FDS];

#define NEXT(type, name, ...) static type (*next)(__VA_ARGS__); if (!next) next = dlsym(RTLD_NEXT, name)

__attribute__((constructor)) static void begin(void) {
  const char *r = getenv("RECORD_ROOT"), *o = getenv("RECORD_TO");
  if (!r || !o || !realpath(r, root)) return;
  root_bytes = strlen(root);
  int fd = syscall(SYS_openat, AT_FDCWD, o, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
  out = fcntl(fd, F_DUPFD_CLOEXEC, 900);
  syscall(SYS_close, fd);
}

static uint64_t note(uint32_t kind, const char *path, int64_t offset, const void *data, size_t n) {
  int kept = errno;
  struct entry e = { MAGIC, kind, 0, offset, (uint32_t)strlen(path), (uint32_t)n };
  struct iovec parts[3] = { { &e, sizeof e }, { (void *)path, e.path_bytes }, { (void *)data, n } };
  pthread_mutex_lock(&order);
  e.number = ++number;
  if (syscall(SYS_writev, out, parts, 3) < 0) abort();
  uint64_t mine = number;
  pthread_mutex_unlock(&order);
  errno = kept;
  return mine;
}

static int ours(const char *path, char *whole) {
  if (out < 0 || !path) return 0;
  char cwd[PATH_MAX / 2] = "";
  if (path[0] != '/' && !getcwd(cwd, sizeof cwd)) return 0;
  if (snprintf(whole, PATH_MAX, "%s%s%s", cwd, *cwd ? "/" : "", path) >= PATH_MAX) return 0;
  return !strncmp(whole, root, root_bytes) && (whole[root_bytes] == '/' || !whole[root_bytes]);
}

static const char *path_of(int fd) { return out >= 0 && fd >= 0 && fd < FDS ? paths[fd] : NULL; }

static void forget(int fd) {
  if (fd < 0 || fd >= FDS || !paths[fd]) return;
  free(paths[fd]);
  paths[fd] = NULL;
}

static int opened(int fd, const char *path, int flags, int mine, int was) {
  if (fd < 0 || fd >= FDS) return fd;
  forget(fd);
  if (!mine) return fd;
  if (!was) note(MADE, path, 0, NULL, 0);
  else if (flags & O_TRUNC) note(CUT, path, 0, NULL, 0);
  paths[fd] = strdup(path);
  return fd;
}

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, mode_t); va_end(a); } \
  char whole[PATH_MAX]; struct stat s; int mine = ours(path, whole), was = mine && !lstat(whole, &s)
#define OPEN(f) int f(const char *path, int flags, ...) { NEXT(int, #f, const char *, int, ...); MODE; return opened(next(path, flags, mode), whole, flags, mine, was); }
#define OPENAT(f) int f(int at, const char *path, int flags, ...) { NEXT(int, #f, int, const char *, int, ...); MODE; return opened(next(at, path, flags, mode), whole, flags, mine, was); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

int close(int fd) { NEXT(int, "close", int); if (fd == out && out >= 0) return 0; forget(fd); return next(fd); }

static int is_socket(int fd) { struct stat s; return out >= 0 && !fstat(fd, &s) && S_ISSOCK(s.st_mode); }
static void sent(const void *data, size_t n) { note(SENT, "", 0, data, n > 1024 ? 1024 : n); }
static void sent_parts(const struct iovec *v, size_t count) {
  char all[1024]; size_t n = 0;
  for (size_t i = 0; i < count && n < sizeof all; i++) {
    size_t part = v[i].iov_len < sizeof all - n ? v[i].iov_len : sizeof all - n;
    memcpy(all + n, v[i].iov_base, part); n += part;
  }
  note(SENT, "", 0, all, n);
}

ssize_t write(int fd, const void *data, size_t n) {
  NEXT(ssize_t, "write", int, const void *, size_t);
  const char *path = path_of(fd);
  if (!path) { if (is_socket(fd)) sent(data, n); return next(fd, data, n); }
  off_t at = lseek(fd, 0, SEEK_CUR);
  ssize_t done = next(fd, data, n);
  if (done > 0) note(WRITTEN, path, fcntl(fd, F_GETFL) & O_APPEND ? lseek(fd, 0, SEEK_CUR) - done : at, data, done);
  return done;
}
#define PWRITE(f) ssize_t f(int fd, const void *data, size_t n, off_t at) { NEXT(ssize_t, #f, int, const void *, size_t, off_t); \
  ssize_t done = next(fd, data, n, at); const char *path = path_of(fd); if (path && done > 0) note(WRITTEN, path, at, data, done); return done; }
PWRITE(pwrite) PWRITE(pwrite64)
ssize_t writev(int fd, const struct iovec *v, int count) {
  NEXT(ssize_t, "writev", int, const struct iovec *, int);
  if (path_of(fd)) {
    ssize_t all = 0;
    for (int i = 0; i < count; i++) { ssize_t done = write(fd, v[i].iov_base, v[i].iov_len); if (done < 0) return all ? all : done; all += done; }
    return all;
  }
  if (is_socket(fd)) sent_parts(v, count);
  return next(fd, v, count);
}
ssize_t send(int fd, const void *data, size_t n, int flags) { NEXT(ssize_t, "send", int, const void *, size_t, int); if (out >= 0) sent(data, n); return next(fd, data, n, flags); }
ssize_t sendto(int fd, const void *data, size_t n, int flags, const struct sockaddr *to, socklen_t to_n) { NEXT(ssize_t, "sendto", int, const void *, size_t, int, const struct sockaddr *, socklen_t); if (out >= 0) sent(data, n); return next(fd, data, n, flags, to, to_n); }
ssize_t sendmsg(int fd, const struct msghdr *m, int flags) { NEXT(ssize_t, "sendmsg", int, const struct msghdr *, int); if (out >= 0) sent_parts(m->msg_iov, m->msg_iovlen); return next(fd, m, flags); }

#define SYNC(f) int f(int fd) { NEXT(int, #f, int); const char *path = path_of(fd); if (!path) return next(fd); \
  char kept[PATH_MAX]; snprintf(kept, sizeof kept, "%s", path); uint64_t began = note(SYNC_BEGAN, kept, 0, NULL, 0); \
  int failed = next(fd); note(failed ? SYNC_FAILED : SYNC_ENDED, kept, (int64_t)began, NULL, 0); return failed; }
SYNC(fsync) SYNC(fdatasync)
#define TRUNCATE(f) int f(int fd, off_t n) { NEXT(int, #f, int, off_t); int failed = next(fd, n); const char *path = path_of(fd); if (path && !failed) note(CUT, path, n, NULL, 0); return failed; }
TRUNCATE(ftruncate) TRUNCATE(ftruncate64)
#define ALLOCATE(f) int f(int fd, off_t at, off_t n) { NEXT(int, #f, int, off_t, off_t); struct stat s; const char *path = path_of(fd); if (path && fstat(fd, &s)) path = NULL; \
  int failed = next(fd, at, n); if (path && !failed && at + n > s.st_size) note(CUT, path, at + n, NULL, 0); return failed; }
ALLOCATE(posix_fallocate) ALLOCATE(posix_fallocate64)
int rename(const char *from, const char *to) { NEXT(int, "rename", const char *, const char *); char a[PATH_MAX], b[PATH_MAX]; int mine = ours(from, a) & ours(to, b);
  int failed = next(from, to); if (mine && !failed) note(RENAMED, a, 0, b, strlen(b)); return failed; }
int unlink(const char *path) { NEXT(int, "unlink", const char *); char a[PATH_MAX]; int mine = ours(path, a); int failed = next(path); if (mine && !failed) note(REMOVED, a, 0, NULL, 0); return failed; }
int mkdir(const char *path, mode_t mode) { NEXT(int, "mkdir", const char *, mode_t); char a[PATH_MAX]; int mine = ours(path, a); int failed = next(path, mode); if (mine && !failed) note(FOLDER, a, 0, NULL, 0); return failed; }
