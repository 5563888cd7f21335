# The user of the node process and of the private Redis: no login, no home, no group but its own.
# Not here: whether it can read the code (doctor says so; set-up changes no permissions outside the project).

user_step() {
    local name=${QUILT_USER:-quilt}
    getent passwd "$name" >/dev/null && return 0
    say "making the system user $name"
    quietly "useradd" useradd --system --user-group --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin "$name"
}
