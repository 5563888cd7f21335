# The static init and the two seccomp filters that it writes: built when a source is newer than what was built.
# Not here: what they do (runtime/guest/init).

guest_step() {
    local bin=.tools/bin source stale= name
    local -a sources=(runtime/guest/init/*.c)
    [[ -e ${sources[0]} ]] || { warn "no source of the static init in runtime/guest/init; nothing was built"; return 0; }
    for source in runtime/guest/init/*; do
        [[ $bin/quilt-init -nt $source ]] || stale=yes
    done
    if [[ -n $stale ]]; then
        say "building the static init"
        quietly "cc" cc -static -O2 -Wall -Wextra -Werror -o "$bin/quilt-init.new" "${sources[@]}" || return 1
        chmod 755 "$bin/quilt-init.new" && mv "$bin/quilt-init.new" "$bin/quilt-init" || return 1
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
}
