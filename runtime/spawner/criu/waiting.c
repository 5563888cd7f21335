/* Preloaded into CRIU, which it stops when all is linked and nothing of main has run: a CRIU that waits, and is forked
 * for each restore instead of being linked for each (its libraries, TLS and packet filters among them, take as long as
 * reading the memory of a small process). Its constructor runs last, because it is preloaded.
 *
 * Each connection to the listening socket, descriptor 3, is one run. It brings one message: the arguments for main,
 * each with its NUL, as many as this process was started with; and descriptors, first the mount namespace and the
 * network namespace to enter, then the doors of the cgroup, into each of which "0" is written. It takes away one
 * message: "exit N" or "signal N", how CRIU ended, or "failed: WHY" where it never ran. Who hangs up before that has
 * CRIU killed. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { LISTENER = 3, DESCRIPTORS_MAX = 16, TEXT_MAX = 64 * 1024 };

static char text[TEXT_MAX];

static void say(int peer, const char *format, const char *what, int number) {
    char line[256];
    int n = snprintf(line, sizeof line, format, what, number);
    if (n > 0)
        send(peer, line, (size_t)n < sizeof line ? (size_t)n : sizeof line - 1, MSG_NOSIGNAL);
    _exit(0);
}

/* The arguments into argv, the descriptors into fds; how many of those came. */
static int receive(int peer, int argc, char **argv, int *fds) {
    union {
        struct cmsghdr head;
        char room[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec part = {text, sizeof text};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof control.room};
    ssize_t size = recvmsg(peer, &message, MSG_CMSG_CLOEXEC);
    if (size <= 0)
        _exit(0);
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    int count = 0;
    if (head && head->cmsg_level == SOL_SOCKET && head->cmsg_type == SCM_RIGHTS) {
        count = (int)((head->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(fds, CMSG_DATA(head), (size_t)count * sizeof(int));
    }
    char *next = text, *end = text + size;
    for (int i = 1; i < argc; i++) {
        char *stop = memchr(next, 0, (size_t)(end - next));
        if (!stop)
            say(peer, "failed: there are too few arguments%s", "", 0);
        argv[i] = next;
        next = stop + 1;
    }
    if (next != end || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) || count < 2)
        say(peer, "failed: the message is not what was agreed%s", "", 0);
    return count;
}

static void enter(int peer, const int *fds, int count) {
    for (int i = 2; i < count; i++)
        if (write(fds[i], "0", 1) != 1)
            say(peer, "failed: %s (%d)", "entering the cgroup", errno);
    if (setns(fds[1], CLONE_NEWNET) < 0)
        say(peer, "failed: %s (%d)", "entering the network namespace", errno);
    if (setns(fds[0], CLONE_NEWNS) < 0)
        say(peer, "failed: %s (%d)", "entering the mount namespace", errno);
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

/* One run. Only CRIU's own process returns from here. */
static void run(int peer, int argc, char **argv) {
    int fds[DESCRIPTORS_MAX];
    signal(SIGCHLD, SIG_DFL);
    int count = receive(peer, argc, argv, fds);
    pid_t pid = fork();
    if (pid < 0)
        say(peer, "failed: %s (%d)", "no process for it", errno);
    if (pid == 0) {
        enter(peer, fds, count);
        close(peer);
        return;
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
    struct pollfd watch[2] = {{.fd = (int)syscall(SYS_pidfd_open, pid, 0), .events = POLLIN}, {.fd = peer, .events = POLLIN}};
    if (watch[0].fd >= 0) { /* else its end alone is waited for */
        while (poll(watch, 2, -1) < 0 && errno == EINTR)
            ;
        if (!watch[0].revents)
            kill(pid, SIGKILL);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid)
        say(peer, "failed: %s (%d)", "its end was not seen", errno);
    if (WIFSIGNALED(status))
        say(peer, "%s %d", "signal", WTERMSIG(status));
    say(peer, "%s %d", "exit", WEXITSTATUS(status));
}

__attribute__((constructor)) static void wait_for_requests(int argc, char **argv) {
    unsetenv("LD_PRELOAD"); /* not for what CRIU starts */
    close_range(LISTENER + 1, ~0u, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL, 0L, 0L, 0L);
    signal(SIGCHLD, SIG_IGN); /* the kernel collects the processes of the runs */
    for (;;) {
        int peer = accept4(LISTENER, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            _exit(1);
        }
        if (fork() == 0) {
            close(LISTENER);
            run(peer, argc, argv);
            return;
        }
        close(peer);
    }
}
