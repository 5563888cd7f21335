/* pid 1 of a container: gives up what it may, starts one command, reaps, passes signals on, and stays when the
 * command has ended. It holds nothing that CRIU cannot dump: a listening socket and signal handlers. */
#include "init.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

enum { LAST_BURNT_PID = 10 };

static const int forwarded[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2};
static volatile sig_atomic_t pending[NSIG];

static void on_signal(int sig) { pending[sig] = 1; }

static int fail(const char *what) {
    fprintf(stderr, "quilt-init: %s: %s\n", what, strerror(errno));
    return 125;
}

/* Signals are blocked but while ppoll waits, so that none is lost between a look and a wait. */
static void take_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
    sigaction(SIGCHLD, &action, NULL);
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++)
        sigaction(forwarded[i], &action, NULL);
}

/* A nested pid namespace's first processes are 1 and 2 too: a command with a small pid of its own would look to
 * libraries that detect forks by pid as if it had not forked. */
static int burn_pids(void) {
    pid_t pid;
    do {
        pid = vfork();
        if (pid == 0)
            _exit(0);
        if (pid < 0 || waitpid(pid, NULL, 0) < 0)
            return -1;
    } while (pid < LAST_BURNT_PID);
    return 0;
}

static int start(char **argv) {
    pid_t pid = fork();
    if (pid != 0)
        return pid < 0 ? -1 : 0;
    sigset_t none;
    sigemptyset(&none);
    setsid();
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvpe(argv[0], argv, environ);
    int error = errno;
    fprintf(stderr, "quilt-init: %s: %s\n", argv[0], strerror(error));
    _exit(error == ENOENT ? 127 : 126);
}

static void forward_signals(void) {
    for (size_t i = 0; i < sizeof forwarded / sizeof *forwarded; i++) {
        if (pending[forwarded[i]]) {
            pending[forwarded[i]] = 0;
            kill(-1, forwarded[i]);
        }
    }
}

static void loop(int listener) {
    sigset_t none;
    sigemptyset(&none);
    struct pollfd poll = {.fd = listener, .events = POLLIN};
    for (;;) {
        reap_children();
        forward_signals();
        if (ppoll(&poll, 1, NULL, &none) > 0)
            status_answer(listener);
    }
}

int run_container(int argc, char **argv) {
    uint64_t keep = 1ull << CAP_SYS_ADMIN | 1ull << CAP_SETPCAP;
    if (argc > 0 && strcmp(argv[0], "--no-caps") == 0) {
        keep = 0;
        argc--, argv++;
    }
    if (argc < 2 || strcmp(argv[0], "--") != 0) {
        fputs("quilt-init: container [--no-caps] -- COMMAND ARGUMENT…\n", stderr);
        return 2;
    }
    if (getpid() != 1) {
        fputs("quilt-init: container: must be pid 1 of its own pid namespace\n", stderr);
        return 125;
    }
    /* A session that began outside of the pid namespace cannot be dumped. */
    setsid();
    take_signals();
    if (close_range(3, ~0u, 0) < 0)
        return fail("closing inherited descriptors");
    if (prctl(PR_SET_NO_NEW_PRIVS, 1L, 0L, 0L, 0L) < 0)
        return fail("no_new_privs");
    if (caps_keep_only(keep) < 0)
        return fail("dropping capabilities");
    if (seccomp_load(FILTER_TEMPLATE) < 0)
        return fail("seccomp filter");
    int listener = init_listen();
    if (listener < 0)
        return fail("status socket");
    if (burn_pids() < 0)
        return fail("burning pids");
    if (start(argv + 1) < 0)
        return fail("starting the command");
    loop(listener);
    return 125;
}
