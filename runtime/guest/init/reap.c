/* Collects children, own and adopted, and keeps the last exits in a ring. Not here: when (the loops of the modes). */
#include "init.h"

#include <stdio.h>
#include <sys/wait.h>

enum { RING = 256 };

static struct {
    pid_t pid;
    int status;
} ring[RING];
static unsigned long recorded;

void reap_children(void) {
    int status;
    pid_t pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
        ring[recorded % RING].pid = pid;
        ring[recorded % RING].status = status;
        recorded++;
    }
}

/* Oldest first, one JSON object on each line. Returns the length; `size` must fit RING lines of 48 bytes. */
size_t reap_report(char *text, size_t size) {
    size_t used = 0;
    unsigned long first = recorded > RING ? recorded - RING : 0;
    for (unsigned long i = first; i < recorded; i++) {
        int n = snprintf(text + used, size - used, "{\"pid\":%d,\"status\":%d}\n", (int)ring[i % RING].pid,
                         ring[i % RING].status);
        if (n < 0 || (size_t)n >= size - used)
            break;
        used += (size_t)n;
    }
    return used;
}
