/* Capabilities: bounding, ambient, effective, permitted and inheritable sets in one call.
 * Not here: which ones to keep (container.c, instance.c). */
#include "init.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int caps_keep_only(uint64_t keep) {
    /* The bounding set first: shrinking it needs CAP_SETPCAP. The kernel answers EINVAL above its last capability. */
    for (int cap = 0; cap < 64; cap++) {
        int present = prctl(PR_CAPBSET_READ, cap, 0L, 0L, 0L);
        if (present < 0)
            break;
        if (present && !(keep >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0L, 0L, 0L) < 0)
            return -1;
    }
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0L, 0L, 0L) < 0)
        return -1;
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &header, data) < 0)
        return -1;
    for (int word = 0; word < 2; word++) {
        uint32_t mask = (uint32_t)(keep >> (32 * word));
        data[word].permitted &= mask;
        data[word].effective = data[word].permitted;
        data[word].inheritable = 0;
    }
    return (int)syscall(SYS_capset, &header, data);
}
