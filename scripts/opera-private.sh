#!/usr/bin/env bash
# Runs opera so that what it stores is for nobody else to read: opera-private.sh deploy -i inputs.yaml docker_image_definition.yaml
#
# Opera keeps the inputs as they were given, passwords too, in .opera (or the folder of --instance-path), readable by everybody.
# It leaves the mode of a folder that is there already.
set -euo pipefail

folder=.opera
argument=''
for next in "$@"; do
  case $argument in -p | --instance-path) folder=$next ;; esac
  case $next in --instance-path=*) folder=${next#*=} ;; esac
  argument=$next
done
if [ -d "$folder" ]; then chmod 0700 "$folder"; else mkdir -m 0700 "$folder"; fi
exec opera "$@"
