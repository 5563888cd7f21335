/* The filters as BPF programs.
 *
 *   template   an allow-list, for everything in a container from its init on: it may mount and make pid, mount, ipc and
 *              uts namespaces, because a template has to enter the root of each instance that it forks
 *   instance   stacked on the template's: takes those away again. A list of refusals, so of no use by itself
 *   strict     both in one, for programs that never fork instances
 *   container  the strict one and chroot, for containers whose root installs packages
 *
 * The calls whose arguments matter come first, each with a block that ends in a verdict; then the numbers in rising
 * order as runs of one verdict; what is left is ENOSYS, x32's numbers too. The kernel keeps a bitmap of the numbers that
 * are allowed whatever their arguments, so the length of the list costs nothing at run time. */
#include "init.h"
#include "syscalls.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <netinet/in.h>

#if defined __x86_64__
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined __aarch64__
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#error "quilt-init knows x86_64 and aarch64"
#endif

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

#define ALLOW SECCOMP_RET_ALLOW
#define REFUSE(error) (SECCOMP_RET_ERRNO | (error))
/* Every checked argument is an int or is cut to 32 bits by the kernel, and both architectures are little-endian. */
#define ARGUMENT(n) ((uint32_t)(offsetof(struct seccomp_data, args) + 8 * (n)))

enum {
    NUMBERS = 512,
    NAMESPACES_NEVER = (int)(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWCGROUP),
    NAMESPACES_ALL = (int)(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWCGROUP | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC |
                           CLONE_NEWUTS),
    SOCKET_TYPE_MASK = 0xf,
    NETLINK_ROUTE_PROTOCOL = 0,
};

static void emit(struct program *p, uint16_t code, uint32_t k, uint8_t jt, uint8_t jf) {
    if (p->length == sizeof p->code / sizeof *p->code)
        abort();
    p->code[p->length++] = (struct sock_filter){.code = code, .jt = jt, .jf = jf, .k = k};
}

static void load(struct program *p, uint32_t offset) { emit(p, BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }

static void verdict(struct program *p, uint32_t action) { emit(p, BPF_RET | BPF_K, action, 0, 0); }

static void if_equal(struct program *p, uint32_t value, uint32_t action) {
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 1);
    verdict(p, action);
}

static void if_any_bit(struct program *p, uint32_t mask, uint32_t action) {
    emit(p, BPF_JMP | BPF_JSET | BPF_K, mask, 0, 1);
    verdict(p, action);
}

/* A block for one value of the accumulator; every way through it must end in a verdict. */
static unsigned short block_begin(struct program *p, uint32_t value) {
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, value, 0, 0);
    return (unsigned short)(p->length - 1);
}

static void block_end(struct program *p, unsigned short begin) {
    unsigned skip = p->length - begin - 1u;
    if (skip > 255)
        abort();
    p->code[begin].jf = (uint8_t)skip;
}

static void check_flags(struct program *p, int number, uint32_t refused) {
    unsigned short block = block_begin(p, (uint32_t)number);
    load(p, ARGUMENT(0));
    if_any_bit(p, refused, REFUSE(EPERM));
    verdict(p, ALLOW);
    block_end(p, block);
}

static void check_namespaces(struct program *p, enum filter_kind kind) {
    uint32_t refused = kind == FILTER_TEMPLATE ? NAMESPACES_NEVER : NAMESPACES_ALL;
    check_flags(p, __NR_clone, refused);
    /* In clone's flags the bit of CLONE_NEWTIME belongs to the exit signal. */
    check_flags(p, __NR_unshare, refused | CLONE_NEWTIME);
    unsigned short block = block_begin(p, __NR_setns);
    if (kind == FILTER_TEMPLATE) {
        load(p, ARGUMENT(1));
        if_equal(p, CLONE_NEWPID, ALLOW);
    }
    verdict(p, REFUSE(EPERM));
    block_end(p, block);
}

static void check_sockets(struct program *p) {
    unsigned short socket_block = block_begin(p, __NR_socket);
    load(p, ARGUMENT(0));
    if_equal(p, AF_UNIX, ALLOW);
    unsigned short netlink = block_begin(p, AF_NETLINK);
    load(p, ARGUMENT(2));
    if_equal(p, NETLINK_ROUTE_PROTOCOL, ALLOW);
    verdict(p, REFUSE(EPROTONOSUPPORT));
    block_end(p, netlink);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, AF_INET, 2, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, AF_INET6, 1, 0);
    verdict(p, REFUSE(EAFNOSUPPORT));
    load(p, ARGUMENT(1));
    emit(p, BPF_ALU | BPF_AND | BPF_K, SOCKET_TYPE_MASK, 0, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, SOCK_STREAM, 2, 0);
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, SOCK_DGRAM, 1, 0);
    verdict(p, REFUSE(EPERM));
    load(p, ARGUMENT(2));
    static const uint32_t protocols[] = {0, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_ICMP, IPPROTO_ICMPV6};
    for (size_t i = 0; i < sizeof protocols / sizeof *protocols; i++)
        if_equal(p, protocols[i], ALLOW);
    verdict(p, REFUSE(EPROTONOSUPPORT));
    block_end(p, socket_block);

    unsigned short pair_block = block_begin(p, __NR_socketpair);
    load(p, ARGUMENT(0));
    if_equal(p, AF_UNIX, ALLOW);
    verdict(p, REFUSE(EAFNOSUPPORT));
    block_end(p, pair_block);
}

/* A template enters roots whose /usr is this machine's own. Read-only is a flag of that mount, and nothing locks it: a
 * remount could take it away. */
static void check_mounts(struct program *p) {
    unsigned short block = block_begin(p, __NR_mount);
    load(p, ARGUMENT(3));
    if_any_bit(p, MS_REMOUNT, REFUSE(EPERM));
    verdict(p, ALLOW);
    block_end(p, block);
}

/* Memory that the kernel may drop, and empties at a fork, is where glibc 2.41 keeps random bytes that getrandom gives
 * without a system call (Linux 6.11's vDSO). A snapshot would hold them, CRIU restores them as memory like any other, and
 * all copies would draw the same: so there is none in what is copied, and each call asks the kernel. */
static void check_mappings(struct program *p) {
    unsigned short block = block_begin(p, __NR_mmap);
    load(p, ARGUMENT(3));
    emit(p, BPF_ALU | BPF_AND | BPF_K, MAP_TYPE, 0, 0);
    if_equal(p, MAP_DROPPABLE, REFUSE(EINVAL));
    verdict(p, ALLOW);
    block_end(p, block);
}

static void check_the_rest(struct program *p) {
    unsigned short block = block_begin(p, __NR_ioctl);
    load(p, ARGUMENT(1));
    if_equal(p, TIOCSTI, REFUSE(EPERM));
    if_equal(p, TIOCLINUX, REFUSE(EPERM));
    verdict(p, ALLOW);
    block_end(p, block);

    block = block_begin(p, __NR_prctl);
    load(p, ARGUMENT(0));
    if_equal(p, PR_SET_MM, REFUSE(EPERM));
    verdict(p, ALLOW);
    block_end(p, block);

    /* Of process 1 the container's root is the same user, and that is all which the kernel asks: without descriptors it
     * hears nobody. */
    block = block_begin(p, __NR_prlimit64);
    load(p, ARGUMENT(0));
    if_equal(p, 1, REFUSE(EPERM));
    verdict(p, ALLOW);
    block_end(p, block);

    block = block_begin(p, __NR_personality);
    load(p, ARGUMENT(0));
    if_equal(p, 0, ALLOW);
    if_equal(p, 0xffffffffu, ALLOW);
    verdict(p, REFUSE(EPERM));
    block_end(p, block);
}

static void set(uint32_t *verdicts, const int *numbers, size_t count, uint32_t action) {
    for (size_t i = 0; i < count; i++)
        verdicts[numbers[i]] = action;
}

static void allow_list(struct program *p, enum filter_kind kind) {
    check_namespaces(p, kind);
    check_sockets(p);
    check_the_rest(p);
    if (kind == FILTER_TEMPLATE) {
        check_mounts(p);
        check_mappings(p);
    }

    uint32_t verdicts[NUMBERS];
    for (int number = 0; number < NUMBERS; number++)
        verdicts[number] = REFUSE(ENOSYS);
    set(verdicts, syscalls_allowed, syscalls_allowed_count, ALLOW);
    set(verdicts, syscalls_refused, syscalls_refused_count, REFUSE(EPERM));
    if (kind == FILTER_CONTAINER)
        verdicts[__NR_chroot] = ALLOW;
    set(verdicts, syscalls_template_only, syscalls_template_only_count,
        kind == FILTER_TEMPLATE ? ALLOW : REFUSE(EPERM));
    /* Never reached (their blocks decide); allowed here so that they do not cut a run in two. */
    static const int decided[] = {__NR_clone,      __NR_unshare, __NR_setns, __NR_socket,
                                  __NR_socketpair, __NR_ioctl,   __NR_prctl, __NR_personality,
                                  __NR_prlimit64};
    set(verdicts, decided, sizeof decided / sizeof *decided, ALLOW);
    for (int number = 0; number < NUMBERS; number++) {
        if (number + 1 < NUMBERS && verdicts[number + 1] == verdicts[number])
            continue;
        emit(p, BPF_JMP | BPF_JGT | BPF_K, (uint32_t)number, 1, 0);
        verdict(p, verdicts[number]);
    }
    verdict(p, REFUSE(ENOSYS));
}

static void refusals(struct program *p) {
    check_namespaces(p, FILTER_INSTANCE);
    for (size_t i = 0; i < syscalls_template_only_count; i++)
        if_equal(p, (uint32_t)syscalls_template_only[i], REFUSE(EPERM));
    verdict(p, ALLOW);
}

void filter_build(struct program *p, enum filter_kind kind) {
    memset(p, 0, sizeof *p);
    load(p, offsetof(struct seccomp_data, arch));
    emit(p, BPF_JMP | BPF_JEQ | BPF_K, ARCHITECTURE, 1, 0);
    verdict(p, SECCOMP_RET_KILL_PROCESS);
    load(p, offsetof(struct seccomp_data, nr));
    if (kind == FILTER_INSTANCE)
        refusals(p);
    else
        allow_list(p, kind);
}
