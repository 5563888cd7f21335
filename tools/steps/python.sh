# The project's own Python: .venv from the system's interpreter (one that any user can read), filled from the hash lock.
# uv comes first, into .tools/uv, at the version and with the hashes that the lock gives. Not here: writing the lock (tools/lock).

SYSTEM_PYTHON=/usr/bin/python3

python_step() {
    local lock=requirements-dev.lock stamp=.venv/.quilt-stamp want
    [[ ${QUILT_SETUP_CORE:-} ]] && lock=requirements.lock
    "$SYSTEM_PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "$SYSTEM_PYTHON is older than Python 3.11"
    python_venv_fits || rm -f "$stamp"
    want=$({ "$SYSTEM_PYTHON" -VV; echo "$ROOT"; cat "$lock"; sed -n '/^\[project/,/^\[tool/p' pyproject.toml; } | sha256sum)
    [[ -e $stamp && $(<"$stamp") == "$want" ]] && return 0

    python_uv || return 1
    if ! python_venv_fits; then
        say "making .venv from $SYSTEM_PYTHON"
        rm -rf .venv
        quietly "uv venv" python_uv_run venv --python "$SYSTEM_PYTHON" .venv || return 1
    fi
    say "installing what $lock lists"
    quietly "installing packages" python_uv_run pip install --python .venv/bin/python --require-hashes -r "$lock" || return 1
    quietly "installing the project" python_uv_run pip install --python .venv/bin/python --no-deps --no-build-isolation \
        --config-settings editable_mode=compat -e . || return 1
    chmod -R a+rX .venv || return 1
    echo "$want" >"$stamp"
}

python_venv_fits() {
    [[ -x .venv/bin/python && -r .venv/pyvenv.cfg ]] || return 1
    grep -qx 'home = /usr/bin' .venv/pyvenv.cfg || return 1
    [[ $(.venv/bin/python -VV 2>/dev/null) == "$("$SYSTEM_PYTHON" -VV)" ]]
}

# With the certificates that the machine trusts; without python downloads or another project's environment.
python_uv_run() { env -u VIRTUAL_ENV -u PYTHONPATH UV_SYSTEM_CERTS=1 UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1 UV_HTTP_TIMEOUT=120 .tools/uv/bin/uv "$@"; }

python_uv() {
    local pinned
    pinned=$(sed -n 's/^uv==\([^ ]*\).*/\1/p' requirements.lock)
    [[ -n $pinned ]] || die "requirements.lock has no uv"
    [[ $(.tools/uv/bin/uv --version 2>/dev/null) == "uv $pinned"* ]] && return 0
    say "fetching uv $pinned"
    rm -rf .tools/uv
    quietly "python3 -m venv" "$SYSTEM_PYTHON" -m venv .tools/uv || return 1
    awk '/^[a-zA-Z0-9]/ {inside = /^uv==/} inside' requirements.lock >.tools/uv/requirement.txt
    quietly "pip install uv" .tools/uv/bin/python -m pip install -q --disable-pip-version-check --only-binary :all: \
        --require-hashes -r .tools/uv/requirement.txt
}
