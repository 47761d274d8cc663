#!/usr/bin/env bash
# First process of the OpenStack, in mount, process, UTS and IPC namespaces of its own: all that runs and all that is mounted there
# ends with it. It puts the control plane's root file system together and goes on as services.sh in it.
# bed.sh starts it: init.sh BED SCRIPTS, the folder of the OpenStack and that of this file.
set -euo pipefail
bed=$1 scripts=$2 root=$1/run/root

mkdir -p "$root"
mount -t overlay overlay -o "lowerdir=$bed/base,upperdir=$bed/layers/control,workdir=$bed/layers/.work-control" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/bed" "$root/scripts"
mount --bind "$bed" "$root/bed"
mount --bind "$scripts" "$root/scripts"
mount -o remount,bind,ro "$root/scripts"

# Namespaces and links of the control plane and of the servers are known here only: /run/netns is of this file system.
# `host` is where this process comes from; `ibos` has the APIs and the networks.
mkdir -p "$root/run/netns"
touch "$root/run/netns/host"
mount --bind /proc/self/ns/net "$root/run/netns/host"
chroot "$root" ip netns add ibos
ip link add ibos-api type veth peer name api netns "$root/run/netns/ibos"
ip link add ibos-net type veth peer name provider netns "$root/run/netns/ibos"
ip address add 10.79.1.1/30 dev ibos-api
ip address add 10.79.0.1/24 dev ibos-net
ip link set ibos-api up
ip link set ibos-net up

# What /sys shows of the network is that of whoever mounts it; the agents look there for their bridges.
nsenter --net="$root/run/netns/ibos" mount -t sysfs sysfs "$root/sys"
mount --rbind /sys/fs/cgroup "$root/sys/fs/cgroup"

cp -L /etc/resolv.conf "$root/etc/resolv.conf" # for the relay, which looks up the archive
hostname ibos
printf '127.0.0.1 localhost ibos\n' >"$root/etc/hosts"
mkdir -p "$root/run/pids" "$root/run/lock/openstack"
# No chroot: servers have a root of their own only if this has one.
cd "$root"
pivot_root . .
umount --lazy .
exec /scripts/services.sh
