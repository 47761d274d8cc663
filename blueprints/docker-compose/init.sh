#!/bin/sh
# init.sh makes what docker-compose.yml needs and is not there yet: .env, and in secrets/ the password of the database, the identity
# that workers open documents with, and an API key with all rights. It replaces nothing.
#
#   secrets/api-key   the key itself, for scripts/client.py --api-key-file and for the web page; the service has its hash only
#
# Another key: docker compose run --rm --no-deps -T api key new --name ci >>secrets/api-keys
set -eu
umask 077
cd "$(dirname "$0")"

[ -f .env ] || cp env.example .env
image=${IMAGE_BUILDER_IMAGE:-$(sed -n 's/^IMAGE_BUILDER_IMAGE=//p' .env)}
image=${image:-image-builder-api:latest}

api() { docker run --rm --network none --cap-drop ALL "$image" "$@"; }

# keep FILE moves what was written beside it to its place.
keep() {
  # The containers' users are others than you, and Compose shows them the file with its rights: the folder is what keeps it from
  # other users of this machine.
  chmod 0644 "secrets/$1.new"
  mv "secrets/$1.new" "secrets/$1"
}

mkdir -p secrets
chmod 0700 secrets
if ! [ -f secrets/database-password ]; then
  head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n' >secrets/database-password.new
  keep database-password
fi
if ! [ -f secrets/identities ]; then
  api keygen 2>secrets/said >secrets/identities.new || { cat secrets/said >&2; exit 1; }
  rm secrets/said
  keep identities
fi
if ! [ -f secrets/api-keys ]; then
  api key new --name admin --scope builds:admin,builds:submit 2>secrets/said >secrets/api-keys.new || { cat secrets/said >&2; exit 1; }
  sed -n 's/^key: //p' secrets/said >secrets/api-key
  rm secrets/said
  keep api-keys
fi
recipient=$(sed -n 's/^# recipient: //p' secrets/identities | paste -sd, -)
if ! grep -q '^IMAGE_BUILDER_SEAL_TO=' .env; then
  printf '\n# To whom documents are sealed: the recipient of secrets/identities. Not a secret.\nIMAGE_BUILDER_SEAL_TO=%s\n' "$recipient" >>.env
fi
echo "ready: docker compose up -d --scale worker=2; the API key is in $PWD/secrets/api-key" >&2
