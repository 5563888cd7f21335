/* Starts one command: its pipes or its terminal, its session, user and folder, then exec. Everything that looks at the
 * container's files runs in the child, so that nothing in them can hold init up. The child stays undumpable, as init is,
 * until exec: it holds copies of init's memory and descriptors, the log's files and the peers' sockets among them. */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pty.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

extern char **environ;
enum { TTY_GROUP = 5, PTMX_MAJOR = 5, PTMX_MINOR = 2 };

static int terminals = -1; /* /dev/pts as it was before any of the container's code ran */

void spawn_prepare(void) { terminals = open("/dev/pts", O_PATH | O_DIRECTORY | O_CLOEXEC); }

static void close_all(int *fds, int count) {
    for (int i = 0; i < count; i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

static int open_terminal(const struct command *command, int inner[3], int outer[3]) {
    if (terminals < 0)
        return ENODEV;
    int outside = openat(terminals, "ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (outside < 0)
        return errno;
    struct stat found;
    struct winsize size = {.ws_col = (unsigned short)command->columns, .ws_row = (unsigned short)command->rows};
    int unlocked = 0, inside = -1;
    if (fstat(outside, &found) < 0 || !S_ISCHR(found.st_mode) || found.st_rdev != makedev(PTMX_MAJOR, PTMX_MINOR))
        errno = ENODEV;
    else if (ioctl(outside, TIOCSPTLCK, &unlocked) == 0 && ioctl(outside, TIOCSWINSZ, &size) == 0)
        inside = ioctl(outside, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (inside < 0) {
        int error = errno;
        close(outside);
        return error;
    }
    inner[0] = inside, outer[0] = outside;
    return 0;
}

static int open_pipes(int inner[3], int outer[3]) {
    for (int i = 0; i < 3; i++) {
        int ends[2];
        if (pipe2(ends, O_CLOEXEC) < 0) {
            int error = errno;
            close_all(inner, 3);
            close_all(outer, 3);
            return error;
        }
        inner[i] = ends[i ? 1 : 0], outer[i] = ends[i ? 0 : 1];
        fcntl(outer[i], F_SETFL, O_NONBLOCK);
    }
    return 0;
}

static void fail(int report, enum step step) {
    struct failure failure = {.error = errno, .step = step};
    (void)!write(report, &failure, sizeof failure);
    _exit(127);
}

static void become(const struct identity *who, int report) {
    if (setgroups((size_t)who->group_count, who->groups) < 0 && (who->uid || who->group_count))
        fail(report, STEP_USER);
    if (setresgid(who->gid, who->gid, who->gid) < 0 || setresuid(who->uid, who->uid, who->uid) < 0)
        fail(report, STEP_USER);
}

/* Whether it can be entered in the end is the caller's to see. */
static int make_folders(char *path) {
    for (char *at = path + (*path != 0);; at++) {
        if (*at && *at != '/')
            continue;
        char end = *at;
        *at = 0;
        int failed = mkdir(path, 0755) < 0 && errno != EEXIST;
        *at = end;
        if (failed)
            return -1;
        if (!end)
            return 0;
    }
}

static void child(const struct command *command, const int inner[3], int report) {
    sigset_t none;
    sigemptyset(&none);
    bool terminal = command->flags & RUN_TTY;
    setsid();
    if (command->flags & RUN_FOLDER) {
        if (chdir(command->folder) < 0)
            if (errno != ENOENT || make_folders(command->folder) < 0 || chdir(command->folder) < 0)
                fail(report, STEP_FOLDER);
        _exit(0);
    }
    struct identity who;
    if (!users_find(command->user, &who)) {
        errno = ENOENT;
        fail(report, STEP_USER);
    }
    if (terminal && ioctl(inner[0], TIOCSCTTY, 0) < 0)
        fail(report, STEP_TERMINAL);
    for (int i = 0; i < 3; i++) {
        int fd = inner[terminal ? 0 : i];
        if (who.uid && fchown(fd, who.uid, terminal ? TTY_GROUP : who.gid) < 0)
            fail(report, STEP_USER);
        if (dup2(fd, i) < 0)
            fail(report, STEP_ROOM);
    }
    become(&who, report);
    environ = command->environment;
    setenv("HOME", who.home, 0);
    setenv("USER", who.name, 0);
    if (chdir(*command->folder ? command->folder : "/") < 0)
        fail(report, STEP_FOLDER);
    struct sigaction plain = {.sa_handler = SIG_DFL};
    for (int sig = 1; sig < NSIG; sig++)
        sigaction(sig, &plain, NULL);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execvp(command->argv[0], command->argv);
    fail(report, STEP_EXEC);
}

int spawn(const struct command *command, struct spawned *made, int *step) {
    int inner[3] = {-1, -1, -1}, reports[2];
    made->outer[0] = made->outer[1] = made->outer[2] = -1;
    *step = command->flags & RUN_TTY ? STEP_TERMINAL : STEP_ROOM;
    int error = command->flags & RUN_TTY ? open_terminal(command, inner, made->outer) : open_pipes(inner, made->outer);
    if (error)
        return error;
    *step = STEP_ROOM;
    if (pipe2(reports, O_CLOEXEC) < 0) {
        error = errno;
        close_all(inner, 3);
        close_all(made->outer, 3);
        return error;
    }
    made->pid = fork();
    if (made->pid == 0)
        child(command, inner, reports[1]);
    error = errno;
    close(reports[1]);
    close_all(inner, 3);
    if (made->pid < 0) {
        close(reports[0]);
        close_all(made->outer, 3);
        return error;
    }
    fcntl(reports[0], F_SETFL, O_NONBLOCK);
    made->report = reports[0];
    return 0;
}
