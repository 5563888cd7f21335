/* quilt-init: chooses the mode. Each mode is a file of its own.
 *
 *   quilt-init container [--no-caps] -- COMMAND ARGUMENT…   pid 1 of a container
 *   quilt-init instance READY_FD CGROUP_FD…                 pid 1 of an instance's own pid namespace
 *   quilt-init serve [--strict]                             pid 1 of a container that users run commands in
 *   quilt-init filter template|instance|strict|container    the BPF program, as an array of struct sock_filter
 */
#include "init.h"
#include "serve.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int usage(void) {
    fputs("usage: quilt-init container [--no-caps] -- COMMAND ARGUMENT…\n"
          "       quilt-init instance READY_FD CGROUP_FD…\n"
          "       quilt-init serve [--strict]\n"
          "       quilt-init filter template|instance|strict|container\n",
          stderr);
    return 2;
}

int main(int argc, char **argv) {
    if (argc < 2)
        return usage();
    if (strcmp(argv[1], "container") == 0)
        return run_container(argc - 2, argv + 2);
    if (strcmp(argv[1], "instance") == 0)
        return run_instance(argc - 2, argv + 2);
    if (strcmp(argv[1], "serve") == 0)
        return run_serve(argc - 2, argv + 2);
    enum filter_kind kind;
    if (strcmp(argv[1], "filter") == 0 && argc == 3 && filter_kind_named(argv[2], &kind) == 0) {
        if (seccomp_write(STDOUT_FILENO, kind) == 0)
            return 0;
        fprintf(stderr, "quilt-init: writing the filter: %s\n", strerror(errno));
        return 1;
    }
    return usage();
}
