#!/usr/bin/env bash
# Makes a Python environment for each version of the xOpera orchestrator that image-builder supports, every package pinned:
#
#   opera.sh [FOLDER]      FOLDER/opera-0.6.6, FOLDER/opera-0.6.9 and FOLDER/opera-0.7.0; default .work/opera
#
# With PATH=FOLDER/opera-0.7.0/bin:$PATH, the command is opera: the folder goes first, for opera starts ansible-playbook by name.
#
#   OPERA          versions of opera; default "0.6.6 0.6.9 0.7.0"
#   ANSIBLE_CORE   version of ansible-core; default 2.19.14, the newest for Python 3.11
#   PYTHON         the Python to use; default python3.11 if there is one, otherwise python3
#
# An environment that is complete is left alone. Nothing is compiled, and nothing outside of FOLDER is changed.
set -euo pipefail

say() { printf 'opera: %s\n' "$*" >&2; }

project=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$project/.work/opera}
core=${ANSIBLE_CORE:-2.19.14}
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
read -ra versions <<<"${OPERA:-0.6.6 0.6.9 0.7.0}"

# All of it is named here and taken with --no-deps: opera asks for a PyYAML that no Python since 3.10 can build, and for the
# whole of Ansible, of which it uses one file. It imports pkg_resources, which warns from setuptools 80.9 on and is gone in 82.
resolvelib=1.2.1
case $core in 2.1[5-8].*) resolvelib=1.0.1 ;; esac
readonly packages=("ansible-core==$core" "resolvelib==$resolvelib" cffi==2.1.1 cryptography==50.0.2 Jinja2==3.1.6 MarkupSafe==3.0.4
  packaging==26.3 pycparser==3.12 PyYAML==6.0.3 setuptools==80.8.0 shtab==1.13.0 opera-tosca-parser==0.2.2)
# The package with ansible.posix 2.1.0, whose callback "json" is what opera 0.6 reads the playbook's results with.
readonly bundle=ansible==12.3.0 posix=ansible_collections/ansible/posix

# inputs says what an environment is made of; a complete one has it in a file.
inputs() { printf '%s\n' "opera==$1" "$bundle" "${packages[@]}" "$("$python" -VV)"; }

fresh() { [ -x "$folder/opera-$1/bin/opera" ] && [ "$(cat "$folder/opera-$1/complete" 2>/dev/null)" = "$(inputs "$1")" ]; }

# get_python sees to a Python that can make environments.
get_python() {
  if [ -z "$python" ]; then
    "$project/scripts/setup.sh" packages python3 python3-venv
    python=$(command -v python3)
  elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    "$project/scripts/setup.sh" packages python3-venv
  fi
  case $("$python" -V) in
  'Python 3.11.'*) ;;
  *) say "$python is $("$python" -V); these versions of opera are tested with Python 3.11, which PYTHON can name" ;;
  esac
}

# pip ENVIRONMENT ARGUMENT… works on an environment that has no pip of its own.
pip() { "$work/pip/bin/python" -m pip --disable-pip-version-check --no-input --python "$1/bin/python" "${@:2}"; }

# get_posix takes one collection out of the bundle, once for all environments.
get_posix() {
  if [ -d "$work/$posix" ]; then return; fi
  pip "$1" download --quiet --no-deps --only-binary :all: --dest "$work/bundle" "$bundle"
  "$python" - "$work"/bundle/*.whl "$posix/" "$work" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[3], [name for name in wheel.namelist() if name.startswith(sys.argv[2])])
PYTHON
}

# works sees what breaks first: the callback that this opera reads results with is there, and writes JSON.
works() {
  local callback=(ANSIBLE_STDOUT_CALLBACK=json)
  if [ -d "$2/opera/executors" ]; then # from 0.7.0 on it brings its own
    callback=(ANSIBLE_STDOUT_CALLBACK=json_ansible_callback "ANSIBLE_CALLBACK_PLUGINS=$2/opera/executors/ansible/stdout_callbacks")
  fi
  printf -- '- hosts: all\n  gather_facts: false\n  tasks: []\n' >"$work/empty.yml"
  (cd "$work" && env "${callback[@]}" "$1/bin/ansible-playbook" -i localhost, -c local empty.yml) |
    "$python" -c 'import json, sys; json.load(sys.stdin)["global_custom_stats"]'
}

environment() {
  local version=$1 target=$folder/opera-$1 site
  say "$target: opera $version, ansible-core $core"
  "$python" -m venv --clear --without-pip "$target"
  pip "$target" install --quiet --no-deps --only-binary :all: "${packages[@]}" "opera==$version"
  site=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  get_posix "$target"
  mkdir -p "$site/$posix"
  cp -R "$work/$posix/." "$site/$posix/"
  works "$target" "$site"
  inputs "$version" >"$target/complete"
}

mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
exec 9>"$folder/.lock"
flock 9
get_python
missing=()
for version in "${versions[@]}"; do
  if ! fresh "$version"; then missing+=("$version"); fi
done
if [ ${#missing[@]} = 0 ]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/pip"
for version in "${missing[@]}"; do environment "$version"; done
