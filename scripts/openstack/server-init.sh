#!/bin/sh
# First process of a server, in its namespaces and its root file system: makes what a kernel and an initramfs would have made
# besides /proc, and goes on as systemd. server.sh gives it to sh on stdin; CONTROLLERS names those of cgroup version 1, or is empty where there is version 2.
set -e
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /dev
mkdir /dev/net /dev/pts /dev/shm
while read -r name major minor; do
  mknod -m 666 "/dev/$name" c "$major" "$minor"
done <<DEVICES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
fuse 10 229
net/tun 10 200
DEVICES
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/sshd /run/lock
hostname "$(cat /etc/hostname)"
if [ -n "$CONTROLLERS" ]; then
  mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
  for controller in $CONTROLLERS; do
    mkdir "/sys/fs/cgroup/$controller"
    mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
  done
  mkdir /sys/fs/cgroup/systemd
  mount -t cgroup -o none,name=systemd,xattr cgroup /sys/fs/cgroup/systemd
else
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
exec env -i container=lxc PATH="$PATH" /sbin/init --log-target=console --log-level=warning </dev/null
