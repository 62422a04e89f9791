#!/usr/bin/env bash
# Make or refresh a virtual environment with the core, every plugin (editable) and the development tools.
#
#   scripts/venv.sh [DIRECTORY] [PYTHON]      defaults: .venv, and the first suitable interpreter of the machine
#
# Does nothing when the environment is newer than what it is made from. Made anew when the checkout has moved, or when
# PYTHON is given and is another one than before. An environment that somebody else made there is used, not removed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/pythons.sh

directory=${1:-.venv}
wanted=${2:-}
stamp=$directory/.echostream
inputs=(pyproject.toml plugins/*/pyproject.toml constraints.txt scripts/venv.sh)
identity='import sys; print(sys.version.split()[0], sys.base_prefix)'
pip=("$directory/bin/python" -m pip --disable-pip-version-check --no-input)

fresh() {
    local input
    [[ -f $stamp && $(<"$stamp") == "$PWD" ]] || return 1
    for input in "${inputs[@]}"; do
        [[ ! $input -nt $stamp ]] || return 1
    done
    # The list of plugins: one that was added is new to the stamp, one that was removed has changed the folder.
    [[ ! plugins -nt $stamp ]] || return 1
}

same_python() {
    [[ -x $directory/bin/python ]] || return 1
    local have
    have=$("$directory/bin/python" -c "$identity" 2>/dev/null) || return 1
    [[ -z $wanted || $have == "$("$wanted" -c "$identity")" ]]
}

if [[ -n $wanted ]] && ! usable_python "$wanted"; then
    echo "$wanted cannot be used: it must be Python 3.11 or later with the modules ssl, venv and ensurepip." >&2
    exit 1
fi

# Two terminals may start at once.
if command -v flock >/dev/null; then
    exec 9>"$directory.lock"
    flock 9
fi

if same_python && fresh; then
    exit 0
fi

if [[ -f $stamp ]] && { ! same_python || [[ $(<"$stamp") != "$PWD" ]]; }; then
    rm -rf "$directory"
fi
if [[ ! -e $directory ]]; then
    python=${wanted:-$(default_python)}
    if ! "$python" -m venv "$directory"; then
        rm -rf "$directory"
        exit 1
    fi
elif ! same_python || ! usable_python "$directory/bin/python"; then
    echo "$directory cannot be used: it is incomplete or of another Python. Remove it (make clean) and try again." >&2
    exit 1
fi

projects=(-e ".[fast]")
for project in plugins/*/pyproject.toml; do
    projects+=(-e "./$(dirname "$project")")
done

echo "Setting up $directory ($("$directory/bin/python" -V), the core and $((${#projects[@]} / 2 - 1)) plugins)."
echo "The first time this downloads some 50 MB and takes a minute or two."
echo "$PWD" >"$stamp.new" # written first, moved last: a file that changes meanwhile is newer
"${pip[@]}" install --quiet --constraint constraints.txt pip hatchling editables
"${pip[@]}" install --quiet --constraint constraints.txt --no-build-isolation --group dev "${projects[@]}"

# A plugin whose folder is gone must not stay installed.
ours=$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml plugins/*/pyproject.toml)
for installed in $("${pip[@]}" list --format freeze | sed -n 's/^\(echostream-[a-z0-9-]*\)==.*/\1/p'); do
    grep -qx "$installed" <<<"$ours" || "${pip[@]}" uninstall --quiet --yes "$installed"
done
mv "$stamp.new" "$stamp"
