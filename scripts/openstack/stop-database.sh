#!/usr/bin/env bash
# Runs inside, and lets the database finish what it has to: bed.sh and services.sh end all others at once.
set -euo pipefail
pid=$(</run/pids/mariadb)
kill -TERM "$pid"
for ((i = 0; i < 100; i++)); do
  kill -0 "$pid" 2>/dev/null || break
  sleep 0.1
done
