/* What the files of `quilt-init serve` share: pid 1 of a container that its users run commands in.
 *
 *   serve.c      sets up, then one loop of poll over everything below
 *   peers.c      who is connected from outside, what they ask, what they are told
 *   children.c   the commands that were started, and their ends
 *   spawn.c      one command: pipes or a terminal, user, folder, exec
 *   users.c      a user's ids from the container's own passwd and group
 *   capture.c    the main command's output into two files of bounded size
 */
#ifndef QUILT_SERVE_H
#define QUILT_SERVE_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum { MESSAGE_LIMIT = 160 * 1024, PEERS = 16, CHILDREN = 2048, STRINGS = 8192, REAPED_A_TURN = 512 };

enum operation { OP_STATUS = 1, OP_RUN, OP_KILL, OP_LOG };
enum { RUN_TTY = 1, RUN_MAIN = 2, RUN_FOLDER = 4 };
enum { KILL_GROUP = 1 };

/* Native integers, then `argc + envc + 2` strings, each ended by NUL: folder, user ("" for root), arguments,
 * environment. With RUN_FOLDER nothing is executed: root makes the folder where it is not there, and that is all.
 * The two columns and rows are a terminal's; for OP_KILL a is the pid and b the signal; for OP_LOG a is
 * the limit of a file in bytes, and two descriptors come along, or none to give the present ones up. */
struct request {
    uint32_t op, id, flags;
    int32_t a, b;
    uint32_t argc, envc;
};

enum answer_kind { A_STATUS = 1, A_STARTED, A_FAILED, A_ENDED, A_DONE, A_MAIN_ENDED };

/* A_STATUS: a the main command's pid or 0, b its wait status or -1, c whether anything else runs.
 * A_STARTED: a the pid; descriptors stdin, stdout, stderr, or one of a terminal, or none for the main command.
 * A_FAILED: a errno, b an enum step. A_ENDED, A_MAIN_ENDED: a the pid, b the wait status. A_DONE: a errno or 0. */
struct answer {
    uint32_t kind, id;
    int32_t a, b, c;
};

enum step { STEP_NONE, STEP_ROOM, STEP_TERMINAL, STEP_USER, STEP_FOLDER, STEP_EXEC, STEP_MESSAGE };

struct command {
    uint32_t flags;
    int columns, rows;
    char *folder, *user;
    char **argv, **environment;
};

struct spawned {
    pid_t pid;
    int report;   /* end of file when the command runs, else a struct failure */
    int outer[3]; /* stdin, stdout, stderr; a terminal is outer[0] alone; -1 for what is not there */
};

struct failure {
    int32_t error, step;
};

/* spawn.c: 0, or an errno with the step in `*step`. */
void spawn_prepare(void);
int spawn(const struct command *command, struct spawned *made, int *step);

/* users.c: false where the container knows no such user or group. `spec` is "", name, uid, name:group or uid:gid. */
struct identity {
    uid_t uid;
    gid_t gid, groups[64];
    int group_count;
    char home[256], name[80];
};
bool users_find(const char *spec, struct identity *found);

/* children.c */
int children_run(int peer, uint32_t id, const struct command *command, int *step);
bool children_reap(void); /* whether there may be more to reap: a turn takes a bounded number */
void children_orphan(int peer);
void children_flush(int peer);
size_t children_poll(struct pollfd *polls);
void children_ready(const struct pollfd *poll);
pid_t children_main(int *status);

/* peers.c: `peers_tell` is false where the peer's socket is full now, so that it has to be told again. */
int peers_listen(void);
void peers_accept(int listener);
size_t peers_poll(struct pollfd *polls);
void peers_ready(const struct pollfd *poll);
bool peers_tell(int peer, const struct answer *answer, const int *fds, int count);
void peers_tell_all(const struct answer *answer);

/* capture.c: takes the read ends of the main command's stdout and stderr over. */
void capture_files(const int files[2], off_t limit);
void capture_source(int out, int err);
void capture_last_words(void); /* what stands in the pipes now is in the files when this returns */
size_t capture_poll(struct pollfd *polls);
void capture_ready(const struct pollfd *poll);

int run_serve(int argc, char **argv);

#endif
