# Sourced by the other scripts: makes .venv from a bare Python 3.11+ and installs the extras named in $1, once.
# A later call installs again only when the project's dependencies have changed.

extras=$1
if [ ! -x .venv/bin/python ]; then
    for candidate in ${ARN_PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$candidate
            break
        fi
    done
    [ -n "${python:-}" ] || { echo "Python 3.11 or later is needed" >&2; exit 1; }
    echo "making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
fi
wanted="$extras $(cat pyproject.toml constraints.txt | sha256sum)"
stamp=.venv/installed-${extras//,/-}
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
    echo "installing the project with [$extras]" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[$extras]"
    echo "$wanted" >"$stamp"
fi
