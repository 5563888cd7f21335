/* Loads a filter into this process, or writes it for someone who loads it later. Not here: what it allows (filters.c). */
#include "init.h"

#include <errno.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int filter_kind_named(const char *name, enum filter_kind *kind) {
    static const char *const names[] = {
        [FILTER_TEMPLATE] = "template", [FILTER_INSTANCE] = "instance", [FILTER_STRICT] = "strict",
        [FILTER_CONTAINER] = "container"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *kind = (enum filter_kind)i;
            return 0;
        }
    }
    return -1;
}

int seccomp_load(enum filter_kind kind) {
    struct program program;
    filter_build(&program, kind);
    struct sock_fprog loaded = {.len = program.length, .filter = program.code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &loaded, 0L, 0L);
}

int seccomp_write(int fd, enum filter_kind kind) {
    struct program program;
    filter_build(&program, kind);
    const char *rest = (const char *)program.code;
    size_t left = program.length * sizeof *program.code;
    while (left) {
        ssize_t n = write(fd, rest, left);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        rest += n, left -= (size_t)n;
    }
    return 0;
}
