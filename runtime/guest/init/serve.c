/* pid 1 of a container that its users run commands in: gives up what it may, then starts what it is asked to, reaps, and
 * goes on until it is killed from outside. Not here: templates' containers (container.c). */
#define _GNU_SOURCE
#include "init.h"
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* What packages need to be installed by the container's root, within its ids. Not: raw sockets, mounts, devices,
 * namespaces, other processes' memory. */
static const int kept[] = {CAP_CHOWN,  CAP_DAC_OVERRIDE, CAP_FOWNER,  CAP_FSETID,           CAP_KILL,       CAP_SETGID,
                           CAP_SETUID, CAP_SETPCAP,      CAP_SETFCAP, CAP_NET_BIND_SERVICE, CAP_SYS_CHROOT, CAP_AUDIT_WRITE};

static void on_child(int sig) { (void)sig; }

static int fail(const char *what) {
    fprintf(stderr, "quilt-init: %s: %s\n", what, strerror(errno));
    return 125;
}

static void take_signals(void) {
    struct sigaction action = {.sa_handler = on_child};
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigaction(SIGCHLD, &action, NULL);
}

/* With one of the first three missing, a command's pipe would be given its number and be closed on the way to exec. */
static int standard_descriptors(void) {
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
            return -1;
    return 0;
}

static void loop(int listener) {
    static struct pollfd polls[1 + PEERS + 2 + CHILDREN];
    sigset_t none;
    bool more = false;
    sigemptyset(&none);
    for (;;) {
        polls[0] = (struct pollfd){.fd = listener, .events = POLLIN};
        size_t peers = 1 + peers_poll(polls + 1);
        size_t captured = peers + capture_poll(polls + peers);
        size_t all = captured + children_poll(polls + captured);
        struct timespec at_once = {0};
        int ready = ppoll(polls, all, more ? &at_once : NULL, &none);
        more = children_reap();
        if (ready <= 0)
            continue;
        for (size_t i = captured; i < all; i++)
            if (polls[i].revents)
                children_ready(&polls[i]);
        for (size_t i = peers; i < captured; i++)
            if (polls[i].revents)
                capture_ready(&polls[i]);
        for (size_t i = 1; i < peers; i++)
            if (polls[i].revents)
                peers_ready(&polls[i]);
        if (polls[0].revents)
            peers_accept(listener);
    }
}

int run_serve(int argc, char **argv) {
    bool strict = argc > 0 && strcmp(argv[0], "--strict") == 0;
    uint64_t keep = 0;
    if (argc > strict) {
        fputs("quilt-init: serve [--strict]\n", stderr);
        return 2;
    }
    if (getpid() != 1) {
        fputs("quilt-init: serve: must be pid 1 of its own pid namespace\n", stderr);
        return 125;
    }
    for (size_t i = 0; !strict && i < sizeof kept / sizeof *kept; i++)
        keep |= 1ull << kept[i];
    prctl(PR_SET_NAME, "quilt-init"); /* one that was run by a descriptor is named after that */
    umask(strict ? 077 : 022);
    setsid();
    /* Nothing of whoever made the container stays open in it. */
    if (standard_descriptors() < 0 || close_range(3, ~0u, 0) < 0)
        return fail("descriptors");
    take_signals();
    spawn_prepare();
    /* Its memory and its descriptors are nobody's in here, not even root's. */
    if (prctl(PR_SET_DUMPABLE, 0L, 0L, 0L, 0L) < 0)
        return fail("dumpable");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
        return fail("no_new_privs");
    if (caps_keep_only(keep) < 0)
        return fail("dropping capabilities");
    if (seccomp_load(strict ? FILTER_STRICT : FILTER_CONTAINER) < 0)
        return fail("seccomp filter");
    int listener = peers_listen();
    if (listener < 0)
        return fail("control socket");
    loop(listener);
    return 125;
}
