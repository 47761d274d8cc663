#!/usr/bin/env bash
# Brings the image-builder service up on the Docker Engine of this machine, from a fresh checkout: API, workers, BuildKit,
# PostgreSQL and a registry, by blueprints/docker-local. Linux only.
#
#   deploy_local.sh deploy                   everything that is missing; the second time it looks whether all is as it should be
#   deploy_local.sh deploy --workers 3       the same with another setting; what is not named stays as it was
#   deploy_local.sh deploy --resume          goes on with a deployment that failed or was interrupted
#   deploy_local.sh deploy --clean-state     forgets what opera knows, and looks at everything again; nothing that runs is lost
#   deploy_local.sh undeploy                 containers and networks; data and keys stay for the next deploy
#   deploy_local.sh undeploy --purge         everything that was made: data, keys, images, and the folder
#   deploy_local.sh status                   what runs; exit code 0 if the service is ready
#
# Options:
#   --yes                  asks nothing
#   --name NAME            what names begin with, of containers for example; default image-builder. Another NAME is another service
#   --folder FOLDER        keys, certificate and opera's state; default ~/.local/state/image-builder/NAME
#   --workers N            default 1
#   --address ADDRESS      of this machine, where API and registry answer; default 127.0.0.1
#   --port PORT            of the API; default 8443
#   --registry-port PORT   default 5000
#   --subnet NETWORK       of the containers; default 10.214.7.0/24
#   --set INPUT=VALUE      any input of blueprints/docker-local/service.yaml; VALUE is YAML
#   --images FOLDER        archives of the images, as `make images` makes them; default: made where they are missing, which takes minutes
#
# DOCKER_HOST names another Engine of this machine. No system file is touched, and root is not needed where docker works without.
# Exit codes: 0 done, 1 failed, 2 wrong usage or something is missing, 3 cancelled, 4 denied, 75 try again.
set -euo pipefail
umask 077

readonly failed=1 invalid=2 cancelled=3 denied=4 try_again=75
readonly opera_version=0.7.0 marker=.deploy_local
project=$(cd "$(dirname "$0")/.." && pwd)
readonly project blueprint=$project/blueprints/docker-local

say() { printf 'deploy_local: %s\n' "$*" >&2; }

# fail CODE MESSAGE [HINT]
fail() {
  printf 'error: %s\n' "$2" >&2
  if [ $# -gt 2 ]; then printf 'hint: %s\n' "$3" >&2; fi
  exit "$1"
}

usage() { sed -n '2,/^set /s/^# \{0,1\}//p' "$0" | sed '$d'; }

# Options

command='' yes='' how='' purge='' name='' folder='' images=''
settings=() # INPUT=VALUE

value() {
  if [ -z "${2:-}" ]; then fail $invalid "$1 takes a value"; fi
  printf '%s' "$2"
}

parse() {
  while [ $# -gt 0 ]; do
    case $1 in
    deploy | undeploy | status)
      if [ -n "$command" ]; then fail $invalid "$command and $1 are two commands"; fi
      command=$1
      ;;
    --yes | -y) yes=1 ;;
    --resume | --clean-state) how=$1 ;;
    --purge) purge=1 ;;
    --name) name=$(value "$@") && shift ;;
    --folder) folder=$(value "$@") && shift ;;
    --images) images=$(value "$@") && shift ;;
    --workers | --address | --port | --registry-port | --subnet)
      settings+=("${1#--}=$(value "$@")")
      shift
      ;;
    --set)
      case $(value "$@") in *=*) ;; *) fail $invalid "--set $2: it has to be INPUT=VALUE" ;; esac
      settings+=("$2")
      shift
      ;;
    --help | -h | help) usage && exit 0 ;;
    *) fail $invalid "there is no $1" "$0 --help" ;;
    esac
    shift
  done
  if [ -z "$command" ]; then
    usage >&2
    exit $invalid
  fi
  if [ -n "$how" ] && [ "$command" != deploy ]; then fail $invalid "$how belongs to deploy"; fi
  if [ -n "$purge" ] && [ "$command" != undeploy ]; then fail $invalid "--purge belongs to undeploy"; fi
  if [ -z "$name" ] && [ -n "$folder" ] && [ -f "$folder/$marker" ]; then name=$(cat "$folder/$marker"); fi
  name=${name:-image-builder}
  if ! [[ $name =~ ^[a-z0-9][a-z0-9.-]*$ ]]; then fail $invalid "--name $name: a name has small letters, digits, dots and dashes"; fi
  folder=${folder:-${XDG_STATE_HOME:-$HOME/.local/state}/image-builder/$name}
  case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
  if [ -n "$images" ]; then images=$(cd "$images" 2>/dev/null && pwd) || fail $invalid "--images: there is no such folder"; fi
}

# What it takes

check_machine() {
  local said
  if [ "$(uname -s)" != Linux ]; then fail $invalid "this is for Linux; it is $(uname -s)"; fi
  if ! command -v docker >/dev/null; then fail $invalid "docker is missing" "install a Docker Engine with its command, 20.10 or newer"; fi
  if ! said=$(docker version --format '{{.Server.Version}}' 2>&1); then
    case $said in
    *'permission denied'*) fail $denied "docker: ${said##*$'\n'}" "belong to the group of the Engine's socket, or be root" ;;
    *) fail $try_again "the Docker Engine does not answer: ${said##*$'\n'}" "start it, or name another with DOCKER_HOST" ;;
    esac
  fi
  python=$(command -v python3.11 || command -v python3) || fail $invalid "python3 is missing"
}

# check_to_make sees to what making what is not there yet takes.
check_to_make() {
  if ! [ -f "$opera/complete" ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    fail $invalid "python3-venv is missing: $python makes no environments" "apt-get install python3-venv"
  fi
  if [ -n "$images" ]; then
    local image
    for image in api postgres registry; do
      if ! [ -f "$(archive "$images" "$image")" ]; then fail $invalid "$(archive "$images" "$image") is missing" "make images makes it"; fi
    done
    return
  fi
  images=$project/.work/images
  if have_images; then return; fi
  for program in go make; do
    if ! command -v "$program" >/dev/null; then fail $invalid "$program is missing, and so are the images" "install it, or name a folder that has the images by --images"; fi
  done
}

archive() { printf '%s/image-builder-%s-%s.tar' "$1" "$2" "$architecture"; }

have_images() {
  local image
  for image in api postgres registry; do
    if ! [ -f "$(archive "$images" "$image")" ]; then return 1; fi
  done
}

# check_ports: something else may listen where API and registry will.
check_ports() {
  local address port own
  address=$(input address)
  own=$(docker ps --quiet --filter "label=imagebuilder.mark=$(input owner)" | xargs -r docker inspect --format '{{range .NetworkSettings.Ports}}{{range .}}{{.HostPort}} {{end}}{{end}}')
  for port in "$(input port)" "$(input registry_port)"; do
    case " ${own//$'\n'/ } " in *" $port "*) continue ;; esac
    "$python" - "$address" "$port" <<'PYTHON' || fail $invalid "port $port of $address is taken, or is no port of this machine" "choose another: --port, --registry-port, --address"
import socket, sys
with socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET) as s:
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((sys.argv[1], int(sys.argv[2])))
PYTHON
  done
}

confirm() {
  if [ -n "$yes" ]; then return; fi
  if ! [ -t 0 ]; then fail $invalid "there is no terminal to ask at" "--yes goes on without asking"; fi
  local answer
  read -rp "Go on? [y/N] " answer
  case $answer in
  y | Y | yes) ;;
  *) fail $cancelled "nothing was done" ;;
  esac
}

# The folder

# inputs MERGE… changes FOLDER/inputs.yaml, and refuses what the blueprint has no input for.
inputs() {
  "$opera/bin/python" - "$folder/inputs.yaml" "$blueprint/service.yaml" "$@" <<'PYTHON'
import os, sys, yaml
path, template, *settings = sys.argv[1:]
with open(template, encoding="utf-8") as f:
    known = yaml.safe_load(f)["topology_template"]["inputs"]
values = {}
if os.path.exists(path):
    with open(path, encoding="utf-8") as f:
        values = yaml.safe_load(f) or {}
for setting in settings:
    name, _, text = setting.partition("=")
    name = name.replace("-", "_")
    if name not in known:
        sys.exit(f"error: there is no input {name}; there are {', '.join(known)}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        sys.exit(f"error: {name}: {text} is no YAML")
    kind = known[name]["type"]
    if kind == "string":
        value = text
    if not isinstance(value, {"string": str, "integer": int, "list": list, "map": dict}[kind]):
        sys.exit(f"error: {name}: {text} has to be a {kind}")
    values[name] = value
with open(path + ".new", "w", encoding="utf-8") as f:
    yaml.safe_dump(values, f, sort_keys=False)
os.replace(path + ".new", path)
PYTHON
}

# input NAME is what an input is.
input() {
  "$opera/bin/python" - "$folder/inputs.yaml" "$folder/service.yaml" "$1" <<'PYTHON'
import sys, yaml
path, template, name = sys.argv[1:]
with open(template, encoding="utf-8") as f:
    default = yaml.safe_load(f)["topology_template"]["inputs"][name]["default"]
with open(path, encoding="utf-8") as f:
    print((yaml.safe_load(f) or {}).get(name, default))
PYTHON
}

# state is opera's word for how far the deployment is: initialized, deploying, deployed, undeploying, undeployed, error, or nothing.
state() {
  if [ -d "$folder/.opera/instances" ]; then
    run_opera info --format json | "$opera/bin/python" -c 'import json, sys; print(json.load(sys.stdin)["status"] or "")'
  fi
}

run_opera() { (cd "$folder" && PATH=$opera/bin:$PATH LC_ALL=C.UTF-8 "$project/scripts/opera-private.sh" "$@"); }

# lock: two at once would be in each other's way.
lock() {
  exec 9>"$folder/.lock"
  flock -n 9 || fail $try_again "another deploy_local.sh works in $folder"
}

# copy_blueprint: undeploy has to be possible when the checkout is another, or gone.
copy_blueprint() {
  rm -rf "$folder/library.new"
  mkdir "$folder/library.new"
  cp -R "$project/library/common" "$project/library/docker" "$folder/library.new/"
  find "$folder/library.new" -name __pycache__ -prune -exec rm -rf {} +
  rm -rf "$folder/library"
  mv "$folder/library.new" "$folder/library"
  cp "$blueprint/service.yaml" "$folder/service.yaml"
}

# Deploy

deploy() {
  local new=$folder state
  while ! [ -d "$new" ]; do new=$(dirname "$new"); done
  if ! [ -w "$new" ]; then fail $denied "$new may not be written to" "choose another folder by --folder"; fi
  if [ -d "$folder" ] && ! [ -f "$folder/$marker" ] && [ -n "$(ls -A "$folder")" ]; then
    fail $invalid "$folder is there, and was not made by this script" "choose another by --folder"
  fi
  check_to_make
  say "image-builder, as $name, on Docker $(docker version --format '{{.Server.Version}}')${DOCKER_HOST:+ at $DOCKER_HOST}"
  if [ -f "$opera/complete" ]; then :; else say "makes an environment for opera in ${opera#"$project/"}, about 60 MB from Python's registry"; fi
  if have_images; then :; else say "makes container images in ${images#"$project/"}: some minutes, and Debian's packages are downloaded"; fi
  say "keys and opera's state are kept in $folder"
  confirm

  mkdir -p "$folder"
  lock
  if [ -f "$folder/$marker" ] && [ "$(cat "$folder/$marker")" != "$name" ]; then
    fail $invalid "$folder is that of $(cat "$folder/$marker")" "give $name a folder of its own by --folder"
  fi
  printf '%s\n' "$name" >"$folder/$marker"
  OPERA=$opera_version "$project/scripts/opera.sh" "$project/.work/opera" || fail $failed "opera cannot be had"
  if ! have_images; then
    make -C "$project" --no-print-directory images "IMAGE_PLATFORMS=linux/$architecture" >&2 || fail $failed "the images could not be made" "make images says why; --images names a folder that has them"
  fi
  copy_blueprint
  if ! [ -f "$folder/inputs.yaml" ]; then
    settings=("name=$name" "owner=local-$("$python" -c 'import secrets; print(secrets.token_hex(6))')" "${settings[@]}")
  fi
  inputs "${settings[@]}" "api_image=$(image_of api)" "api_archive=$(archive "$images" api)" "postgres_image=$(image_of postgres)" \
    "postgres_archive=$(archive "$images" postgres)" "registry_image=$(image_of registry)" "registry_archive=$(archive "$images" registry)" || exit $invalid
  check_ports

  state=$(state)
  case $how$state in
  --resume*) how=(--resume --force) ;;
  --clean-state* | deployed) how=(--clean-state --force) ;; # what is as it should be is left alone
  '' | undeployed | initialized) how=() ;;
  *) fail $invalid "the last time, it did not get to its end: $state" "deploy --resume goes on, deploy --clean-state looks at everything again, undeploy takes it back" ;;
  esac
  if [ -n "$state" ]; then heal "$state"; fi
  if ! run_opera deploy "${how[@]}" --workers 3 -i inputs.yaml service.yaml >&2; then
    fail $failed "the service is not up; the cause is above" "mend it, then: $0 deploy --resume$(again). To take everything back: $0 undeploy$(again)"
  fi
  if [ "$(state)" != deployed ]; then fail $failed "opera did not get to the end" "$0 deploy --clean-state$(again)"; fi
  first_build
  tell
}

# again are the options that name this service.
again() {
  if [ "$name" != image-builder ]; then printf ' --name %q' "$name"; fi
  if [ "$folder" != "${XDG_STATE_HOME:-$HOME/.local/state}/image-builder/$name" ]; then printf ' --folder %q' "$folder"; fi
}

# image_of IMAGE is the reference that the archive has it under.
image_of() {
  "$python" - "$(archive "$images" "$1")" <<'PYTHON'
import json, sys, tarfile
with tarfile.open(sys.argv[1]) as archive:
    tags = json.load(archive.extractfile("manifest.json"))[0]["RepoTags"]
print(next((tag for tag in tags if not tag.endswith(":latest")), tags[0]))
PYTHON
}

# heal STATE lets opera go on where it was killed: an operation that it never saw the end of has failed.
heal() {
  case $1 in deploying | undeploying)
    sed -i -E 's/"(creating|configuring|starting|stopping|deleting)"/"error"/' "$folder"/.opera/instances/*
    ;;
  esac
}

# first_build puts a Dockerfile into the registry, where the service gets it from: this works without any other network.
first_build() {
  "$python" - "$folder" "$(input address)" "$(input registry_port)" "$name-registry:5000" <<'PYTHON'
import base64, hashlib, json, os, ssl, sys, urllib.request
folder, address, port, inside = sys.argv[1:]
dockerfile = b'FROM scratch\nCOPY <<EOF /hello.txt\nimage-builder built this.\nEOF\nCMD ["/hello.txt"]\n'
with open(f"{folder}/secrets/registry-password", encoding="utf-8") as f:
    password = f.read().strip()
here, digest = f"https://{address}:{port}", "sha256:" + hashlib.sha256(dockerfile).hexdigest()
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}),
                                     urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=f"{folder}/secrets/ca.crt")))

def ask(method, url, data=None):
    headers = {"Authorization": "Basic " + base64.b64encode(f"image-builder:{password}".encode()).decode(), "Content-Type": "application/octet-stream"}
    return opener.open(urllib.request.Request(url, data=data, headers=headers, method=method), timeout=30)

with ask("POST", f"{here}/v2/first-build/blobs/uploads/", b"") as answer:
    upload = answer.headers["Location"]
if upload.startswith("/"):
    upload = here + upload
ask("PUT", upload + ("&" if "?" in upload else "?") + "digest=" + digest, dockerfile).close()
account = {"username": "image-builder", "password": password}
document = {
    "source": {"dockerfile": {"url": f"https://{inside}/v2/first-build/blobs/{digest}", **account}},
    "target": {"registry": {"url": inside, **account}, "images": [{"image": "first-build", "tag": "1", "platforms": ["linux/amd64", "linux/arm64"]}]},
}
with open(f"{folder}/first-build.json.new", "w", encoding="utf-8") as f:
    json.dump(document, f, indent=2)
os.replace(f"{folder}/first-build.json.new", f"{folder}/first-build.json")
PYTHON
}

tell() {
  local url here
  url=https://$(input address):$(input port)
  here=$(input address):$(input registry_port)
  cat <<EOF
The service is ready.

  URL        $url
  API key    $folder/secrets/api-key
  CA         $folder/secrets/ca.crt
  registry   $name-registry:5000 in documents, $here on this machine; user image-builder, password in $folder/secrets/registry-password

A first build:

  $(printf '%q ' "$project/scripts/client.py" --url "$url" --ca-cert "$folder/secrets/ca.crt" --api-key-file "$folder/secrets/api-key" --follow "$folder/first-build.json")
EOF
}

# Undeploy

undeploy() {
  if ! [ -f "$folder/$marker" ]; then fail $invalid "there is nothing in $folder that was deployed by this script" "--name or --folder say which service"; fi
  if [ -n "$purge" ]; then
    say "removes $name with its database, the images in its registry, its keys, and $folder"
  else
    say "removes the containers and networks of $name; data and keys stay"
  fi
  confirm
  lock
  if [ -f "$folder/inputs.yaml" ] && [ -n "$(state)" ]; then
    heal "$(state)"
    run_opera undeploy --resume --force --workers 3 >&2 || fail $failed "not everything could be removed; the cause is above" "$0 undeploy$(again), once more"
    case $(state) in undeployed | '') ;; *) fail $failed "opera did not get to the end: $(state)" "$0 undeploy$(again), once more" ;; esac
  fi
  if [ -n "$purge" ]; then purge; fi
}

# purge removes what undeploy keeps: by its mark, never by its name.
purge() {
  local ours
  if [ -f "$folder/inputs.yaml" ]; then
    ours="label=imagebuilder.mark=$(input owner)"
    {
      docker ps --all --quiet --filter "$ours" | xargs -r docker rm --force --volumes &&
        docker volume ls --quiet --filter "$ours" | xargs -r docker volume rm &&
        docker network ls --quiet --filter "$ours" | xargs -r docker network rm
    } >/dev/null || fail $failed "not everything could be removed" "$0 undeploy --purge$(again), once more"
  fi
  rm -rf "$folder"
  say "nothing of $name is left"
}

# Status

status() {
  if ! [ -f "$folder/inputs.yaml" ] || ! [ -f "$opera/complete" ]; then
    say "$name is not deployed"
    exit $failed
  fi
  printf 'opera: %s\n' "$(state)"
  docker ps --all --filter "label=imagebuilder.mark=$(input owner)" --format 'table {{.Names}}\t{{.Status}}\t{{.Ports}}'
  "$python" - "https://$(input address):$(input port)" "$folder/secrets/ca.crt" <<'PYTHON'
import ssl, sys, urllib.request
url, ca = sys.argv[1:]
try:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=ca)))
    opener.open(url + "/readyz", timeout=10).close()
except OSError as e:
    sys.exit(f"not ready: {url}: {e}")
print(f"ready: {url}")
PYTHON
}

parse "$@"
readonly opera=$project/.work/opera/opera-$opera_version
case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*) fail $invalid "there are images for x86_64 and aarch64; this is $(uname -m)" ;;
esac
trap 'trap - INT; echo >&2; fail $cancelled "interrupted" "$0 deploy --resume$(again) goes on, $0 undeploy$(again) takes it back"' INT
check_machine
"$command"
