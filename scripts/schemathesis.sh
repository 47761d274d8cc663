#!/usr/bin/env bash
# Makes a Python environment with schemathesis, which tests the REST API by its OpenAPI document, every package pinned:
#
#   schemathesis.sh [FOLDER]      FOLDER/bin/schemathesis; default .work/schemathesis
#
#   PYTHON         the Python to use; default python3
#
# An environment that is complete is left alone. Nothing is compiled, and nothing outside of FOLDER is changed.
set -euo pipefail

say() { printf 'schemathesis: %s\n' "$*" >&2; }

project=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$project/.work/schemathesis}
python=${PYTHON:-$(command -v python3 || true)}

# All of it is named here and taken with --no-deps, so that a run next year is the run of today.
readonly packages=(schemathesis==4.32.5 anyio==4.16.0 certifi==2026.10.18 charset-normalizer==3.5.2 click==8.5.1 graphql-core==3.3.2
  harfile==0.6.0 hypothesis==6.170.15 hypothesis-graphql==0.13.5 idna==3.20 iniconfig==2.3.1 jsonschema_rs==0.60.3 markdown-it-py==4.3.0
  MarkupSafe==3.0.4 mdurl==0.1.2 packaging==26.3 pluggy==1.7.0 Pygments==2.21.0 pyrate-limiter==4.5.1 pytest==9.2.0 PyYAML==6.0.3
  requests==2.34.2 rich==15.0.0 sortedcontainers==2.4.0 typing_extensions==4.16.0 urllib3==2.8.0 Werkzeug==3.1.9)

if [ -z "$python" ]; then
  "$project/scripts/setup.sh" packages python3 python3-venv
  python=$(command -v python3)
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
  "$project/scripts/setup.sh" packages python3-venv
fi

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/.lock"
flock 9
inputs=$(printf '%s\n' "${packages[@]}" "$("$python" -VV)")
if [ -x "$folder/bin/schemathesis" ] && [ "$(cat "$folder/complete" 2>/dev/null)" = "$inputs" ]; then exit 0; fi
say "$folder: ${packages[0]}"
rm -rf "${folder:?}"/{complete,bin,lib,lib64,include,pyvenv.cfg} # the lock stays
"$python" -m venv "$folder"
"$folder/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --only-binary :all: "${packages[@]}"
"$folder/bin/schemathesis" --version >&2
printf '%s\n' "$inputs" >"$folder/complete"
