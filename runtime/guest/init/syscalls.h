/* The lists of system calls, by what becomes of them. What is in no list, and every number newer than these, is ENOSYS. */
#ifndef QUILT_SYSCALLS_H
#define QUILT_SYSCALLS_H

#include <stddef.h>

extern const int syscalls_allowed[];
extern const size_t syscalls_allowed_count;
/* What a template needs to enter an instance's root, and an instance does not: EPERM there. */
extern const int syscalls_template_only[];
extern const size_t syscalls_template_only_count;
/* Known and refused with EPERM, because programs take that for an answer where ENOSYS would surprise them. */
extern const int syscalls_refused[];
extern const size_t syscalls_refused_count;

#endif
