/* pid 1 of an instance's own pid namespace, spawned by a template that is about to fork the instance into it.
 * It tells READY_FD `R`, or `E` and why; then it only reaps, and ends by SIGKILL alone. */
#include "init.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static int ready_fd;

static void fail(const char *what) {
    char text[256];
    int n = snprintf(text, sizeof text, "E%s: %s", what, strerror(errno));
    if (n > 0 && write(ready_fd, text, (size_t)n) < 0)
        _exit(2);
    _exit(1);
}

static int descriptor(const char *text) {
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < 0 || value > 1 << 20)
        return -1;
    return (int)value;
}

static void close_all_but(int keep) {
    if ((keep > 0 && close_range(0, (unsigned)keep - 1, 0) < 0) || close_range((unsigned)keep + 1, ~0u, 0) < 0)
        fail("closing inherited descriptors");
}

int run_instance(int argc, char **argv) {
    if (argc < 1 || (ready_fd = descriptor(argv[0])) < 0) {
        fputs("quilt-init: instance READY_FD CGROUP_FD…\n", stderr);
        return 2;
    }
    /* Its root is still the template's: the instance must not get there by /proc/1/root. */
    if (prctl(PR_SET_DUMPABLE, 0, 0L, 0L, 0L) < 0)
        fail("dumpable");
    for (int i = 1; i < argc; i++) {
        int fd = descriptor(argv[i]);
        if (fd < 0) {
            errno = EINVAL;
            fail(argv[i]);
        }
        if (write(fd, "0", 1) != 1)
            fail("entering the cgroup");
    }
    close_all_but(ready_fd);
    setsid();
    /* With SIGCHLD ignored the kernel collects every child, adopted ones too, and nothing ever wakes this process. */
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    sigset_t all;
    sigfillset(&all);
    if (sigaction(SIGCHLD, &ignore, NULL) < 0 || sigprocmask(SIG_BLOCK, &all, NULL) < 0)
        fail("signals");
    if (chdir("/") < 0)
        fail("chdir");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
        fail("no_new_privs");
    if (caps_keep_only(0) < 0)
        fail("dropping capabilities");
    if (seccomp_load(FILTER_INSTANCE) < 0)
        fail("seccomp filter");
    if (write(ready_fd, "R", 1) != 1)
        _exit(1);
    close(ready_fd);
    for (;;)
        pause();
}
