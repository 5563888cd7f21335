# What the steps share: messages, and finding out what is missing. It installs nothing by itself.

say() { printf 'setup: %s\n' "$*" >&2; }
warn() { printf 'setup: WARNING: %s\n' "$*" >&2; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

# quietly LABEL COMMAND…: the command's output is shown only where it failed.
quietly() {
    local label=$1 log status=0
    shift
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if ((status)); then
        printf 'setup: %s failed (exit %s):\n' "$label" "$status" >&2
        tail -n 40 "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

# version_at_least HAVE WANT
version_at_least() { dpkg --compare-versions "$1" ge "$2"; }

