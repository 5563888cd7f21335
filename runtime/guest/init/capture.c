/* The main command's output, copied into two files in turn: when one is full the other is emptied and written, so that
 * what is kept is bounded. The files come from outside and have no name in the container. While there are none, nothing
 * is read, and the command waits once its pipe is full.
 *
 * A piece in a file: 8 bytes of time (ns since 1970), 4 bytes of length, 1 byte of stream (1 stdout, 2 stderr), then the
 * bytes. A file begins with 8 bytes that grow with each turn, so that a reader knows which of the two is the older. */
#define _GNU_SOURCE
#include "serve.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 32 * 1024 };
struct __attribute__((packed)) head {
    uint64_t time;
    uint32_t length;
    uint8_t stream;
};

static int files[2] = {-1, -1}, sources[2] = {-1, -1}, current;
static off_t limit;
static uint64_t turn;

static uint64_t turn_of(int fd) {
    uint64_t found = 0;
    return pread(fd, &found, sizeof found, 0) == (ssize_t)sizeof found ? found : 0;
}

static void begin(int which) {
    current = which;
    turn++;
    if (ftruncate(files[which], 0) == 0)
        (void)!pwrite(files[which], &turn, sizeof turn, 0);
}

void capture_files(const int given[2], off_t size) {
    for (int i = 0; i < 2; i++) {
        if (files[i] >= 0)
            close(files[i]);
        files[i] = given[i];
    }
    limit = size;
    if (files[0] < 0)
        return;
    uint64_t turns[2] = {turn_of(files[0]), turn_of(files[1])};
    current = turns[1] > turns[0];
    turn = turns[current];
    if (!turn)
        begin(0);
}

static void keep(int stream, const char *bytes, size_t size) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct head head = {.time = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec,
                        .length = (uint32_t)size,
                        .stream = (uint8_t)(stream + 1)};
    off_t at = lseek(files[current], 0, SEEK_END);
    if (at + (off_t)(sizeof head + size) > limit) {
        begin(!current);
        at = sizeof turn;
    }
    struct iovec parts[2] = {{.iov_base = &head, .iov_len = sizeof head}, {.iov_base = (void *)bytes, .iov_len = size}};
    ssize_t written = pwritev(files[current], parts, 2, at);
    if (written != (ssize_t)(sizeof head + size))
        (void)!ftruncate(files[current], at); /* the disk is full: this piece is lost, what is there stays whole */
}

/* One piece; false at the end of the source and where there is nothing now. */
static bool copy(int i) {
    static char bytes[PIECE];
    ssize_t size = read(sources[i], bytes, sizeof bytes);
    if (size > 0) {
        keep(i, bytes, (size_t)size);
        return true;
    }
    if (size == 0 || errno != EAGAIN) {
        close(sources[i]);
        sources[i] = -1;
    }
    return false;
}

void capture_last_words(void) {
    for (int i = 0; i < 2; i++) {
        int waiting = 0; /* as much as that: the command's children may go on writing */
        if (files[0] < 0 || sources[i] < 0 || ioctl(sources[i], FIONREAD, &waiting) < 0)
            continue;
        while (waiting > 0 && copy(i))
            waiting -= PIECE;
    }
}

void capture_source(int out, int err) {
    int given[2] = {out, err};
    capture_last_words(); /* of the command before this one; its children, if any are left, lose their pipe */
    for (int i = 0; i < 2; i++) {
        if (sources[i] >= 0)
            close(sources[i]);
        sources[i] = given[i];
    }
}

size_t capture_poll(struct pollfd *polls) {
    size_t count = 0;
    for (int i = 0; i < 2; i++)
        if (sources[i] >= 0 && files[0] >= 0)
            polls[count++] = (struct pollfd){.fd = sources[i], .events = POLLIN};
    return count;
}

void capture_ready(const struct pollfd *poll) {
    for (int i = 0; i < 2; i++)
        if (sources[i] >= 0 && sources[i] == poll->fd) {
            copy(i);
            return;
        }
}
