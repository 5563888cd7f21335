/* The commands that were started on request: told about when they run, when they could not, and when they end.
 * A peer that reads slowly is told later; one that has gone is not told. The main command's end is kept for whoever asks. */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum stage { FREE, STARTING, RUNNING, ENDED };

static struct child {
    enum stage stage;
    bool told; /* that it runs, or that it could not */
    bool reaped;
    uint32_t id, flags;
    int peer, status;
    struct failure failure;
    struct spawned made;
} children[CHILDREN];

static pid_t main_pid;
static int main_status = -1;

pid_t children_main(int *status) {
    *status = main_status;
    return main_pid;
}

static void close_outer(struct child *child) {
    for (int i = 0; i < 3; i++) {
        if (child->made.outer[i] >= 0)
            close(child->made.outer[i]);
        child->made.outer[i] = -1;
    }
}

int children_run(int peer, uint32_t id, const struct command *command, int *step) {
    bool is_main = command->flags & RUN_MAIN;
    *step = STEP_ROOM;
    if (is_main && main_pid && main_status == -1)
        return EBUSY;
    struct child *child = children;
    while (child < children + CHILDREN && child->stage != FREE)
        child++;
    if (child == children + CHILDREN)
        return EAGAIN;
    memset(child, 0, sizeof *child);
    int error = spawn(command, &child->made, step);
    if (error)
        return error;
    child->stage = STARTING;
    child->id = id, child->peer = peer, child->flags = command->flags;
    if (is_main) {
        main_pid = child->made.pid, main_status = -1;
        capture_source(child->made.outer[1], child->made.outer[2]);
        close(child->made.outer[0]);
        child->made.outer[0] = child->made.outer[1] = child->made.outer[2] = -1;
    }
    return 0;
}

static void main_ended(const struct child *child) {
    main_status = child->status;
    capture_last_words(); /* who is told of the end finds all of them in the log */
    struct answer answer = {.kind = A_MAIN_ENDED, .a = child->made.pid, .b = child->status};
    peers_tell_all(&answer);
}

/* Tells what there is to tell, in order; frees what is over. */
static void advance(struct child *child) {
    if (child->stage == FREE || child->stage == STARTING)
        return;
    if (!child->told) {
        struct answer answer = {.kind = A_STARTED, .id = child->id, .a = child->made.pid};
        int fds[3], count = 0;
        if (child->failure.step)
            answer = (struct answer){.kind = A_FAILED, .id = child->id, .a = child->failure.error, .b = child->failure.step};
        else
            for (int i = 0; i < 3; i++)
                if (child->made.outer[i] >= 0)
                    fds[count++] = child->made.outer[i];
        if (child->peer >= 0 && !peers_tell(child->peer, &answer, fds, count))
            return;
        child->told = true;
        close_outer(child);
    }
    if (!child->reaped)
        return;
    if (!child->failure.step && !(child->flags & RUN_MAIN) && child->peer >= 0) {
        struct answer answer = {.kind = A_ENDED, .id = child->id, .a = child->made.pid, .b = child->status};
        if (!peers_tell(child->peer, &answer, NULL, 0))
            return;
    }
    child->stage = FREE;
}

static struct child *with_pid(pid_t pid) {
    for (struct child *child = children; child < children + CHILDREN; child++)
        if (child->stage != FREE && !child->reaped && child->made.pid == pid)
            return child;
    return NULL;
}

static void started(struct child *child) {
    ssize_t size = read(child->made.report, &child->failure, sizeof child->failure);
    if (size < 0 && errno == EAGAIN)
        return;
    if (size != (ssize_t)sizeof child->failure)
        child->failure.step = STEP_NONE;
    close(child->made.report);
    child->made.report = -1;
    child->stage = RUNNING;
    if ((child->flags & RUN_MAIN) && child->failure.step)
        main_pid = 0, main_status = -1;
}

bool children_reap(void) {
    int status;
    for (int turn = 0; turn < REAPED_A_TURN; turn++) { /* orphans made without end must not keep init here */
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid <= 0)
            return false;
        struct child *child = with_pid(pid);
        if (!child)
            continue;
        child->reaped = true;
        child->status = status;
        if (child->stage == STARTING)
            started(child); /* it has ended, so its report is whole */
        if (child->stage == STARTING) {
            /* a descendant holds the report open: the command itself ran */
            close(child->made.report);
            child->made.report = -1;
            child->stage = RUNNING;
        }
        if ((child->flags & RUN_MAIN) && !child->failure.step)
            main_ended(child);
        advance(child);
    }
    return true;
}

void children_orphan(int peer) {
    for (struct child *child = children; child < children + CHILDREN; child++) {
        if (child->stage != FREE && child->peer == peer) {
            child->peer = -1;
            close_outer(child);
            advance(child);
        }
    }
}

void children_flush(int peer) {
    for (struct child *child = children; child < children + CHILDREN; child++)
        if (child->stage != FREE && child->peer == peer)
            advance(child);
}

size_t children_poll(struct pollfd *polls) {
    size_t count = 0;
    for (struct child *child = children; child < children + CHILDREN; child++)
        if (child->stage == STARTING)
            polls[count++] = (struct pollfd){.fd = child->made.report, .events = POLLIN};
    return count;
}

void children_ready(const struct pollfd *poll) {
    for (struct child *child = children; child < children + CHILDREN; child++) {
        if (child->stage == STARTING && child->made.report == poll->fd) {
            started(child);
            advance(child);
            return;
        }
    }
}
