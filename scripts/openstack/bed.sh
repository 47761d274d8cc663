#!/usr/bin/env bash
# A real OpenStack for the tests, on this machine and apart from it. README.md tells how it is made.
#
#   bed.sh setup             gets all that it is made of: once, some minutes. Nothing is started
#   bed.sh up                starts it, after setup where that is needed; an OpenStack that is up stays as it is, a new one is empty
#   bed.sh lend              starts it too, but it ends a minute after the last process that held a lock on .work/openstack/run/users
#   bed.sh down              ends all of it, and its servers with it
#   bed.sh status            tells what runs; fails where something that should does not
#   bed.sh crash SERVER      ends everything in a server at once, as a power cut does, and starts the server again. NAME or ID
#   bed.sh list              all that somebody has made in it, a line each: kind, project, name and id, with tabs between them
#   bed.sh openstack ARG…    OpenStack's command line, as the project demo or as OS_CLOUD
#   bed.sh exec COMMAND…     runs a command inside, beside OpenStack's own
#
# As root. Nothing of this machine is changed but what goes again with `down`: two links, ibos-api and ibos-net, and cgroups.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly scripts=$PWD/scripts/openstack bed=$PWD/.work/openstack
readonly suite=bookworm # the last Debian whose OpenStack has the agent for Linux bridges
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'openstack: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# start_of PID prints when a process began: with it, a number that was given to another process since is told apart.
start_of() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

# alive tells whether the OpenStack is there, running or starting.
alive() {
  local pid start
  read -r pid start 2>/dev/null <"$bed/run/pid" && [ -n "$start" ] && [ "$(start_of "$pid")" = "$start" ]
}

# alone keeps others that would change the same folder out until this program ends.
alone() {
  mkdir -p "$bed/run" "$bed/log"
  chmod 700 "$bed"
  exec 9>"$bed/run/lock"
  flock 9
}

# ---- what it is made of: file systems, each a layer on the one called base

# sources prints lines for apt: the archive that this machine is set up with.
sources() {
  # shellcheck disable=SC2016 # for apt
  apt-get indextargets --format 'deb $(REPO_URI) $(RELEASE) main' 'Created-By: Packages' | grep -E " $suite(-updates|-security)? main" | sort -u
}

# install LAYER PACKAGE… makes a file system of a layer on base, and installs packages there.
install() {
  local name=$1 root=$bed/run/$1-root
  shift
  if [ "$*" = "$(cat "$bed/layers/$name.ready" 2>/dev/null)" ]; then return; fi
  say "installing $name: ${*:1:3}…"
  if alive; then end; fi # its files go
  rm -rf "$bed/layers/$name" "$bed/layers/.work-$name"
  if [ "$name" = control ]; then rm -rf "$bed/state"; fi # what others have made
  mkdir -p "$bed/layers/$name" "$bed/layers/.work-$name" "$root"
  # In a mount namespace of its own: whatever happens, nothing stays mounted.
  # shellcheck disable=SC2016 # for that shell
  unshare --mount bash -euo pipefail -c '
    root=$1 bed=$2 name=$3
    shift 3
    mount -t overlay overlay -o "lowerdir=$bed/base,upperdir=$bed/layers/$name,workdir=$bed/layers/.work-$name" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    cp -L /etc/resolv.conf "$root/etc/resolv.conf"
    printf "#!/bin/sh\nexit 101\n" >"$root/usr/sbin/policy-rc.d" # no daemon is started
    # Python programs are compiled when they first run: for all that is installed it would take longer than the rest.
    mkdir "$root/run/shim"
    printf "#!/bin/sh\n" >"$root/run/shim/py3compile"
    chmod 755 "$root/usr/sbin/policy-rc.d" "$root/run/shim/py3compile"
    chroot "$root" env DEBIAN_FRONTEND=noninteractive apt-get install --quiet --yes --no-install-recommends \
      -o DPkg::Path=/run/shim:/usr/sbin:/usr/bin:/sbin:/bin -o Dpkg::Options::=--force-unsafe-io "$@"
    chroot "$root" apt-get clean
    rm -r "$root/usr/sbin/policy-rc.d" "$root/run/shim"
  ' install "$root" "$bed" "$name" "$@" >"$bed/log/setup-$name.log" 2>&1 </dev/null || {
    tail -n 5 "$bed/log/setup-$name.log" >&2
    die "$name could not be installed; more in $bed/log/setup-$name.log"
  }
  rmdir "$root"
  echo "$*" >"$bed/layers/$name.ready"
}

# base is what servers and the control plane begin with: Debian with systemd, sshd, and what Ansible needs.
base() {
  local root=$bed/base repository
  if [ -e "$bed/layers/base.ready" ]; then return; fi
  command -v debootstrap >/dev/null || die "debootstrap is missing; scripts/setup.sh packages debootstrap installs it"
  repository=$(sources | awk -v suite="$suite" '$3 == suite {print $2; exit}')
  [ -n "$repository" ] || die "apt of this machine knows no archive with Debian $suite"
  say "getting Debian $suite"
  rm -rf "$root"
  mkdir -p "$bed/layers"
  debootstrap --variant=minbase \
    --include=openssh-server,sudo,python3-minimal,python3-apt,iproute2,ca-certificates,procps,iptables,netbase,systemd-sysv,dbus \
    "$suite" "$root" "$repository" >"$bed/log/setup-base.log" 2>&1 || {
    tail -n 5 "$bed/log/setup-base.log" >&2
    die "debootstrap failed; more in $bed/log/setup-base.log"
  }
  sources >"$root/etc/apt/sources.list"
  printf 'path-exclude /usr/share/%s/*\n' man doc locale >"$root/etc/dpkg/dpkg.cfg.d/no-documents"
  cp -L /etc/resolv.conf "$root/etc/resolv.conf"
  chroot "$root" apt-get update --quiet >>"$bed/log/setup-base.log" 2>&1 || say "some package list was not updated; going on with what there is"
  chroot "$root" apt-get clean
  chroot "$root" useradd --create-home --shell /bin/bash debian
  (umask 337 && echo 'debian ALL=(ALL) NOPASSWD:ALL' >"$root/etc/sudoers.d/debian")
  # Each server has its own.
  rm -f "$root"/etc/ssh/ssh_host_*
  : >"$root/etc/machine-id"
  touch "$bed/layers/base.ready"
}

setup() {
  base
  install control \
    keystone uwsgi-plugin-python3 placement-api glance-api neutron-common neutron-l3-agent nova-common nova-api nova-conductor nova-scheduler \
    cinder-api cinder-scheduler cinder-volume \
    python3-openstackclient rabbitmq-server mariadb-server-core mariadb-client-core \
    ipset iptables ebtables conntrack bridge-utils iproute2 openssh-client curl socat
  install docker docker.io
}

# ---- what runs

# first prints the first process of the OpenStack, which all of it is a descendant of.
first() {
  local pid start child
  read -r pid start <"$bed/run/pid"
  read -r child <"/proc/$pid/task/$pid/children"
  echo "${child%% *}"
}

# enter COMMAND… runs a command as one of the control plane's.
enter() {
  nsenter --target "$(first)" --mount --pid --uts --ipc --root \
    nsenter --net=/run/netns/ibos env --chdir=/ HOME=/root OS_CLIENT_CONFIG_FILE=/bed/clouds.yaml OS_CLOUD="${OS_CLOUD:-demo}" "$@"
}

ready() { alive && [ -e "$bed/run/ready" ]; }
must_be_up() { ready || die "it is not up; scripts/openstack/bed.sh up starts it"; }

up() {
  lend
  touch "$bed/run/stay"
}

lend() {
  local pid began=$SECONDS
  if ready; then
    say "is up"
    return
  fi
  end
  setup
  # Not of this shell's session, and without its lock.
  setsid unshare --mount --pid --uts --ipc --fork --kill-child=KILL --propagation private \
    "$scripts/init.sh" "$bed" "$scripts" >"$bed/log/services.log" 2>&1 </dev/null 9>&- &
  pid=$!
  sleep 0.2
  echo "$pid $(start_of $pid)" >"$bed/run/pid"
  until ready; do
    if ! alive; then
      tail -n 3 "$bed/log/services.log" >&2
      end
      die "it did not come up; more in $bed/log/services.log"
    fi
    sleep 0.3
  done
  say "up after $((SECONDS - began)) s; $bed/clouds.yaml has the clouds demo and admin"
}

# end ends all of it and leaves nothing, whatever was left of it.
end() {
  local pid start i
  if alive; then
    read -r pid start <"$bed/run/pid"
    # The database alone has something to finish.
    if ready; then enter /scripts/stop-database.sh || true; fi
    kill -KILL "$pid" || true
  fi
  rm -f "$bed"/run/{pid,ready,stay}
  for ((i = 0; i < 100; i++)); do
    gone && break
    sleep 0.1
  done
  gone || die "something of it does not end; see ip link, and ibos in /sys/fs/cgroup"
  rm -rf "$bed/servers" "$bed/run/root"
}

# gone removes links and cgroups, and tells whether they are: they are free when the last process has ended.
gone() {
  local link group
  for link in ibos-api ibos-net; do
    if [ -e "/sys/class/net/$link" ]; then ip link delete "$link" 2>/dev/null || return 1; fi
  done
  for group in /sys/fs/cgroup/ibos /sys/fs/cgroup/*/ibos; do
    if [ -d "$group" ]; then find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || return 1; fi
  done
}

status() {
  alive || die "it is not up"
  ready || die "it is starting"
  # shellcheck disable=SC2016 # for that shell
  enter bash -c 'for file in /run/pids/*; do
    if kill -0 "$(<"$file")" 2>/dev/null; then echo "${file##*/} runs"; else echo "${file##*/} HAS ENDED"; failed=1; fi
  done; exit ${failed-0}'
}

if [ "$(id -u)" != 0 ]; then die "this needs root"; fi
case ${1-} in
setup | up | lend) alone && "$1" ;;
down) alone && end ;;
status) status ;;
crash) must_be_up && enter /scripts/server.sh crash "${2:?which server?}" ;;
list) must_be_up && enter /usr/bin/python3 /scripts/cloud.py list ;;
openstack) must_be_up && enter "$@" ;;
exec) must_be_up && shift && enter "$@" ;;
*)
  sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
  exit 2
  ;;
esac
