#!/usr/bin/env bash
# Makes a Python environment for each version of the xOpera orchestrator that image-builder supports, every package pinned:
#
#   opera.sh [FOLDER]      FOLDER/opera-0.6.6, FOLDER/opera-0.6.9 and FOLDER/opera-0.7.0; default .work/opera
#
# With PATH=FOLDER/opera-0.7.0/bin:$PATH, the command is opera: the folder goes first, for opera starts ansible-playbook by name.
#
#   OPERA          versions of opera; default "0.6.6 0.6.9 0.7.0"
#   OPENSTACK      1: with openstacksdk and the collection openstack.cloud, for library/openstack; default FOLDER .work/opera-openstack
#   ANSIBLE_CORE   version of ansible-core; default 2.19.14, the newest for Python 3.11
#   PYTHON         the Python to use; default python3.11 if there is one, otherwise python3
#
# An environment that is complete is left alone. Nothing is compiled, and nothing outside of FOLDER is changed.
set -euo pipefail

say() { printf 'opera: %s\n' "$*" >&2; }

project=$(cd "$(dirname "$0")/.." && pwd)
openstack=${OPENSTACK:-}
folder=${1:-$project/.work/opera${openstack:+-openstack}}
core=${ANSIBLE_CORE:-2.19.14}
python=${PYTHON:-$(command -v python3.11 || command -v python3 || true)}
read -ra versions <<<"${OPERA:-0.6.6 0.6.9 0.7.0}"

# All of it is named here and taken with --no-deps: opera asks for a PyYAML that no Python since 3.10 can build, and for the
# whole of Ansible, of which it uses one file. It imports pkg_resources, which warns from setuptools 80.9 on and is gone in 82.
resolvelib=1.2.1
case $core in 2.1[5-8].*) resolvelib=1.0.1 ;; esac
packages=("ansible-core==$core" "resolvelib==$resolvelib" cffi==2.1.1 cryptography==50.0.2 Jinja2==3.1.6 MarkupSafe==3.0.4
  packaging==26.3 pycparser==3.12 PyYAML==6.0.3 setuptools==80.8.0 shtab==1.13.0 opera-tosca-parser==0.2.2)
# The package with all collections. Of ansible.posix 2.1.0, opera 0.6 reads the playbook's results with the callback "json".
readonly bundle=ansible==12.3.0
collections=(ansible/posix)
if [ -n "$openstack" ]; then
  # openstack.cloud 2.5.0 imports openstack.version, which openstacksdk has no more from 4.15.0 on.
  packages+=(openstacksdk==4.14.0 certifi==2026.10.18 charset-normalizer==3.5.2 decorator==5.3.1 dogpile.cache==1.5.0 idna==3.20
    iso8601==2.1.0 jmespath==1.1.0 jsonpatch==1.47 jsonpointer==3.12 keystoneauth1==5.18.1 os-service-types==1.9.0 pbr==7.1.3
    platformdirs==4.14.5 psutil==7.2.2 requests==2.34.2 stevedore==5.10.0 typing_extensions==4.16.0 urllib3==2.8.0)
  collections+=(openstack/cloud)
fi
readonly packages collections

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

# get_collections takes the collections out of the bundle, once for all environments.
get_collections() {
  if [ -d "$work/ansible_collections" ]; then return; fi
  pip "$1" download --quiet --no-deps --only-binary :all: --dest "$work/bundle" "$bundle"
  "$python" - "$work"/bundle/*.whl "$work" "${collections[@]}" <<'PYTHON'
import sys, zipfile
wanted = tuple(f"ansible_collections/{name}/" for name in sys.argv[3:])
with zipfile.ZipFile(sys.argv[1]) as wheel:
    wheel.extractall(sys.argv[2], [name for name in wheel.namelist() if name.startswith(wanted)])
PYTHON
}

# works sees what breaks first: the callback that this opera reads results with is there, and writes JSON; the modules for
# OpenStack find what they import.
works() {
  local callback=(ANSIBLE_STDOUT_CALLBACK=json)
  if [ -d "$2/opera/executors" ]; then # from 0.7.0 on it brings its own
    callback=(ANSIBLE_STDOUT_CALLBACK=json_ansible_callback "ANSIBLE_CALLBACK_PLUGINS=$2/opera/executors/ansible/stdout_callbacks")
  fi
  printf -- '- hosts: all\n  gather_facts: false\n  tasks: []\n' >"$work/empty.yml"
  (cd "$work" && env "${callback[@]}" "$1/bin/ansible-playbook" -i localhost, -c local empty.yml) |
    "$python" -c 'import json, sys; json.load(sys.stdin)["global_custom_stats"]'
  if [ -n "$openstack" ]; then "$1/bin/python" -c 'import openstack; openstack.version, openstack.connection'; fi
}

environment() {
  local version=$1 target=$folder/opera-$1 site
  say "$target: opera $version, ansible-core $core${openstack:+, openstacksdk}"
  "$python" -m venv --clear --without-pip "$target"
  pip "$target" install --quiet --no-deps --only-binary :all: "${packages[@]}" "opera==$version"
  site=$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  get_collections "$target"
  cp -R "$work/ansible_collections" "$site/"
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
