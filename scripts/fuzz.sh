#!/usr/bin/env bash
# fuzz.sh DURATION runs every fuzz target for so long (30s, 5m), two at a time: one is linked while another runs. An input that fails is
# kept in the package's testdata/fuzz, to be committed.
set -euo pipefail
cd "$(dirname "$0")/.."

export duration=${1:?usage: fuzz.sh DURATION}

# one FILE:FUNC runs a target. Each line has its name in front.
one() {
  set -o pipefail
  local name=${1##*func }
  go test -run '^$' -fuzz "^$name\$" -fuzztime "$duration" -fuzzminimizetime 5s "./$(dirname "${1%%:*}")" </dev/null 2>&1 | sed -u "s/^/$name: /"
}
export -f one

# shellcheck disable=SC2016 # the shell that xargs starts expands it
grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal plugin schemas tosca | sort | tr '\n' '\0' |
  xargs -0 -n 1 -P 2 bash -c 'one "$1"' one
