/* A user's ids, from the container's own /etc/passwd and /etc/group. Runs in the child that will become the command: the
 * files are the container's, and may be anything. */
#define _GNU_SOURCE
#include "serve.h"

#include <ctype.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static FILE *open_regular(const char *path) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    struct stat found;
    if (fd < 0)
        return NULL;
    if (fstat(fd, &found) < 0 || !S_ISREG(found.st_mode)) {
        close(fd);
        return NULL;
    }
    return fdopen(fd, "r");
}

static bool number(const char *text, unsigned *value) {
    char *end;
    if (!isdigit((unsigned char)*text))
        return false;
    unsigned long found = strtoul(text, &end, 10);
    *value = (unsigned)found;
    return *end == '\0' && found < 65536;
}

static void copy(char *target, size_t size, const char *source) { snprintf(target, size, "%s", source); }

static bool find_user(const char *name, struct identity *found) {
    unsigned uid;
    bool numeric = number(name, &uid), known = false;
    FILE *file = open_regular("/etc/passwd");
    struct passwd *entry;
    while (file && !known && (entry = fgetpwent(file))) {
        if (numeric ? entry->pw_uid != uid : strcmp(entry->pw_name, name) != 0)
            continue;
        known = true;
        found->uid = entry->pw_uid, found->gid = entry->pw_gid;
        copy(found->home, sizeof found->home, entry->pw_dir);
        copy(found->name, sizeof found->name, entry->pw_name);
    }
    if (file)
        fclose(file);
    if (known || !numeric)
        return known;
    found->uid = uid, found->gid = uid;
    copy(found->home, sizeof found->home, "/");
    copy(found->name, sizeof found->name, name);
    return true;
}

static bool is_member(const struct group *group, const char *name) {
    for (char **member = group->gr_mem; *member; member++)
        if (strcmp(*member, name) == 0)
            return true;
    return false;
}

static bool find_groups(const char *wanted, struct identity *found) {
    unsigned gid = 0;
    bool numeric = wanted && number(wanted, &gid), known = !wanted || numeric;
    if (numeric)
        found->gid = gid;
    FILE *file = open_regular("/etc/group");
    struct group *entry;
    while (file && (entry = fgetgrent(file))) {
        if (wanted && !numeric && strcmp(entry->gr_name, wanted) == 0) {
            found->gid = entry->gr_gid;
            known = true;
        }
        if (!wanted && is_member(entry, found->name) && found->group_count < (int)(sizeof found->groups / sizeof *found->groups))
            found->groups[found->group_count++] = entry->gr_gid;
    }
    if (file)
        fclose(file);
    return known;
}

bool users_find(const char *spec, struct identity *found) {
    memset(found, 0, sizeof *found);
    if (!*spec) {
        copy(found->home, sizeof found->home, "/root");
        copy(found->name, sizeof found->name, "root");
        return true;
    }
    char name[80];
    copy(name, sizeof name, spec);
    char *group = strchr(name, ':');
    if (group)
        *group++ = '\0';
    return find_user(name, found) && find_groups(group, found);
}
