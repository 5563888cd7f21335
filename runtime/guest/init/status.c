/* The abstract socket "\0quilt-init", for both kinds of init; and what that of a template does with it: whoever asks
 * from outside of the pid namespace gets the ring of exits. The kernel shows such a peer with pid 0; processes of the
 * container have a pid here and get nothing. */
#include "init.h"

#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int init_listen(void) {
    static const char name[] = "\0quilt-init";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, name, sizeof name - 1);
    socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + sizeof name - 1);
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (listener < 0)
        return -1;
    if (bind(listener, (struct sockaddr *)&address, length) < 0 || listen(listener, 64) < 0) {
        close(listener);
        return -1;
    }
    return listener;
}

void status_answer(int listener) {
    int peer;
    while ((peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
        struct ucred who = {.pid = -1};
        socklen_t size = sizeof who;
        if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && who.pid == 0) {
            static char text[256 * 48];
            /* A peer that has gone, or never reads, loses its answer: init must not wait for anyone. */
            (void)send(peer, text, reap_report(text, sizeof text), MSG_DONTWAIT | MSG_NOSIGNAL);
        }
        close(peer);
    }
}
