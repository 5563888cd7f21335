/* Who is connected to init from outside of the container, what they ask and what they are told.
 *
 * The kernel shows a peer from outside of the pid namespace with pid 0; processes of the container have a pid here and
 * are hung up on. Nobody is waited for: a peer that does not read is told later, and only as much as it has asked. */
#include "init.h"
#include "serve.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static int peers[PEERS];
static bool blocked[PEERS];

int peers_listen(void) {
    for (int i = 0; i < PEERS; i++)
        peers[i] = -1;
    return init_listen();
}

static bool from_outside(int fd) {
    struct ucred who = {.pid = -1};
    socklen_t size = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.pid == 0;
}

void peers_accept(int listener) {
    for (int turn = 0; turn < 64; turn++) { /* whoever connects without end must not keep init here */
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0)
            return;
        int free = 0;
        while (free < PEERS && peers[free] >= 0)
            free++;
        if (free == PEERS || !from_outside(fd)) {
            close(fd);
            continue;
        }
        peers[free] = fd;
        blocked[free] = false;
    }
}

size_t peers_poll(struct pollfd *polls) {
    size_t count = 0;
    for (int i = 0; i < PEERS; i++)
        if (peers[i] >= 0)
            polls[count++] = (struct pollfd){.fd = peers[i], .events = (short)(POLLIN | (blocked[i] ? POLLOUT : 0))};
    return count;
}

static void hang_up(int peer) {
    close(peers[peer]);
    peers[peer] = -1;
    children_orphan(peer);
}

bool peers_tell(int peer, const struct answer *answer, const int *fds, int count) {
    if (peers[peer] < 0)
        return true;
    char control[CMSG_SPACE(3 * sizeof(int))] = {0};
    struct iovec text = {.iov_base = (void *)answer, .iov_len = sizeof *answer};
    struct msghdr message = {.msg_iov = &text, .msg_iovlen = 1};
    if (count) {
        message.msg_control = control;
        message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(header), fds, (size_t)count * sizeof(int));
    }
    if (sendmsg(peers[peer], &message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return true;
    blocked[peer] = errno == EAGAIN || errno == ETOOMANYREFS || errno == ENOBUFS || errno == ENOMEM;
    return !blocked[peer]; /* else it has gone, and its hang-up comes as an event */
}

void peers_tell_all(const struct answer *answer) {
    for (int i = 0; i < PEERS; i++)
        peers_tell(i, answer, NULL, 0); /* whoever misses this asks for the status */
}

/* The strings of a message, in order; false where there are not as many. */
static bool split(char *text, size_t size, char **strings, size_t count) {
    char *end = text + size;
    if (!size || end[-1])
        return false;
    for (size_t i = 0; i < count; i++) {
        if (text >= end)
            return false;
        strings[i] = text;
        text += strlen(text) + 1;
    }
    return text == end;
}

static void run(int peer, const struct request *request, char *text, size_t size) {
    static char *strings[STRINGS + 4];
    int step = STEP_MESSAGE, error = EINVAL;
    size_t argc = request->argc, envc = request->envc;
    if (argc >= 1 && argc + envc <= STRINGS && argc <= STRINGS && split(text, size, strings, argc + envc + 2)) {
        /* folder, user, arguments, NULL, environment, NULL */
        memmove(strings + 2 + argc + 1, strings + 2 + argc, envc * sizeof *strings);
        strings[2 + argc] = NULL;
        strings[2 + argc + 1 + envc] = NULL;
        struct command command = {.flags = request->flags, .columns = request->a, .rows = request->b,
                                  .folder = strings[0], .user = strings[1], .argv = strings + 2,
                                  .environment = strings + 2 + argc + 1};
        error = children_run(peer, request->id, &command, &step);
    }
    if (error) {
        struct answer answer = {.kind = A_FAILED, .id = request->id, .a = error, .b = step};
        peers_tell(peer, &answer, NULL, 0);
    }
}

static void answer_status(int peer, uint32_t id) {
    struct answer answer = {.kind = A_STATUS, .id = id};
    answer.a = children_main(&answer.b);
    answer.c = kill(-1, 0) == 0;
    peers_tell(peer, &answer, NULL, 0);
}

static void answer_kill(int peer, const struct request *request) {
    struct answer answer = {.kind = A_DONE, .id = request->id};
    bool allowed = request->b > 0 && request->b < NSIG && (request->a > 1 || request->a == -1);
    if (!allowed)
        answer.a = EINVAL;
    else if (kill(request->flags & KILL_GROUP ? -request->a : request->a, request->b) < 0)
        answer.a = errno;
    peers_tell(peer, &answer, NULL, 0);
}

static void answer_log(int peer, const struct request *request, const int *fds, int count) {
    struct answer answer = {.kind = A_DONE, .id = request->id};
    static const int none[2] = {-1, -1};
    if (count == 2 && request->a >= 4096)
        capture_files(fds, request->a);
    else if (count == 0)
        capture_files(none, 0);
    else
        answer.a = EINVAL;
    if (answer.a)
        for (int i = 0; i < count; i++)
            close(fds[i]);
    peers_tell(peer, &answer, NULL, 0);
}

static void serve(int peer, char *message, size_t size, int *fds, int count) {
    struct request request;
    if (size >= sizeof request) {
        memcpy(&request, message, sizeof request);
        if (request.op == OP_LOG) {
            answer_log(peer, &request, fds, count);
            return;
        }
        if (request.op == OP_STATUS)
            answer_status(peer, request.id);
        else if (request.op == OP_KILL)
            answer_kill(peer, &request);
        else if (request.op == OP_RUN)
            run(peer, &request, message + sizeof request, size - sizeof request);
    }
    for (int i = 0; i < count; i++)
        close(fds[i]);
}

/* One message. Descriptors that come along are taken in any case, so that none stays open unseen. */
static bool receive(int peer) {
    static char message[MESSAGE_LIMIT + 1];
    char control[CMSG_SPACE(8 * sizeof(int))];
    int fds[8], count = 0;
    struct iovec text = {.iov_base = message, .iov_len = sizeof message};
    struct msghdr header = {.msg_iov = &text, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t size = recvmsg(peers[peer], &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (size < 0)
        return errno == EAGAIN || errno == EINTR;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&header); c; c = CMSG_NXTHDR(&header, c)) {
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(c), (size_t)count * sizeof(int));
        }
    }
    if (size == 0)
        return false;
    bool whole = !(header.msg_flags & MSG_TRUNC) && size <= MESSAGE_LIMIT;
    serve(peer, message, whole ? (size_t)size : 0, fds, count);
    return whole;
}

void peers_ready(const struct pollfd *poll) {
    for (int i = 0; i < PEERS; i++) {
        if (peers[i] < 0 || peers[i] != poll->fd)
            continue;
        if (poll->revents & POLLOUT) {
            blocked[i] = false;
            children_flush(i);
        }
        if ((poll->revents & (POLLIN | POLLHUP | POLLERR)) && !receive(i))
            hang_up(i);
        return;
    }
}
