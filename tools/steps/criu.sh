# CRIU ≥ 4.1: the distribution's where it is new enough, else one unpacked into .tools/criu that no other program sees.
# Result: .tools/criu/argv, a JSON list to which a criu command's arguments are appended. Not here: whether this kernel can use it (doctor).

CRIU_WANTED=4.1
CRIU_SUITE=trixie # the first Debian release whose CRIU is new enough

criu_step() {
    local argv=$ROOT/.tools/criu/argv
    if [[ -s $argv ]] && criu_works "$argv"; then return 0; fi
    mkdir -p "$ROOT/.tools/criu"
    if ! criu_from_path && ! criu_from_apt && ! criu_unpacked; then
        rm -f "$argv"
        warn "no CRIU ≥ $CRIU_WANTED: starts will be forks and boots, never restores (\`quilt doctor\` says more)"
        return 0
    fi
    criu_works "$argv" || { rm -f "$argv"; warn "CRIU does not run here: starts will be forks and boots"; return 0; }
    quietly "criu check" criu_run "$argv" check || warn "this kernel misses something that CRIU needs; restores may not work"
}

criu_run() { # ARGV-FILE ARGUMENT…
    local file=$1 words
    shift
    mapfile -t words < <(/usr/bin/python3 -c 'import json,sys; print("\n".join(json.load(open(sys.argv[1]))))' "$file")
    "${words[@]}" "$@"
}

criu_works() {
    local version
    version=$(criu_run "$1" --version 2>/dev/null | sed -n 's/^Version: //p')
    [[ -n $version ]] && version_at_least "$version" "$CRIU_WANTED"
}

criu_write_argv() { # WORD…
    /usr/bin/python3 -c 'import json,sys; print(json.dumps(sys.argv[1:]))' "$@" >"$ROOT/.tools/criu/argv.new"
    mv "$ROOT/.tools/criu/argv.new" "$ROOT/.tools/criu/argv"
}

criu_from_path() {
    local program version
    program=$(command -v criu) || return 1
    version=$("$program" --version 2>/dev/null | sed -n 's/^Version: //p')
    [[ -n $version ]] && version_at_least "$version" "$CRIU_WANTED" && criu_write_argv "$program"
}

criu_from_apt() {
    local candidate
    apt_update_once || return 1
    candidate=$(apt-cache policy criu 2>/dev/null | sed -n 's/^ *Candidate: //p')
    [[ -n $candidate && $candidate != "(none)" ]] && version_at_least "$candidate" "$CRIU_WANTED" || return 1
    say "installing CRIU $candidate"
    apt_install criu && criu_from_path
}

criu_unpacked() {
    local work=$ROOT/.tools/criu/work site keyring packages root loader libs missing
    local -a apt
    site=$(debian_site) || { warn "apt has no Debian site from which CRIU could come"; return 1; }
    keyring=$(debian_keyring) || { warn "no Debian archive keyring that knows $CRIU_SUITE"; return 1; }
    say "unpacking CRIU of Debian $CRIU_SUITE into .tools/criu"
    rm -rf "$work" && mkdir -p "$work"/{lists/partial,cache/archives/partial,deb} && : >"$work/status"
    echo "deb [signed-by=$keyring] $site $CRIU_SUITE main" >"$work/sources.list"
    apt=(-q -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=/dev/null -o Dir::Etc::preferences=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null -o Dir::State::lists="$work/lists" -o Dir::State::status="$work/status"
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root -o APT::Default-Release= -o Acquire::Languages=none
        -o Acquire::Retries=3)
    quietly "reading the package lists of $CRIU_SUITE" apt-get "${apt[@]}" update || return 1
    packages=$(apt-cache "${apt[@]}" depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances criu | sed -n 's/^\(lib[a-z0-9.+-]*\)$/\1/p' | sort -u)
    [[ -n $packages ]] || return 1
    # shellcheck disable=SC2086 # one word for each package is what is wanted
    (cd "$work/deb" && quietly "downloading CRIU and its libraries" apt-get "${apt[@]}" download criu $packages) || return 1
    root=$ROOT/.tools/criu/root
    rm -rf "$root" && mkdir -p "$root"
    for package in "$work"/deb/*.deb; do dpkg -x "$package" "$root" || return 1; done
    loader=$(find "$root" -name 'ld-linux*.so.*' -type f | sort | head -n 1)
    [[ -n $loader ]] || return 1
    libs=$(find "$root" -name 'lib*.so.*' -printf '%h\n' | grep -E '/lib/[^/]+-linux-gnu[^/]*$' | sort -u | paste -sd:)
    missing=$("$loader" --library-path "$libs" --list "$root/usr/sbin/criu" | grep -F 'not found')
    [[ -z $missing ]] || { warn "CRIU's libraries are not complete: $missing"; return 1; }
    criu_trim "$root" "$loader" "$libs"
    rm -rf "$work"
    criu_write_argv "$loader" --library-path "$libs" "$root/usr/sbin/criu"
}

# Keep the program, its loader and the libraries that it loads: a tenth of what was unpacked.
criu_trim() { # ROOT LOADER LIBRARY-PATH
    local keep
    keep=$(mktemp)
    {
        readlink -f "$2" "$1/usr/sbin/criu"
        "$2" --library-path "$3" --list "$1/usr/sbin/criu" | awk '$3 ~ /^\// {print $3}' | xargs readlink -f
    } | sort -u >"$keep"
    find "$1" -type f | grep -vxF -f "$keep" | xargs -d '\n' rm -f
    find "$1" -xtype l -delete
    find "$1" -type d -empty -delete
    rm -f "$keep"
}
