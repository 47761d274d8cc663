#!/bin/sh
# entrypoint [serve CONFIG] runs the registry; entrypoint garbage-collect CONFIG frees the room of what was deleted.
#
#   REGISTRY_USER            who may pull and push; without it, everybody may who reaches the registry
#   REGISTRY_PASSWORD_FILE   file with their password, of at most 72 bytes
#
# and the registry's own variables, as REGISTRY_HTTP_TLS_CERTIFICATE and REGISTRY_HTTP_TLS_KEY.
set -eu

fail() {
  echo "entrypoint: $*" >&2
  exit 1
}

if [ -n "${REGISTRY_USER:-}${REGISTRY_PASSWORD_FILE:-}" ]; then
  [ -n "${REGISTRY_USER:-}" ] || fail "REGISTRY_PASSWORD_FILE is set, and REGISTRY_USER is not"
  [ -n "${REGISTRY_PASSWORD_FILE:-}" ] || fail "REGISTRY_USER is set, and REGISTRY_PASSWORD_FILE is not"
  [ -r "$REGISTRY_PASSWORD_FILE" ] || fail "REGISTRY_PASSWORD_FILE: $REGISTRY_PASSWORD_FILE cannot be read by user $(id -u)"
  [ -s "$REGISTRY_PASSWORD_FILE" ] || fail "REGISTRY_PASSWORD_FILE: $REGISTRY_PASSWORD_FILE is empty"
  umask 077
  # Only who reads the password itself reads this file, so the hash need not be a slow one, which each request would wait for.
  htpasswd -niB -C 5 "$REGISTRY_USER" <"$REGISTRY_PASSWORD_FILE" >/run/registry/htpasswd
  umask 022
  export REGISTRY_AUTH=htpasswd REGISTRY_AUTH_HTPASSWD_REALM=registry REGISTRY_AUTH_HTPASSWD_PATH=/run/registry/htpasswd
fi
unset REGISTRY_USER REGISTRY_PASSWORD_FILE # the registry would take them for settings of its own
exec docker-registry "$@"
