/* Resolver: loaded before libc (LD_PRELOAD), it makes the look-up of certain names go wrong, and asks nobody about them.
 * Names ending in .hangs.test are answered after a minute, in .nowhere.test not at all: there is no such name.
 * cc -O2 -shared -fPIC -o resolver.so resolver.c -ldl */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
#include <time.h>

static int ends(const char *name, const char *tail) {
  size_t n = strlen(name), t = strlen(tail);
  return n >= t && !strcmp(name + n - t, tail);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  if (!next) next = dlsym(RTLD_NEXT, "getaddrinfo");
  if (name && ends(name, ".hangs.test")) {
    struct timespec minute = { 60, 0 };
    nanosleep(&minute, NULL);
    return EAI_AGAIN;
  }
  if (name && ends(name, ".nowhere.test")) return EAI_NONAME;
  return next(name, service, hints, found);
}
