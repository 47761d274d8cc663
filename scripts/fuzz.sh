#!/usr/bin/env bash
# fuzz.sh DURATION runs every fuzz target for so long (30s, 5m), one after the other: the Go command
# takes one at a time. An input that fails is kept in the package's testdata/fuzz, to be committed.
set -euo pipefail
cd "$(dirname "$0")/.."

duration=${1:?usage: fuzz.sh DURATION}
grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal plugin schemas tosca | sort | while IFS=: read -r file func; do
  go test -run '^$' -fuzz "^${func#func }\$" -fuzztime "$duration" -fuzzminimizetime 5s "./$(dirname "$file")" </dev/null
done
