#!/usr/bin/env bash
# fuzz.sh DURATION runs every fuzz target for so long (30s, 5m), two at a time, each line with the target's name in front. An input
# that fails is kept in the package's testdata/fuzz, to be committed.
#
# fuzz.sh compile makes the test programs, in .work/fuzz, and runs none.
set -euo pipefail
cd "$(dirname "$0")/.."

export duration=${1:?usage: fuzz.sh DURATION|compile}
tests=$PWD/.work/fuzz # kept, so that what has not changed is not linked again
found=$(go env GOCACHE)/fuzz/$(go list -m) # where go test, too, keeps inputs that reach something new
export tests found

# one FILE:FUNC runs a target. Where Go's coordinator takes the end of the time for a failure, which has no input then, it runs again:
# https://go.dev/issue/75804, mended in Go 1.27.
one() {
  set -o pipefail
  local package=${1%/*} name=${1##*func }
  cd "$package"
  for _ in 1 2 3; do
    "$tests/$package.test" -test.run '^$' -test.fuzz "^$name\$" -test.fuzztime "$duration" -test.fuzzminimizetime 5s \
      -test.fuzzcachedir "$found/$package" </dev/null 2>&1 | tee "$tests/$name.log" | sed -u "s/^/$name: /" && return
    [ "$(sed '1,/^--- FAIL: /d' "$tests/$name.log")" = $'    context deadline exceeded\nFAIL' ] || return
  done
  return 1
}
export -f one

targets=$(grep -rEo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]+' cmd internal plugin schemas tosca | sort)
# One package after the other: two at once would both compile, with instruments, what both need. Of its tests, only the files that
# have targets are taken, which must do without the others: those import a browser's protocol, OpenTelemetry and whole registries.
for package in $(cut -d: -f1 <<<"$targets" | xargs dirname | uniq); do
  mapfile -t files < <(go list -f '{{join .GoFiles "\n"}}' "./$package" && cd "$package" && grep -l '^func Fuzz' -- *_test.go)
  mkdir -p "$tests/${package%/*}"
  (cd "$package" && go test -c -fuzz . -ldflags=-s -o "$tests/$package.test" "${files[@]}")
done
if [ "$duration" = compile ]; then exit; fi
# shellcheck disable=SC2016 # the shell that xargs starts expands it
tr '\n' '\0' <<<"$targets" | xargs -0 -n 1 -P 2 bash -c 'one "$1"' one
