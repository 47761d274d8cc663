#!/usr/bin/env bash
# Gets Keycloak into DIR, ready to be started, and does nothing where it is there already. `make soak` tests the
# service with it: it is the OpenID provider that the original was run with.
#
#   keycloak.sh DIR
#
# It needs Java 17 and Maven, which are installed from Debian where they are missing. 180 MB are downloaded, and the whole
# takes a minute or two.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly version=26.7.3
readonly unpack=org.apache.maven.plugins:maven-dependency-plugin:3.6.1:unpack

dir=${1:?keycloak.sh DIR}
if [ -f "$dir/version" ] && [ "$(<"$dir/version")" = "$version" ]; then exit; fi
scripts/setup.sh packages default-jre-headless maven
echo "keycloak: getting $version" >&2
rm -rf "$dir"
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# Somewhere else than here: Maven is not to take this for a project, and leaves a folder behind.
elsewhere=$(mktemp -d)
trap 'rm -rf "$elsewhere"' EXIT
(cd "$elsewhere" && mvn --batch-mode --quiet "$unpack" \
  -Dartifact="org.keycloak:keycloak-quarkus-dist:$version:zip" -DoutputDirectory="$dir" -Dmdep.useBaseVersion=true)
mv "$dir/keycloak-$version" "$dir/keycloak"
# What would otherwise be done at each start, in most of a minute.
bash "$dir/keycloak/bin/kc.sh" build --db=dev-mem --health-enabled=true >&2
echo "$version" >"$dir/version"
