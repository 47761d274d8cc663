#!/usr/bin/env bash
# Servers: each is Debian with systemd in namespaces of its own, on a disk that is a layer on its image's file system.
#
#   server.sh create ID   its disk and its link, by NAME, IMAGE, ADDRESS, GATEWAY, MAC, TAP, BRIDGE, DOCKER_MB; the public key comes on stdin
#   server.sh boot ID     starts it; its disk is as it was
#   server.sh halt ID     ends everything in it at once
#   server.sh attach ID   it has a disk more until it halts: VOLUME and its FILE
#   server.sh detach ID   it has not
#   server.sh delete ID   all of it is gone; that it never was is no error
#   server.sh crash NAME  halt and boot; ID or NAME
#
# Runs among the control plane: nova_driver.py and bed.sh call it.
set -euo pipefail
readonly servers=/bed/servers cgroups=/sys/fs/cgroup
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

die() { echo "$*" >&2; exit 1; }
inside() { nsenter --net=/run/netns/ibos "$@"; }
start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# space ID prints the name of its network namespace, and of its groups of processes.
space() { echo "ibos-${1:0:8}"; }

# layers IMAGE prints the file systems that it stands for.
layers() {
  case $1 in
  debian-12) echo /bed/base ;;
  debian-12-docker) echo /bed/layers/docker:/bed/base ;;
  *) die "no file system is known for image $1" ;;
  esac
}

create() {
  local id=$1 dir=$servers/$1 net key
  net=$(space "$id")
  key=$(cat)
  delete "$id"
  mkdir -p "$dir"/{upper,work,root,docker,containerd}
  # shellcheck disable=SC2153 # from the environment
  printf '%s=%q\n' NAME "$NAME" IMAGE "$IMAGE" TAP "$TAP" DOCKER_MB "${DOCKER_MB-}" >"$dir/settings"

  ip netns add "$net"
  inside ip link add "$TAP" type veth peer name eth0 netns "/run/netns/$net"
  # The agent of neutron gives the bridge what else it needs; it plugs no server into it.
  inside ip link show "$BRIDGE" >/dev/null 2>&1 || inside ip link add "$BRIDGE" type bridge forward_delay 0
  inside ip link set "$BRIDGE" up
  inside ip link set "$TAP" master "$BRIDGE" up
  ip -netns "$net" link set lo up
  ip -netns "$net" link set eth0 address "$MAC" up
  ip -netns "$net" address add "$ADDRESS" dev eth0
  ip -netns "$net" route add default via "$GATEWAY"

  if [ "${DOCKER_MB:-0}" != 0 ]; then mount -t tmpfs -o "size=${DOCKER_MB}m,mode=710" tmpfs "$dir/docker"; fi
  assemble "$id"
  local root=$dir/root archive home
  echo "$NAME" >"$root/etc/hostname"
  archive=$(sed -n '1s#^deb [a-z]*://\([^/:]*\).*#\1#p' "$root/etc/apt/sources.list")
  printf '127.0.0.1 localhost\n%s %s\n10.79.0.1 %s\n' "${ADDRESS%/*}" "$NAME" "$archive" >"$root/etc/hosts"
  for home in root home/debian; do
    install -d -m 700 "$root/$home/.ssh"
    (umask 077 && echo "$key" >"$root/$home/.ssh/authorized_keys")
  done
  chroot "$root" chown -R debian:debian /home/debian/.ssh
  ssh-keygen -q -t ed25519 -N '' -C "root@$NAME" -f "$root/etc/ssh/ssh_host_ed25519_key" </dev/null
}

# assemble ID mounts its disk. What Docker and containerd store is beside the layer: overlays cannot be upon one another.
assemble() {
  local dir=$servers/$1 lower
  # shellcheck source=/dev/null
  . "$dir/settings"
  lower=$(layers "$IMAGE")
  mount -t overlay overlay -o "lowerdir=$lower,upperdir=$dir/upper,workdir=$dir/work" "$dir/root"
  mkdir -p "$dir/root/var/lib/docker" "$dir/root/var/lib/containerd"
  if [ "$DOCKER_MB" != 0 ]; then mount --bind "$dir/docker" "$dir/root/var/lib/docker"; fi
  mount --bind "$dir/containerd" "$dir/root/var/lib/containerd"
}

# join ID puts this process, which may be a subshell, into the groups of the server; it prints which controllers version 1 has.
join() {
  local name group controller value
  name=$(space "$1")
  if [ -e $cgroups/cgroup.controllers ]; then # version 2
    mkdir -p "$cgroups/ibos/$name"
    echo "$BASHPID" >"$cgroups/ibos/$name/cgroup.procs"
    return
  fi
  for controller in systemd unified cpu cpuacct cpuset memory devices freezer blkio pids; do
    [ -d "$cgroups/$controller" ] || continue
    for group in "$cgroups/$controller/ibos" "$cgroups/$controller/ibos/$name"; do
      mkdir -p "$group"
      if [ $controller = cpuset ]; then
        for value in cpus mems; do cat "$cgroups/cpuset/cpuset.$value" >"$group/cpuset.$value"; done
      fi
    done
    echo "$BASHPID" >"$group/cgroup.procs"
    case $controller in systemd | unified) ;; *) printf '%s ' $controller ;; esac
  done
}

boot() {
  local id=$1 dir=$servers/$1 net pid
  net=$(space "$id")
  if runs "$id"; then return; fi
  mountpoint -q "$dir/root" || assemble "$id"
  (
    # A root of its own, for the kernel lets nobody in a chroot make a user namespace, as rootless engines do. Without
    # /proc, umount would not find it.
    join "$id" >"$dir/controllers"
    # shellcheck disable=SC2016 # for that shell
    exec env -i PATH=$PATH CONTROLLERS="$(<"$dir/controllers")" nsenter --net="/run/netns/$net" \
      setsid unshare --mount --pid --uts --ipc --cgroup --fork --kill-child=KILL --propagation private \
      sh -c 'cd "$1" && mount -t proc proc proc && pivot_root . . && umount --lazy . && exec /bin/sh -s' sh "$dir/root" </scripts/server-init.sh
  ) >>"$dir/console" 2>&1 &
  pid=$!
  sleep 0.2
  echo "$pid $(start_of $pid)" >"$dir/pid"
}

runs() {
  local pid start
  read -r pid start 2>/dev/null <"$servers/$1/pid" && [ -n "$start" ] && [ "$(start_of "$pid")" = "$start" ]
}

halt() {
  local dir=$servers/$1 pid start child i
  if runs "$1"; then
    read -r pid start <"$dir/pid"
    # The first process takes all of its namespace with it.
    for child in $(<"/proc/$pid/task/$pid/children"); do kill -KILL "$child"; done
    for ((i = 0; i < 100; i++)); do
      runs "$1" || break
      sleep 0.1
    done
    if runs "$1"; then die "processes of server $1 do not end"; fi
  fi
  rm -f "$dir/pid"
  if [ -d "$dir/root" ] && mountpoint -q "$dir/root"; then umount --recursive "$dir/root"; fi
  for ((i = 0; i < 50; i++)); do
    find $cgroups/*/"ibos/$(space "$1")" "$cgroups/ibos/$(space "$1")" -depth -type d -exec rmdir {} + 2>/dev/null || true
    compgen -G "$cgroups/*/ibos/$(space "$1")" >/dev/null || break
    sleep 0.1
  done
}

delete() {
  local dir=$servers/$1 net file
  net=$(space "$1")
  halt "$1"
  if [ -e "$dir/settings" ]; then
    # shellcheck source=/dev/null
    (. "$dir/settings" && inside ip link delete "$TAP" 2>/dev/null) || true # the agent may have been quicker
  fi
  if [ -e "/run/netns/$net" ]; then ip netns delete "$net"; fi
  for file in "$dir"/volumes/*; do
    if [ -e "$file" ]; then VOLUME=${file##*/} detach "$1"; fi
  done
  if [ -d "$dir/docker" ] && mountpoint -q "$dir/docker"; then umount "$dir/docker"; fi
  rm -rf "$dir"
}

# devices ID prints where the /dev of a server that runs is seen from here.
devices() {
  local pid child
  read -r pid _ <"$servers/$1/pid"
  child=$(<"/proc/$pid/task/$pid/children")
  echo "/proc/${child%% *}/root/dev"
}

# attach makes a disk of the file. A process of ours has it open; when that ends, whatever the reason, the kernel lets go of the file.
attach() {
  local dir=$servers/$1 loop dev
  runs "$1" || die "server $1 does not run"
  dev=$(devices "$1")
  # shellcheck disable=SC2153 # from the environment
  loop=$(losetup --find --show "$FILE")
  setsid sleep infinity <"$loop" >/dev/null 2>&1 &
  mkdir -p "$dir/volumes"
  echo "$! $(start_of $!)" >"$dir/volumes/$VOLUME"
  losetup --detach "$loop"
  mkdir -p "$dev/disk/by-id"
  mknod -m 660 "$dev/${loop#/dev/}" b "$(stat -c '%Hr' "$loop")" "$(stat -c '%Lr' "$loop")"
  ln -s "../../${loop#/dev/}" "$dev/disk/by-id/virtio-${VOLUME:0:20}"
}

detach() {
  local file=$servers/$1/volumes/$VOLUME pid start dev
  if runs "$1"; then
    dev=$(devices "$1")
    rm -f "$dev/$(basename "$(readlink "$dev/disk/by-id/virtio-${VOLUME:0:20}")")" "$dev/disk/by-id/virtio-${VOLUME:0:20}"
  fi
  read -r pid start <"$file"
  if [ "$(start_of "$pid")" = "$start" ]; then kill "$pid"; fi
  rm "$file"
}

# crash takes an ID or a name.
crash() {
  local ids=() file
  if [ ! -d "$servers/$1" ]; then
    for file in "$servers"/*/settings; do
      # shellcheck source=/dev/null
      if (. "$file" 2>/dev/null && [ "$NAME" = "$1" ]); then ids+=("$(basename "$(dirname "$file")")"); fi
    done
    [ ${#ids[@]} = 1 ] || die "${#ids[@]} servers are called $1"
    set -- "${ids[0]}"
  fi
  halt "$1"
  boot "$1"
}

case ${1-} in
create | boot | halt | attach | detach | delete | crash) "$@" ;;
*) die "usage: server.sh create|boot|halt|attach|detach|delete|crash SERVER" ;;
esac
