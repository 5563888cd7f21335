/* The lists. x86_64 and aarch64: a call that one of the two has not is guarded; names newer than the oldest supported
 * headers (Linux 6.1) are defined here, since their numbers are the same on both. */
#include "syscalls.h"

#include <sys/syscall.h>

#ifndef __NR_cachestat
#define __NR_cachestat 451
#endif
#ifndef __NR_fchmodat2
#define __NR_fchmodat2 452
#endif
#ifndef __NR_map_shadow_stack
#define __NR_map_shadow_stack 453
#endif
#ifndef __NR_futex_wake
#define __NR_futex_wake 454
#endif
#ifndef __NR_futex_wait
#define __NR_futex_wait 455
#endif
#ifndef __NR_futex_requeue
#define __NR_futex_requeue 456
#endif
#ifndef __NR_mseal
#define __NR_mseal 462
#endif
#ifndef __NR_setxattrat
#define __NR_setxattrat 463
#endif
#ifndef __NR_getxattrat
#define __NR_getxattrat 464
#endif
#ifndef __NR_listxattrat
#define __NR_listxattrat 465
#endif
#ifndef __NR_removexattrat
#define __NR_removexattrat 466
#endif
#ifndef __NR_open_tree_attr
#define __NR_open_tree_attr 467
#endif

const int syscalls_allowed[] = {
    /* files */
    __NR_read, __NR_write, __NR_openat, __NR_openat2, __NR_close, __NR_close_range, __NR_fstat,
    __NR_newfstatat, __NR_statx, __NR_statfs, __NR_fstatfs, __NR_faccessat, __NR_faccessat2, __NR_lseek, __NR_pread64,
    __NR_pwrite64, __NR_readv, __NR_writev, __NR_preadv, __NR_pwritev, __NR_preadv2, __NR_pwritev2, __NR_dup,
    __NR_dup3, __NR_pipe2, __NR_fcntl, __NR_flock, __NR_fsync, __NR_fdatasync, __NR_sync, __NR_syncfs,
    __NR_sync_file_range, __NR_truncate, __NR_ftruncate, __NR_fallocate, __NR_fadvise64, __NR_readahead,
    __NR_getdents64, __NR_getcwd, __NR_chdir, __NR_fchdir, __NR_renameat, __NR_renameat2, __NR_mkdirat, __NR_linkat,
    __NR_unlinkat, __NR_symlinkat, __NR_readlinkat, __NR_mknodat, __NR_fchmod, __NR_fchmodat, __NR_fchmodat2,
    __NR_fchown, __NR_fchownat, __NR_umask, __NR_utimensat, __NR_sendfile, __NR_copy_file_range, __NR_splice,
    __NR_tee, __NR_vmsplice, __NR_name_to_handle_at, __NR_cachestat, __NR_memfd_create,
#ifdef __x86_64__
    __NR_open, __NR_creat, __NR_stat, __NR_lstat,
    __NR_access, __NR_dup2, __NR_pipe, __NR_getdents, __NR_rename, __NR_mkdir, __NR_rmdir,
    __NR_link, __NR_unlink, __NR_symlink, __NR_readlink, __NR_mknod, __NR_chmod, __NR_chown, __NR_lchown, __NR_utime,
    __NR_utimes, __NR_futimesat,
#endif
    /* extended attributes */
    __NR_setxattr, __NR_lsetxattr, __NR_fsetxattr, __NR_getxattr, __NR_lgetxattr, __NR_fgetxattr, __NR_listxattr,
    __NR_llistxattr, __NR_flistxattr, __NR_removexattr, __NR_lremovexattr, __NR_fremovexattr, __NR_setxattrat,
    __NR_getxattrat, __NR_listxattrat, __NR_removexattrat,
    /* waiting */
    __NR_pselect6, __NR_ppoll, __NR_epoll_create1, __NR_epoll_ctl, __NR_epoll_pwait, __NR_epoll_pwait2, __NR_eventfd2,
    __NR_signalfd4, __NR_inotify_init1, __NR_inotify_add_watch, __NR_inotify_rm_watch, __NR_io_setup, __NR_io_submit,
    __NR_io_cancel, __NR_io_getevents, __NR_io_pgetevents, __NR_io_destroy,
#ifdef __x86_64__
    __NR_select, __NR_poll, __NR_epoll_create, __NR_epoll_ctl_old, __NR_epoll_wait, __NR_epoll_wait_old, __NR_eventfd,
    __NR_signalfd, __NR_inotify_init,
#endif
    /* memory */
    __NR_brk, __NR_mmap, __NR_munmap, __NR_mprotect, __NR_mremap, __NR_msync, __NR_madvise, __NR_mincore, __NR_mlock,
    __NR_mlock2, __NR_mlockall, __NR_munlock, __NR_munlockall, __NR_remap_file_pages, __NR_membarrier,
    __NR_pkey_alloc, __NR_pkey_free, __NR_pkey_mprotect, __NR_get_mempolicy, __NR_map_shadow_stack, __NR_mseal,
    /* processes and threads */
    __NR_execve, __NR_execveat, __NR_exit, __NR_exit_group, __NR_wait4, __NR_waitid, __NR_kill, __NR_tkill,
    __NR_tgkill, __NR_getpid, __NR_getppid, __NR_gettid, __NR_getpgid, __NR_setpgid, __NR_getsid, __NR_setsid,
    __NR_set_tid_address, __NR_set_robust_list, __NR_get_robust_list, __NR_futex, __NR_futex_waitv, __NR_futex_wake,
    __NR_futex_wait, __NR_futex_requeue, __NR_rseq, __NR_restart_syscall, __NR_pidfd_open, __NR_pidfd_send_signal,
    __NR_times, __NR_getrusage, __NR_getrlimit, __NR_setrlimit, __NR_prlimit64, __NR_getpriority, __NR_setpriority,
    __NR_ioprio_get, __NR_ioprio_set, __NR_capget, __NR_capset, __NR_seccomp, __NR_landlock_create_ruleset,
    __NR_landlock_add_rule, __NR_landlock_restrict_self,
#ifdef __x86_64__
    __NR_fork, __NR_vfork, __NR_getpgrp, __NR_arch_prctl,
#endif
    /* scheduling */
    __NR_sched_yield, __NR_sched_getaffinity, __NR_sched_setaffinity, __NR_sched_getparam, __NR_sched_setparam,
    __NR_sched_getscheduler, __NR_sched_setscheduler, __NR_sched_getattr, __NR_sched_setattr,
    __NR_sched_get_priority_max, __NR_sched_get_priority_min, __NR_sched_rr_get_interval, __NR_getcpu,
    /* signals */
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_rt_sigpending, __NR_rt_sigsuspend,
    __NR_rt_sigtimedwait, __NR_rt_sigqueueinfo, __NR_rt_tgsigqueueinfo, __NR_sigaltstack,
#ifdef __x86_64__
    __NR_pause, __NR_alarm,
#endif
    /* users */
    __NR_getuid, __NR_geteuid, __NR_getgid, __NR_getegid, __NR_getgroups, __NR_getresuid, __NR_getresgid, __NR_setuid,
    __NR_setgid, __NR_setreuid, __NR_setregid, __NR_setresuid, __NR_setresgid, __NR_setgroups, __NR_setfsuid,
    __NR_setfsgid,
    /* time */
    __NR_gettimeofday, __NR_clock_gettime, __NR_clock_getres, __NR_clock_nanosleep, __NR_nanosleep, __NR_getitimer,
    __NR_setitimer, __NR_timer_create, __NR_timer_settime, __NR_timer_gettime, __NR_timer_getoverrun,
    __NR_timer_delete, __NR_timerfd_create, __NR_timerfd_settime, __NR_timerfd_gettime,
#ifdef __x86_64__
    __NR_time,
#endif
    /* sockets */
    __NR_bind, __NR_connect, __NR_listen, __NR_accept, __NR_accept4, __NR_getsockname, __NR_getpeername,
    __NR_getsockopt, __NR_setsockopt, __NR_sendto, __NR_recvfrom, __NR_sendmsg, __NR_recvmsg, __NR_sendmmsg,
    __NR_recvmmsg, __NR_shutdown,
    /* System V and POSIX ipc */
    __NR_shmget, __NR_shmat, __NR_shmctl, __NR_shmdt, __NR_semget, __NR_semop, __NR_semctl, __NR_semtimedop,
    __NR_msgget, __NR_msgsnd, __NR_msgrcv, __NR_msgctl, __NR_mq_open, __NR_mq_unlink, __NR_mq_timedsend,
    __NR_mq_timedreceive, __NR_mq_notify, __NR_mq_getsetattr,
    /* the system */
    __NR_uname, __NR_sysinfo, __NR_getrandom,
};
const size_t syscalls_allowed_count = sizeof syscalls_allowed / sizeof *syscalls_allowed;

const int syscalls_template_only[] = {
    __NR_mount, __NR_umount2, __NR_pivot_root, __NR_move_mount, __NR_sethostname, __NR_setdomainname,
};
const size_t syscalls_template_only_count = sizeof syscalls_template_only / sizeof *syscalls_template_only;

const int syscalls_refused[] = {
    /* mounts, the new way */
    __NR_fsopen, __NR_fsconfig, __NR_fsmount, __NR_fspick, __NR_open_tree, __NR_open_tree_attr, __NR_mount_setattr,
    __NR_chroot,
    /* other processes */
    __NR_ptrace, __NR_process_vm_readv, __NR_process_vm_writev, __NR_process_madvise, __NR_process_mrelease,
    __NR_pidfd_getfd, __NR_kcmp, __NR_perf_event_open,
    /* kernel facilities with a history */
    __NR_bpf, __NR_keyctl, __NR_add_key, __NR_request_key, __NR_io_uring_setup, __NR_io_uring_enter,
    __NR_io_uring_register, __NR_userfaultfd, __NR_open_by_handle_at, __NR_lookup_dcookie, __NR_fanotify_init,
    __NR_fanotify_mark, __NR_memfd_secret,
#ifdef __x86_64__
    __NR_modify_ldt,
#endif
    /* placement on NUMA nodes */
    __NR_mbind, __NR_set_mempolicy, __NR_set_mempolicy_home_node, __NR_migrate_pages, __NR_move_pages,
    /* the machine */
    __NR_init_module, __NR_finit_module, __NR_delete_module, __NR_kexec_load, __NR_kexec_file_load, __NR_reboot,
    __NR_swapon, __NR_swapoff, __NR_quotactl, __NR_quotactl_fd, __NR_acct, __NR_settimeofday, __NR_clock_settime,
    __NR_adjtimex, __NR_clock_adjtime, __NR_syslog, __NR_vhangup, __NR_nfsservctl,
#ifdef __x86_64__
    __NR_iopl, __NR_ioperm,
#endif
};
const size_t syscalls_refused_count = sizeof syscalls_refused / sizeof *syscalls_refused;
