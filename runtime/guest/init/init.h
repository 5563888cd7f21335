/* What the files of quilt-init share: the static program that is pid 1 of containers and of instances.
 * Not here: anything of namespaces, mounts and id maps; those are made before it is started. */
#ifndef QUILT_INIT_H
#define QUILT_INIT_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <linux/filter.h>
#include <stdint.h>
#include <sys/types.h>

enum filter_kind { FILTER_TEMPLATE, FILTER_INSTANCE, FILTER_STRICT, FILTER_CONTAINER };

struct program {
    struct sock_filter code[512];
    unsigned short length;
};

/* filters.c, seccomp.c */
void filter_build(struct program *program, enum filter_kind kind);
int filter_kind_named(const char *name, enum filter_kind *kind);
int seccomp_load(enum filter_kind kind);
int seccomp_write(int fd, enum filter_kind kind);

/* caps.c: `keep` is a mask of capability numbers below 64. Sets errno, returns -1. */
int caps_keep_only(uint64_t keep);

/* reap.c: a ring of the last exits. */
void reap_children(void);
size_t reap_report(char *text, size_t size);

/* status.c: the socket on which someone from outside of the pid namespace speaks to init, -1 where there is none; and
 * the answer with the ring to all who are connected. */
int init_listen(void);
void status_answer(int listener);

/* container.c, instance.c: do not return but for errors, which they report themselves. */
int run_container(int argc, char **argv);
int run_instance(int argc, char **argv);

#endif
