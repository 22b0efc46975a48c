# Sourced by deploy/run and deploy/test: finds Python, makes .venv in the checkout and installs into it, quickly when
# nothing has changed. Expects the checkout as the current folder. Works with an empty environment.

export PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
if [ -z "${HOME:-}" ]; then
    HOME="$(getent passwd "$(id -u)" 2>/dev/null | cut -d: -f6 || true)"
    export HOME="${HOME:-/tmp}"
fi
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

TORCH="torch==2.13.0"

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "error: $*"
    exit 1
}

# Prints the path of a Python that can make a virtual environment.
find_python() {
    local candidate too_old="" no_venv=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python3.14 python; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            too_old="$candidate"
        elif ! "$candidate" -c 'import venv, ensurepip' >/dev/null 2>&1; then
            no_venv="$candidate"
        else
            command -v "$candidate"
            return
        fi
    done
    if [ -n "$no_venv" ]; then
        fail "$no_venv has no venv module with ensurepip. Install it (on Debian and Ubuntu: apt install python3-venv)" \
            "or name another Python in PYTHON=/path/to/python3."
    elif [ -n "$too_old" ]; then
        fail "Python 3.11 or newer is needed, $too_old is older. Install one, or name it in PYTHON=/path/to/python3."
    fi
    fail "Python 3.11 or newer is needed and no python3 was found on PATH. Install one, or set PYTHON=/path/to/python3."
}

# What an installation depends on. The folder belongs to it because a virtual environment cannot be moved.
fingerprint() {
    { cat pyproject.toml deploy/constraints.txt && .venv/bin/python -VV && pwd && echo "$1"; } | cksum
}

is_installed() {
    [ -x .venv/bin/python ] && [ "$(fingerprint "$1" 2>/dev/null)" = "$(cat ".venv/installed-$1" 2>/dev/null)" ]
}

make_virtual_environment() {
    .venv/bin/python -c 'import pip' >/dev/null 2>&1 && return
    local python
    python="$(find_python)"
    say "Making .venv with $("$python" -V) ($python) ..."
    rm -rf .venv
    "$python" -m venv .venv || fail "the virtual environment could not be made"
}

# pip's words are only of interest when it fails.
pip_install() {
    if ! .venv/bin/python -m pip install --constraint deploy/constraints.txt "$@" >.venv/pip.log 2>&1; then
        tail -n 25 .venv/pip.log >&2
        fail "pip could not install $*; its last lines are above, all of them in .venv/pip.log"
    fi
}

# install NAME EXTRAS: the checkout, editable, with the extras, remembered under NAME.
install() {
    local name="$1" extras="$2"
    is_installed "$name" && return
    [ -w . ] || fail "$PWD cannot be written by user $(id -un 2>/dev/null || id -u), so nothing can be installed in it."
    # One installer at a time; the lock ends with this shell's file descriptor.
    if command -v flock >/dev/null 2>&1; then
        exec 9>>.installing
        flock 9
    fi
    if ! is_installed "$name"; then
        make_virtual_environment
        say "Installing torch (the largest part, only when something changed) ..."
        pip_install "$TORCH"
        say "Installing the gateway [$extras] ..."
        pip_install --editable ".[$extras]"
        fingerprint "$name" >".venv/installed-$name"
    fi
    exec 9>&-
}
