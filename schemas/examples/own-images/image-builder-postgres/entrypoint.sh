#!/bin/sh
# entrypoint [postgres] [OPTION…] sets the database up, where the volume has none yet, and runs PostgreSQL with these options. Other
# commands, as psql, are run as they are.
#
#   POSTGRES_PASSWORD_FILE   file with the user's password; or POSTGRES_PASSWORD, which everybody sees who may inspect the container
#   POSTGRES_USER            the user, who may do everything (postgres)
#   POSTGRES_DB              the database (named as the user)
#
# They count when the database is set up, and never again. Whoever comes by the network needs the password; whoever may run commands in
# the container does not.
set -eu

fail() {
  echo "entrypoint: $*" >&2
  exit 1
}

case ${1:-} in
'' | -*) set -- postgres "$@" ;;
postgres) ;;
*) exec "$@" ;;
esac
shift

volume=${PGDATA%/*}
if ! [ -f "$PGDATA/PG_VERSION" ]; then
  for other in "$volume"/*/PG_VERSION "$volume/PG_VERSION"; do
    case $other in
    *.new/*) ;;
    *) [ ! -f "$other" ] || fail "$volume holds a database of PostgreSQL $(cat "$other"), and this is ${PGDATA##*/}: dump it there (pg_dump), and restore it into a new volume" ;;
    esac
  done
  user=${POSTGRES_USER:-postgres}
  database=${POSTGRES_DB:-$user}
  case $user$database in *[!A-Za-z0-9_.-]*) fail "POSTGRES_USER and POSTGRES_DB have letters, digits and _ . - only" ;; esac
  if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
    [ -r "$POSTGRES_PASSWORD_FILE" ] || fail "POSTGRES_PASSWORD_FILE: $POSTGRES_PASSWORD_FILE cannot be read by user $(id -u)"
    POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
  fi
  [ -n "${POSTGRES_PASSWORD:-}" ] || fail "the database has no password: set POSTGRES_PASSWORD_FILE"
  # What is set up half is thrown away: the next start begins anew.
  new=$PGDATA.new
  rm -rf "$new"
  initdb --pgdata="$new" --username="$user" --pwfile=/dev/stdin --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 >&2 <<PASSWORD
$POSTGRES_PASSWORD
PASSWORD
  echo 'host all all all scram-sha-256' >>"$new/pg_hba.conf"
  if [ "$database" != postgres ]; then echo "CREATE DATABASE \"$database\"" | postgres --single -D "$new" postgres >&2; fi
  mv "$new" "$PGDATA"
fi
unset POSTGRES_PASSWORD
exec postgres -D "$PGDATA" -c listen_addresses='*' "$@"
