/* Another disk than the one that is there, for an fdatasync or fsync of a file whose name ends in -wal or .db:
     STALL_CONTROL   while the file of this name exists, none returns during two of every four seconds
     SYNC_DELAY_US   each takes so many microseconds longer
   The spill journal is another file and goes on, as another disk would. Preloaded into processes by the benchmark;
   nothing else uses it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int database_file(int fd) {
    char link[64], name[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 4) return 0;
    name[length] = 0;
    return strcmp(name + length - 4, "-wal") == 0 || strcmp(name + length - 3, ".db") == 0;
}

static void wait_for_disk(int fd) {
    const char *control = getenv("STALL_CONTROL"), *delay = getenv("SYNC_DELAY_US");
    if ((!control && !delay) || !database_file(fd)) return;
    if (delay) usleep(atoi(delay));
    while (control) {
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
    wait_for_disk(fd);
    return real(fd);
}

int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    wait_for_disk(fd);
    return real(fd);
}
