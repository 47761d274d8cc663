#!/usr/bin/env bash
# Starts OpenStack, and stays as the first process of its process namespace: init.sh goes on as this, in the control plane's root.
# /bed is .work/openstack: state/ outlives it, log/ has what each daemon says, run/ready tells that all of it is up.
set -uo pipefail
readonly api=10.79.1.2 etc=/run/openstack state=/bed/state
export LC_ALL=C.UTF-8 PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root OS_CLIENT_CONFIG_FILE=/bed/clouds.yaml

say() { printf '%(%T)T %s\n' -1 "$*"; }
# fail ends this process, and all of the OpenStack with it.
fail() {
  say "$*"
  exit 1
}

inside() { nsenter --net=/run/netns/ibos "$@"; }

# start NAME COMMAND… starts a daemon among the APIs; start_outside starts it in this machine's own network.
start() {
  local name=$1
  shift
  start_outside "$name" nsenter --net=/run/netns/ibos "$@"
}
start_outside() {
  local name=$1
  shift
  setsid "$@" >>"/bed/log/$name.log" 2>&1 </dev/null &
  echo $! >"/run/pids/$name"
}

# await NAME SECONDS COMMAND… waits until the daemon's command succeeds.
await() {
  local name=$1 end=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    kill -0 "$(<"/run/pids/$name")" 2>/dev/null || fail "$name ended: $(tail -n 3 "/bed/log/$name.log")"
    [ $SECONDS -lt $end ] || fail "$name does not answer; more in log/$name.log"
    sleep 0.3
  done
}

# answers URL tells whether a server says anything there but that it cannot serve.
answers() {
  local code
  code=$(inside curl --silent --output /dev/null --max-time 5 --write-out '%{http_code}' "$1") && [ "$code" -lt 500 ]
}
mysql() { mariadb --no-defaults --user=root --socket=/run/mysql.sock; }
listens() { inside bash -c "exec 3<>/dev/tcp/127.0.0.1/$1"; }

# once NAME COMMAND… runs a command that is done once for a state.
once() {
  local name=$1
  shift
  if [ -e "$state/done/$name" ]; then return; fi
  "$@" >>"/bed/log/once-$name.log" 2>&1 </dev/null || {
    say "$name failed: $(tail -n 3 "/bed/log/once-$name.log")"
    return 1
  }
  touch "$state/done/$name"
}

# ---- settings

umask 077
mkdir -p $etc $state/done $state/images $state/nova/instances $state/neutron $state/cinder
[ -s $state/key ] || ssh-keygen -q -t ed25519 -N '' -C tests -f $state/key </dev/null
[ -s $state/password ] || head -c 18 /dev/urandom | base64 | tr '+/' 'xy' >$state/password
password=$(<$state/password)
for file in /scripts/etc/*; do
  sed "s/@PASSWORD@/$password/" "$file" >"$etc/${file##*/}"
done
mv $etc/clouds.yaml /bed/clouds.yaml
umask 022
ln -sf /scripts/nova_driver.py /usr/lib/python3/dist-packages/nova/virt/ibos.py
ln -sf /scripts/cinder_driver.py /usr/lib/python3/dist-packages/cinder/volume/drivers/ibos.py

# ---- network

inside ip link set lo up
inside ip link set api up
inside ip link set provider up
inside ip address add $api/30 dev api
inside ip route add default via 10.79.1.1
# Packet filters also see what goes from one server to another.
inside sysctl --quiet --write net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1 net.ipv4.ip_forward=0
# Servers get Debian packages from here; this machine forwards nothing for them.
archive=$(awk 'NR == 1 {print $2}' /etc/apt/sources.list)
case $archive in https:*) port=443 ;; *) port=80 ;; esac
archive=${archive#*://}
archive=${archive%%/*}
start_outside relay socat "TCP-LISTEN:$port,bind=10.79.0.1,fork,reuseaddr" "TCP:${archive%:*}:$port"

# ---- database and message queue

export PYTHONWARNINGS=ignore
once mariadb mariadb-install-db --no-defaults --user=root --datadir=$state/mysql --auth-root-authentication-method=normal --skip-test-db ||
  fail "the database could not be made"
# What a power cut would lose does not matter here.
start mariadb mariadbd --no-defaults --user=root --datadir=$state/mysql --socket=/run/mysql.sock --skip-networking --pid-file=/run/mysql.pid \
  --innodb-flush-log-at-trx-commit=0 --innodb-doublewrite=0 --skip-log-bin --performance-schema=OFF --max-connections=400 \
  --innodb-buffer-pool-size=256M --skip-name-resolve --character-set-server=utf8mb3
# Queues are made by those who use them: old ones would only be read again.
rm -rf $state/rabbit
mkdir -p $state/rabbit
start rabbitmq env HOME=$state/rabbit RABBITMQ_NODENAME=rabbit@localhost RABBITMQ_NODE_IP_ADDRESS= \
  RABBITMQ_CONFIG_FILE=$etc/rabbitmq.conf RABBITMQ_CONF_ENV_FILE=/dev/null RABBITMQ_MNESIA_BASE=$state/rabbit/mnesia \
  RABBITMQ_LOG_BASE=$state/rabbit RABBITMQ_LOGS=- RABBITMQ_ENABLED_PLUGINS_FILE=$state/rabbit/plugins RABBITMQ_PID_FILE=/run/rabbitmq.pid \
  RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+sbwt none +sbwtdcpu none +sbwtdio none' /usr/lib/rabbitmq/bin/rabbitmq-server
await mariadb 60 mysql
say "the database is up"

databases() {
  local name
  for name in keystone glance placement cinder neutron nova_api nova nova_cell0; do
    echo "CREATE DATABASE IF NOT EXISTS $name CHARACTER SET utf8mb3;"
    echo "GRANT ALL ON $name.* TO 'openstack'@'localhost' IDENTIFIED BY '$password';"
  done | mysql
}
keystone() { keystone-manage --config-file $etc/keystone.conf "$@"; }
bootstrap() {
  mkdir -p $state/fernet $state/credential
  keystone fernet_setup --keystone-user root --keystone-group root &&
    keystone credential_setup --keystone-user root --keystone-group root &&
    OS_BOOTSTRAP_PASSWORD=$password keystone bootstrap --bootstrap-region-id RegionOne \
      --bootstrap-public-url http://$api:5000/v3 --bootstrap-internal-url http://$api:5000/v3 --bootstrap-admin-url http://$api:5000/v3 &&
    # nova-conductor ends if its user is not there yet when it starts.
    OS_BOOTSTRAP_PASSWORD=$password keystone bootstrap --bootstrap-username service --bootstrap-project-name service
}
nova() { inside nova-manage --config-file $etc/nova.conf "$@"; }
# The address of cell0 has the password: its own option takes the address of [database] with another name by itself.
schemas() {
  {
    once keystone keystone db_sync && once bootstrap bootstrap &&
      once placement env OS_PLACEMENT_CONFIG_DIR=$etc placement-manage --config-file $etc/placement.conf db sync &&
      once glance glance-manage --config-file $etc/glance-api.conf db_sync &&
      once cinder cinder-manage --config-file $etc/cinder.conf db sync
  } &
  local first=$!
  once neutron neutron-db-manage --config-file $etc/neutron.conf upgrade head &
  local second=$!
  once nova-api nova api_db sync && once nova-cell0 nova cell_v2 map_cell0 &&
    once nova-cell1 nova cell_v2 create_cell --name cell1 && once nova nova db sync && wait $first && wait $second
}
if [ ! -e $state/done/schemas ]; then
  if ! once databases databases || ! schemas; then fail "the databases' schemas could not be made"; fi
  touch $state/done/schemas
fi
say "the schemas are there"

# ---- services

# Without "Connection: close", uwsgi now and then answers 503.
uwsgi_app() { # PROCESSES THREADS PORT PROGRAM
  echo uwsgi --plugin python3 --http-socket "$api:$3" --wsgi-file "/usr/bin/$4" --processes "$1" --threads "$2" --master --die-on-term \
    --need-app --buffer-size 65535 --add-header 'Connection:close' --lazy-apps
}
# shellcheck disable=SC2046 # words
start keystone env OS_KEYSTONE_CONFIG_FILES=$etc/keystone.conf $(uwsgi_app 2 2 5000 keystone-wsgi-public)
# shellcheck disable=SC2046
start placement env OS_PLACEMENT_CONFIG_DIR=$etc $(uwsgi_app 1 4 8778 placement-api)
await keystone 120 answers http://$api:5000/v3
await rabbitmq 120 listens 5672
say "keystone answers"
start glance glance-api --config-file $etc/glance-api.conf
start neutron-server neutron-server --config-file $etc/neutron.conf
start nova-api nova-api --config-file $etc/nova.conf
start cinder-api cinder-api --config-file $etc/cinder.conf
start cinder-scheduler cinder-scheduler --config-file $etc/cinder.conf
start cinder-volume cinder-volume --config-file $etc/cinder.conf
start nova-conductor nova-conductor --config-file $etc/nova.conf
once identity inside /usr/bin/python3 /scripts/cloud.py identity || fail "users and services could not be made"
await placement 60 answers http://$api:8778/
start nova-scheduler nova-scheduler --config-file $etc/nova.conf
await neutron-server 120 answers http://$api:9696/
start neutron-linuxbridge env PATH=/scripts/shim:$PATH neutron-linuxbridge-agent --config-file $etc/neutron.conf
start neutron-l3 neutron-l3-agent --config-file $etc/neutron.conf
# Debian's package with the program brings a hypervisor.
start nova-compute /usr/bin/python3 -c 'import sys; sys.argv[0] = "nova-compute"; from nova.cmd.compute import main; main()' \
  --config-file $etc/nova.conf
await glance 60 answers http://$api:9292/
await nova-api 120 answers http://$api:8774/
await cinder-api 120 answers http://$api:8776/
say "all APIs answer"
for file in /run/pids/*; do
  kill -0 "$(<"$file")" 2>/dev/null || fail "${file##*/} ended: $(tail -n 3 "/bed/log/${file##*/}.log")"
done
inside /usr/bin/python3 /scripts/cloud.py seed >>/bed/log/seed.log 2>&1 || fail "the cloud could not be furnished: $(tail -n 3 /bed/log/seed.log)"
once hosts nova cell_v2 discover_hosts || fail "the host could not be made known to nova"
say "ready"
touch /bed/run/ready

# One that is lent ends when nobody has held run/users for a minute. Whoever comes meanwhile waits for the lock, and starts another.
exec 8<>/bed/run/users
free=0
while [ $free -lt 60 ]; do
  if [ -e /bed/run/stay ] || ! flock --exclusive --nonblock 8; then
    free=0
  elif [ $((free += 1)) -lt 60 ]; then
    flock --unlock 8
  fi
  sleep 1
done
say "nobody needs it"
rm -f /bed/run/ready
/scripts/stop-database.sh
# What is left ends with this process; but groups of servers' processes can be removed only when they are empty.
[ $$ = 1 ] && kill -KILL -1
for ((i = 0; i < 50; i++)); do
  find /sys/fs/cgroup/ibos /sys/fs/cgroup/*/ibos -depth -type d -exec rmdir {} + 2>/dev/null
  compgen -G '/sys/fs/cgroup/*/ibos' >/dev/null || break
  sleep 0.1
done
