# What is ours in C: the static init with the two seccomp filters that it writes, and the library that makes a CRIU wait.
# Built when a source is newer than what was built. Not here: what they do (runtime/guest/init, runtime/spawner/criu).

guest_step() {
    local bin=.tools/bin source stale= name
    local -a sources=(runtime/guest/init/*.c)
    [[ -e ${sources[0]} ]] || { warn "no source of the static init in runtime/guest/init; nothing was built"; return 0; }
    for source in runtime/guest/init/*; do
        [[ $bin/quilt-init -nt $source ]] || stale=yes
    done
    if [[ -n $stale ]]; then
        say "building the static init"
        built quilt-init -static "${sources[@]}" || return 1
    fi
    for name in instance template; do
        [[ $bin/$name.bpf -nt $bin/quilt-init ]] && continue
        if ! "$bin/quilt-init" filter "$name" >"$bin/$name.bpf.new"; then
            rm -f "$bin/$name.bpf.new"
            warn "quilt-init cannot write the seccomp filter \`$name\`"
            return 1
        fi
        mv "$bin/$name.bpf.new" "$bin/$name.bpf"
    done
    if [[ ! $bin/criu-waiting.so -nt runtime/spawner/criu/waiting.c ]]; then
        say "building the library that makes a CRIU wait"
        built criu-waiting.so -shared -fPIC runtime/spawner/criu/waiting.c || return 1
    fi
}

# built NAME FLAG… SOURCE…: compile to .tools/bin/NAME, which is there whole or not at all.
built() {
    local target=.tools/bin/$1
    shift
    quietly "cc" cc -O2 -Wall -Wextra -Werror -o "$target.new" "$@" && chmod 755 "$target.new" && mv "$target.new" "$target"
}
