#!/usr/bin/env bash
# bases.sh OUT fills the folder OUT with statically linked busybox programs, one file for each
# architecture, named as Debian names it. Base images of seven platforms are made of them, without
# an image registry and without emulation.
#
# The programs come from Debian's busybox-static packages, through this machine's own mirror and
# keyring, with a package state of apt's that lives in a temporary folder: no foreign architecture
# is added, no list or setting of the machine is touched, and no root is needed. A folder that is
# complete is left alone.
set -euo pipefail

architectures=(amd64 i386 arm64 armhf armel ppc64el s390x)
tries=3 # a mirror that is in the middle of its own sync answers right a moment later

say() { printf 'bases.sh: %s\n' "$*" >&2; }

complete() {
  local architecture
  for architecture in "${architectures[@]}"; do
    [ -x "$1/$architecture" ] || return 1
  done
}

# source_line RELEASE FOLDER prints "URI<tab>KEYRING" of the first source in apt's folder that has the release; the keyring may be empty.
source_line() {
  local files=() file
  for file in "$2"/sources.list.d/*.sources "$2"/sources.list "$2"/sources.list.d/*.list; do
    if [ -r "$file" ]; then files+=("$file"); fi
  done
  [ ${#files[@]} -gt 0 ] || return 0
  awk -v release="$1" '
    function offer() {
      if (!found && enabled && types ~ /(^| )deb( |$)/ && uris != "" && index(" " suites " ", " " release " ")) {
        split(uris, first, " ")
        print first[1] "\t" (keyring ~ /^\// ? keyring : "")
        found = 1
      }
      types = uris = suites = keyring = ""
      enabled = 1
    }
    FNR == 1 { offer(); stanzas = FILENAME ~ /\.sources$/ }
    /^[ \t]*#/ { next }
    stanzas && /^[ \t]*$/ { offer(); next }
    stanzas {
      value = $0
      sub(/^[^:]*:[ \t]*/, "", value)
      if (tolower($1) == "types:") types = value
      else if (tolower($1) == "uris:") uris = value
      else if (tolower($1) == "suites:") suites = value
      else if (tolower($1) == "signed-by:") keyring = value
      else if (tolower($1) == "enabled:" && tolower(value) == "no") enabled = 0
      next
    }
    $1 == "deb" {
      line = $0
      if (match(line, /\[[^]]*\]/)) {
        options = substr(line, RSTART + 1, RLENGTH - 2)
        line = substr(line, 1, RSTART - 1) substr(line, RSTART + RLENGTH)
        if (match(options, /signed-by=[^ ]+/)) keyring = substr(options, RSTART + 10, RLENGTH - 10)
      }
      split(line, words, " ")
      types = "deb"; uris = words[2]; suites = words[3]
      offer()
    }
    END { offer() }
  ' "${files[@]}"
}

# configure FOLDER URI KEYRING RELEASE writes the private state of apt and prints the path of its configuration.
configure() {
  local apt=$1 uri=$2 keyring=$3 release=$4 options=''
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  : >"$apt/status"
  if [ -n "$keyring" ]; then options="[signed-by=$keyring] "; fi
  printf 'deb %s%s %s main\n' "$options" "$uri" "$release" >"$apt/sources.list"
  {
    # How to reach the mirror is the machine's business; its hooks are not ours to run.
    apt-config dump | grep -E '^Acquire::([a-z]+::)?(Proxy|CaInfo|CaPath|Verify-Peer|Verify-Host|SslCert|SslKey|Proxy-Auto-Detect)' || true
    cat <<CONF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State::lists "$apt/lists";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architectures { $(printf '"%s"; ' "${architectures[@]}")};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::Retries "3";
CONF
  } >"$apt/apt.conf"
  printf '%s\n' "$apt/apt.conf"
}

# fetch FOLDER OUT downloads the packages and moves each program to its place in one step.
fetch() {
  local apt=$1 out=$2 architecture
  apt-get update -qq || return 1
  (cd "$apt" && apt-get download -qq "${architectures[@]/#/busybox-static:}") || return 1
  for architecture in "${architectures[@]}"; do
    dpkg-deb -x "$apt"/busybox-static_*_"$architecture".deb "$apt/$architecture" || return 1
    chmod 0755 "$apt/$architecture/bin/busybox"
    mv "$apt/$architecture/bin/busybox" "$out/.$architecture.new" || return 1
    mv "$out/.$architecture.new" "$out/$architecture" || return 1
  done
}

main() {
  local out release line uri keyring try
  if [ $# -ne 1 ]; then
    say "usage: bases.sh OUT"
    exit 2
  fi
  mkdir -p "$1"
  out=$(cd "$1" && pwd)
  if complete "$out"; then exit 0; fi

  # Several test programs may ask at once: one fetches, the others wait and find the folder complete.
  exec 9>"$out/.lock"
  flock 9
  if complete "$out"; then exit 0; fi

  # shellcheck source=/dev/null
  release=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  line=$(source_line "$release" /etc/apt)
  if [ -z "$line" ]; then
    say "no source of Debian $release in /etc/apt; put busybox programs named ${architectures[*]} into $out"
    exit 1
  fi
  IFS=$'\t' read -r uri keyring <<<"$line"

  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  APT_CONFIG=$(configure "$work" "$uri" "$keyring" "$release")
  export APT_CONFIG
  for ((try = 1; try <= tries; try++)); do
    if fetch "$work" "$out"; then exit 0; fi
    if ((try < tries)); then
      say "try $try of $tries did not get the packages; trying again"
      sleep 5
    fi
  done
  say "no busybox-static packages from $uri; see the messages above"
  exit 1
}

# Its test reads this file for the functions alone.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then main "$@"; fi
