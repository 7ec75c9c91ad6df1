/* Makes the disk of the database stand still: while the control file exists, an fdatasync or fsync of a file whose name
   ends in -wal or .db does not return during two of every four seconds. The spill journal is another file and goes on,
   as another disk would. Preloaded into the product by the benchmark; nothing else uses it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int stalled_file(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 4) return 0;
    name[length] = 0;
    return strcmp(name + length - 4, "-wal") == 0 || strcmp(name + length - 3, ".db") == 0;
}

static void stand_still(int fd) {
    const char *control = getenv("STALL_CONTROL");
    if (!control || !stalled_file(fd)) return;
    for (;;) {
        struct timespec now;
        if (access(control, F_OK) != 0) return;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec % 4 < 2) return;
        usleep(5000);
    }
}

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    stand_still(fd);
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    stand_still(fd);
    return real(fd);
}
