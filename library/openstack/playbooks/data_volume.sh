#!/bin/sh
# Makes a volume of this server the file system of a folder:
#
#   data_volume.sh VOLUME DEVICE FOLDER   the volume's id; the device that the cloud thinks it is, or -; where it is mounted
#
# A blank volume gets a file system. One that is neither blank nor has a file system is refused, and so is a folder with files
# in it that are not the volume's. It prints "changed" if it has done anything. It runs as root.
set -eu

fail() { echo "$*" >&2; exit 1; }

# Its id names it for sure, as far as its serial number tells it; the cloud only guesses the device.
device() {
  for link in /dev/disk/by-id/*"$(printf %.20s "$1")"*; do
    case $link in *-part*) ;; *) if [ -b "$link" ]; then readlink -f "$link"; return; fi ;; esac
  done
  if [ -b "$2" ]; then echo "$2"; fi
}

is_blank() { [ "$(head -c 1048576 "$1" | tr -d '\0' | head -c 1 | wc -c)" = 0 ] && ! blkid -p "$1" >/dev/null 2>&1; }

changed=
for _ in 1 2 3 4 5 6 7 8 9 10; do
  disk=$(device "$1" "$2")
  if [ -n "$disk" ]; then break; fi
  sleep 1
done
[ -n "$disk" ] || fail "volume $1 is attached, but this server has no such disk"

if is_blank "$disk"; then
  mkfs.ext4 -q "$disk"
  changed=1
fi
uuid=$(blkid -p -s UUID -o value "$disk" || true)
if [ -z "$uuid" ] || [ -z "$(blkid -p -s TYPE -o value "$disk" || true)" ]; then
  fail "$disk is not blank, and has no file system that this server knows: it is left as it is"
fi

mkdir -p "$3"
if ! mountpoint -q "$3"; then
  [ -z "$(ls -A "$3")" ] || fail "$3 has files already: the volume must be there before Docker's Engine"
  # After a restart, an Engine that did not wait for it would begin anew below.
  options=defaults,nofail,x-systemd.before=docker.service,x-systemd.required-by=docker.service
  if ! grep -q "^UUID=$uuid " /etc/fstab; then printf 'UUID=%s %s auto %s 0 2\n' "$uuid" "$3" "$options" >>/etc/fstab; fi
  mount "$disk" "$3"
  changed=1
elif [ "$(findmnt -n -o SOURCE --mountpoint "$3")" != "$disk" ]; then
  fail "another file system is mounted at $3"
fi
if [ -n "$changed" ]; then echo changed; fi
