#!/usr/bin/env bash
# The independent WebSocket programs that tests run ours against: Autobahn's test suite, nginx, and Node's package `ws`.
#
#   scripts/ws-peers.sh           does nothing when all of it is there, so `make test` may call it every time
#
# nginx and Node come from the system (on Debian and Ubuntu by apt, where we are root). The rest lies in .venv-peers:
# autobahn/ needs a Python 2.7, from the PATH or from pyenv; node-ws/ needs npm. What cannot be had is named, and the
# tests that need it are skipped; where ECHOSTREAM_REQUIRE_PEERS is 1 or lists it (autobahn, nginx, node), it is an
# error instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

WS=8.23.0
# Exact versions of all, so that nothing is resolved and nothing needs a compiler: wsaccel and ujson, which would make
# it faster, are left out. These are the last ones for Python 2.7.
AUTOBAHN=(
    autobahntestsuite==0.8.2 autobahn==0.10.9 txaio==2.1.0 Twisted==20.3.0 zope.interface==5.5.2 Automat==22.10.0
    attrs==21.4.0 constantly==15.1.0 hyperlink==21.0.0 idna==2.10 incremental==22.10.0 PyHamcrest==1.10.1
    typing==3.10.0.0 six==1.17.0 jinja2==2.11.3 markupsafe==1.1.1 klein==20.6.0 Tubes==0.2.1 Werkzeug==1.0.1
    pyopenssl==21.0.0 cryptography==3.3.2 cffi==1.15.1 pycparser==2.21 enum34==1.1.10 ipaddress==1.0.23
    setuptools==44.1.1 unittest2==1.1.0 traceback2==1.4.0 linecache2==1.0.0
)
peers=$PWD/.venv-peers
autobahn=$peers/autobahn
node_ws=$peers/node-ws
lacking=()
required=0

lack() { # PEER TEXT
    lacking+=("$1: $2")
    case ",${ECHOSTREAM_REQUIRE_PEERS:-}," in *,1,* | *,"$1",*) required=1 ;; esac
}

find_python27() {
    local python
    for python in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python; do
        if command -v "$python" >/dev/null && "$python" -c 'import ssl, sys; assert sys.version_info[:2] == (2, 7)' \
            2>/dev/null; then
            command -v "$python"
            return
        fi
    done
    return 1
}

# What was installed, from what, and where: a checkout that has moved is not fresh.
autobahn_stamp="$autobahn ${AUTOBAHN[*]}"
fresh_autobahn() {
    [[ -f $autobahn/.stamp && $(<"$autobahn/.stamp") == "$autobahn_stamp" ]] && "$autobahn/python" -c ''
}
fresh_node_ws() { [[ -f $node_ws/.stamp && $(<"$node_ws/.stamp") == "$WS" ]] && command -v node >/dev/null; }
has_nginx() { command -v nginx || [[ -x /usr/sbin/nginx ]]; }

install_autobahn() {
    local python log
    if ! python=$(find_python27); then
        lack autobahn "it is a program of Python 2.7; put a python2.7 into the PATH, or: pyenv install 2.7.18"
        return
    fi
    echo "Installing Autobahn's test suite for $("$python" -V 2>&1) into ${autobahn#"$PWD"/}."
    rm -rf "$autobahn"
    mkdir -p "$autobahn"
    log=$autobahn/install.log
    # Its folder of packages is a "user base", which is read with its .pth files and needs no virtualenv.
    if ! { "$python" -m pip --version || "$python" -m ensurepip --user; } >"$log" 2>&1 ||
        ! PYTHONUSERBASE=$autobahn "$python" -W ignore -m pip --disable-pip-version-check --no-input install --user \
            --ignore-installed --no-deps --no-warn-script-location "${AUTOBAHN[@]}" >>"$log" 2>&1; then
        tail -n 5 "$log" >&2
        lack autobahn "pip of Python 2.7 could not install it; $log says why"
        return
    fi
    cat >"$autobahn/python" <<EOP
#!/bin/sh
PYTHONUSERBASE='$autobahn' exec '$python' -W ignore "\$@"
EOP
    chmod +x "$autobahn/python"
    if ! "$autobahn/python" -c 'import autobahntestsuite.wstest' >>"$log" 2>&1; then
        lack autobahn "installed, but Python 2.7 cannot import it; $log says why"
        return
    fi
    printf '%s' "$autobahn_stamp" >"$autobahn/.stamp"
}

install_from_system() { # PEER PACKAGE…
    local peer=$1 packages=("${@:2}")
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        lack "$peer" "install ${packages[*]}, on Debian by: sudo apt-get install ${packages[*]}"
        return 1
    fi
    echo "Installing ${packages[*]}."
    # Debian starts a server as soon as it is installed, unless this file says no. Tests start one of their own.
    local policy=/usr/sbin/policy-rc.d
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        trap "rm -f $policy" EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    if ! { apt-get update -qq; apt-get -o DPkg::Lock::Timeout=120 install -y -qq --no-install-recommends "${packages[@]}"; } \
        >/dev/null 2>&1; then
        lack "$peer" "apt-get could not install ${packages[*]}"
        return 1
    fi
}

install_node_ws() {
    if ! { command -v node && command -v npm; } >/dev/null; then
        install_from_system node nodejs npm || return 0
    fi
    echo "Installing ws $WS for Node into ${node_ws#"$PWD"/}."
    mkdir -p "$node_ws"
    # Nothing of a package is run on installing it; no lock file names a registry.
    if npm install --prefix "$node_ws" --no-save --no-package-lock --ignore-scripts --no-audit --no-fund \
        --loglevel=error "ws@$WS" >/dev/null; then
        printf '%s' "$WS" >"$node_ws/.stamp"
    else
        lack node "npm could not install ws $WS"
    fi
}

everything() { fresh_autobahn && fresh_node_ws && has_nginx >/dev/null; }

if everything; then
    exit 0
fi
mkdir -p "$peers"
# Two terminals may start at once.
if command -v flock >/dev/null; then
    exec 9>"$peers/ws-peers.lock"
    flock 9
fi
fresh_autobahn || install_autobahn
fresh_node_ws || install_node_ws
has_nginx >/dev/null || install_from_system nginx nginx-light || true

if ((${#lacking[@]})); then
    echo "Tests against these WebSocket peers will be skipped:" >&2
    printf '  %s\n' "${lacking[@]}" >&2
    exit "$required"
fi
