# Functions that the scripts share; sourced by them, from the project's root.
# shellcheck shell=bash

say() { printf '==> %s\n' "$*" >&2; }

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need_packages NAME...: installs the Debian packages that are not there yet.
need_packages() {
    local missing=() name
    for name; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^ii' || missing+=("$name")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "missing and no apt-get to install it: ${missing[*]}"
    say "installing ${missing[*]}"
    mkdir -p target
    if ! {
        as_root apt-get update &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 \
                install -y --no-install-recommends "${missing[@]}"
    } >target/apt.log 2>&1; then
        tail -n 5 target/apt.log >&2
        fail "apt-get could not install ${missing[*]} (all of it in target/apt.log)"
    fi
}

# need_python NAME...: a virtual environment at target/tools/python that has
# these PyPI packages. One process at a time makes it.
need_python() {
    local venv=target/tools/python
    mkdir -p target/tools
    exec 9>target/tools/python.lock
    flock 9
    if [ ! -e $venv/ready ]; then
        # Debian's python3 may come without venv, or not at all.
        python3 -c 'import ensurepip, venv' 2>/dev/null || need_packages python3-venv
        python3 -m venv --clear $venv || fail "python3 -m venv failed"
        touch $venv/ready
    fi
    # Not by pip, which takes a second for each.
    local missing
    missing=$($venv/bin/python -c '
import importlib.metadata as metadata, sys
for name in sys.argv[1:]:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        print(name)' "$@") || fail "no Python in $venv: remove it"
    if [ -n "$missing" ]; then
        missing=${missing//$'\n'/ }
        say "installing $missing from PyPI"
        # shellcheck disable=SC2086 # a word for each
        $venv/bin/pip install --quiet --disable-pip-version-check $missing >&2 ||
            fail "pip could not install $missing"
    fi
    exec 9>&-
}

# need_promtool: Debian's promtool at target/tools/promtool, without the server
# and the service that its package brings.
need_promtool() {
    [ ! -x target/tools/promtool ] || return 0
    local work
    mkdir -p target/tools
    work=$(mktemp -d -p target/tools)
    say "getting promtool"
    (
        cd "$work"
        apt-get download prometheus || { as_root apt-get update && apt-get download prometheus; }
        dpkg-deb -x prometheus_*.deb .
    ) >target/apt.log 2>&1 || fail "apt-get gave no prometheus (see target/apt.log)"
    mv "$work/usr/bin/promtool" target/tools/promtool
    rm -rf "$work"
}
