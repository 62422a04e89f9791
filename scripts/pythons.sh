# Finding interpreters; sourced by the other scripts.

# Can it run us, and make a virtual environment? Some systems ship Python without ssl, venv or pip.
usable_python() {
    "$1" -c 'import ensurepip, ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# The path of a usable python3.MINOR, or failure: from PATH, else from what pyenv or uv have installed.
find_python() {
    local version=$1 candidate
    for candidate in \
        "python$version" \
        "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/$version".*/bin/"python$version" \
        "${UV_PYTHON_INSTALL_DIR:-${HOME:-}/.local/share/uv/python}/cpython-$version".*/bin/"python$version"; do
        if usable_python "$candidate"; then
            # The program itself, not a shim whose answer may be another one tomorrow.
            "$candidate" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    return 1
}

# The interpreter to work with when nobody names one, or failure with the reason.
default_python() {
    local version
    for version in 3.11 3.12 3.13; do
        find_python "$version" && return
    done
    if usable_python python3; then
        command -v python3
        return
    fi
    if python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo "python3 cannot make virtual environments: its venv, ensurepip or ssl module is missing." >&2
        echo "On Debian and Ubuntu: apt install python3-venv. Or name another one: make PYTHON=/path/to/python3" >&2
    else
        echo "EchoStream needs Python 3.11 or later; here is $(python3 -V 2>/dev/null || echo none at all)." >&2
        echo "Install one, or name it: make PYTHON=/path/to/python3" >&2
    fi
    return 1
}
