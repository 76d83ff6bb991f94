#!/usr/bin/env bash
# Bring a cluster up with Compose, break it, and judge what clients saw: what a release must pass.
#
#   deploy/smoke.sh [3|5] [--tls]      exit code 0: passed; 1: failed; 2: cannot run here
#
# Members are killed, paused, taken off the network and partitioned, the leader first. Each time the majority must go on,
# what was cut off must not acknowledge anything, and must catch up afterwards. A writer runs all the time: in the end
# every member must hold every write that it was told of, and all must have the same hash.
#
# Needs docker with Compose 2.24.4 or newer, and curl. Clients are etcdctl ($ETCDCTL, or the one on PATH); without one, or
# if ETCDCTL is empty, curl and the JSON gateway. It is a project of its own on ports of its own, and takes itself down
# again, volumes and all.
#
#   SMOKE_FILES       more Compose files, separated by spaces, laid over the others
#   SMOKE_UP          flags of `up`; default --build. --no-build takes the image that is there
#   SMOKE_BASE_PORT   the first of nine ports on 127.0.0.1; default 24790
#   SMOKE_PATIENCE_S  how long anything may take; default 60
#   COMPOSE, DOCKER   the commands; default `docker compose` and `docker`
set -euo pipefail
cd "$(dirname "$0")"

SIZE=3 TLS=
for word in "$@"; do
  case $word in
    3 | 5) SIZE=$word ;;
    --tls) TLS=1 ;;
    *) sed -n '2,/^set /s/^# \{0,1\}//p' smoke.sh; exit 2 ;;
  esac
done
PATIENCE_S=${SMOKE_PATIENCE_S:-60}
BASE_PORT=${SMOKE_BASE_PORT:-24790}
PROJECT=raftkv-smoke
SCHEME=http
WORK=$(mktemp -d)
STARTED=$SECONDS
ENOUGH_WRITES=10 # that were acknowledged during a fault: the cluster goes on
NODES=() ENDPOINTS=()
for ((i = 1; i <= SIZE; i++)); do
  NODES+=("node$i")
  ENDPOINTS+=("127.0.0.1:$((BASE_PORT + i))")
  export "RAFTKV_PORT_$i=$((BASE_PORT + i))"
done
export RAFTKV_TOXIPROXY_PORT=$((BASE_PORT + 6)) RAFTKV_PROMETHEUS_PORT=$((BASE_PORT + 7)) RAFTKV_GRAFANA_PORT=$((BASE_PORT + 8))

say() { printf '[%4d s] %s\n' $((SECONDS - STARTED)) "$*"; }
cannot() { echo "smoke: cannot run here: $*" >&2; exit 2; }
fail() { echo "smoke: FAILED: $*" >&2; exit 1; }

FILES=(-f "$([ "$SIZE" = 3 ] && echo compose.yaml || echo "compose.$SIZE.yaml")")
if [ "$TLS" ]; then
  [ "$SIZE" = 3 ] || cannot "--tls is for three members: deploy/compose.tls.yaml"
  SCHEME=https FILES+=(-f compose.tls.yaml)
fi
for file in ${SMOKE_FILES:-}; do FILES+=(-f "$file"); done
compose() { ${COMPOSE:-docker compose} -p $PROJECT "${FILES[@]}" "$@"; }
docker() { command ${DOCKER:-docker} "$@"; }

command -v curl >/dev/null || cannot "there is no curl"
docker info >/dev/null 2>&1 || cannot "no Docker daemon answers (docker info)"
compose config -q || cannot "Compose does not take the files, or there is no Compose"
SERVICES=" $(compose config --services | tr '\n' ' ') "

# --- clients ---------------------------------------------------------------------------------------------------------
# Each takes the place of a member in ENDPOINTS, from 0. Two ways to say the same: etcdctl, or the gateway's JSON.

CLIENT_TIMEOUT_S=3
ETCDCTL=${ETCDCTL-$(command -v etcdctl || true)}
CURL=(curl -sS --noproxy '*' --max-time "$CLIENT_TIMEOUT_S")
SECRETS=()

ctl() { # PLACE WORDS...
  env -i ETCDCTL_API=3 "$ETCDCTL" --endpoints="$SCHEME://${ENDPOINTS[$1]}" --dial-timeout=${CLIENT_TIMEOUT_S}s \
    --command-timeout=${CLIENT_TIMEOUT_S}s "${SECRETS[@]}" "${@:2}"
}
gateway() { # PLACE PATH JSON
  "${CURL[@]}" --fail "${SECRETS[@]}" "$SCHEME://${ENDPOINTS[$1]}$2" -d "$3"
}
in_base64() { printf %s "$1" | base64 -w0; }

put() { # PLACE KEY VALUE
  if [ "$ETCDCTL" ]; then ctl "$1" put "$2" "$3"; else
    gateway "$1" /v3/kv/put "{\"key\":\"$(in_base64 "$2")\",\"value\":\"$(in_base64 "$3")\"}"
  fi >/dev/null 2>>"$WORK/client.log"
}
dump() { # PLACE: all that this member itself holds, sorted lines of key, tab, value
  if [ "$ETCDCTL" ]; then ctl "$1" get smoke/ --prefix --consistency=s | paste - -; else
    gateway "$1" /v3/kv/range "{\"key\":\"$(in_base64 smoke/)\",\"range_end\":\"$(in_base64 smoke0)\",\"serializable\":true}" |
      grep -oE '"(key|value)":"[^"]*"' | cut -d'"' -f4 | while read -r word; do base64 -d <<<"$word"; echo; done | paste - -
  fi 2>>"$WORK/client.log" | sort
}
status() { # PLACE: lines "leader 123"
  if [ "$ETCDCTL" ]; then ctl "$1" endpoint status -w fields | sed -n 's/^"\([A-Za-z]*\)" : /\1 /p'; else
    gateway "$1" /v3/maintenance/status '{}' | tr '{,' '\n\n' | sed -n 's/^"\([a-z_A-Z]*\)":"\{0,1\}\([^"}]*\).*/\1 \2/p'
  fi 2>>"$WORK/client.log" | tr A-Z a-z | sed 's/^member_id/memberid/'
}
field() { awk -v name="$2" '$1 == name { print $2; exit }' <<<"$1"; }
hash_of() { # PLACE
  if [ "$ETCDCTL" ]; then ctl "$1" endpoint hashkv | awk '{ print $2 }'; else
    gateway "$1" /v3/maintenance/hashkv '{}' | grep -oE '"hash":"?[0-9]+' | grep -oE '[0-9]+'
  fi 2>>"$WORK/client.log"
}
leader() { # the place of the member that says that it leads
  local place answer
  for place in "${!NODES[@]}"; do
    answer=$(status "$place") || continue
    [ -n "$answer" ] && [ "$(field "$answer" leader)" = "$(field "$answer" memberid)" ] && echo "$place" && return
  done
  return 1
}

# --- waiting and judging ---------------------------------------------------------------------------------------------

await() { # WHAT COMMAND...
  local until=$((SECONDS + PATIENCE_S))
  while ! "${@:2}"; do
    ((SECONDS < until)) || fail "after $PATIENCE_S s still not: $1"
    sleep 0.5
  done
}
acknowledged() { wc -l <"$WORK/acknowledged"; }
more_than() { (($(acknowledged) > $1)); }
goes_on() { await "the others acknowledge $ENOUGH_WRITES writes" more_than $(($(acknowledged) + ENOUGH_WRITES)); }
holds() { # PLACE: everything that was acknowledged before now
  sort "$WORK/acknowledged" >"$WORK/wanted"
  dump "$1" >"$WORK/held" && [ -z "$(comm -23 "$WORK/wanted" "$WORK/held")" ]
}
same_hash() {
  local place
  for place in "${!NODES[@]}"; do hash_of "$place" || return 1; done >"$WORK/hashes"
  [ "$(sort -u "$WORK/hashes" | wc -l)" = 1 ]
}

writer() { # one write after the other, to the members in `places` in turn, until the file `writing` goes
  local number=0 places
  while [ -e "$WORK/writing" ]; do
    number=$((number + 1))
    read -ra places <"$WORK/places"
    if put "${places[number % ${#places[@]}]}" "smoke/$number" "value $number"; then
      printf 'smoke/%s\tvalue %s\n' $number $number >>"$WORK/acknowledged"
    else
      sleep 0.05
    fi
  done
}
write_to_all_but() { # PLACES...: no time is lost with those that cannot answer
  local place kept=()
  for place in "${!NODES[@]}"; do [[ " $* " == *" $place "* ]] || kept+=("$place"); done
  echo "${kept[@]}" >"$WORK/places.new"
  mv "$WORK/places.new" "$WORK/places"
}
stop_writer() {
  rm -f "$WORK/writing"
  [ -z "${WRITER:-}" ] || wait "$WRITER" || true
  WRITER=
}

# --- faults: begin and end of each, for the member at a place --------------------------------------------------------

container() { compose ps -aq "${NODES[$1]}"; }
toxiproxy() { "${CURL[@]}" --fail -o /dev/null "http://127.0.0.1:$RAFTKV_TOXIPROXY_PORT$1" -d "$2"; }
links() { # PLACE: the proxies from it and to it, with the stream on which each carries data from it
  local other
  for other in "${NODES[@]}"; do
    [ "$other" = "${NODES[$1]}" ] || printf '%s upstream\n%s downstream\n' "${NODES[$1]}-$other" "$other-${NODES[$1]}"
  done
}

begin_kill() { docker kill -s KILL "$(container "$1")" >/dev/null; }
end_kill() { docker start "$(container "$1")" >/dev/null; }
# On a busy machine the kernel may not stop all of a container's threads in the time that it is given.
begin_pause() { await "${NODES[$1]} is paused" docker pause "$(container "$1")" >/dev/null; }
end_pause() { docker unpause "$(container "$1")" >/dev/null; }
# Off the network of its links. Its clients still reach it, and must be told no.
begin_disconnect() { docker network disconnect "${PROJECT}_links$(($1 + 1))" "$(container "$1")"; }
end_disconnect() {
  docker network connect --alias "${NODES[$1]}.self.internal" "${PROJECT}_links$(($1 + 1))" "$(container "$1")"
}
begin_partition() { links "$1" | while read -r link _; do toxiproxy "/proxies/$link" '{"enabled":false}'; done; }
# Data from it vanishes, data to it arrives: connections stay open, and nobody is told anything.
begin_mute() {
  links "$1" | while read -r link stream; do
    toxiproxy "/proxies/$link/toxics" "{\"name\":\"$stream\",\"type\":\"timeout\",\"stream\":\"$stream\",\"attributes\":{\"timeout\":0}}"
  done
}
end_partition() { toxiproxy /reset ''; }
end_mute() { toxiproxy /reset ''; }

refuses_writes() { # PLACE
  ! put "$1" "smoke-refused" "a minority must not acknowledge this" || fail "${NODES[$1]} is cut off and acknowledged a write"
}

try() { # FAULT: on the leader, and with five members on another one as well
  local fault=$1 first place victims names before=$SECONDS
  await "there is a leader" leader >"$WORK/leader"
  first=$(tail -1 "$WORK/leader")
  victims=("$first")
  names="${NODES[first]} (it leads)"
  if ((SIZE == 5)); then
    victims+=($(((first + 1) % SIZE)))
    names+=" and ${NODES[victims[1]]}"
  fi
  for place in "${victims[@]}"; do "begin_$fault" "$place"; done
  write_to_all_but "${victims[@]}"
  goes_on
  if [ "$fault" = disconnect ] || [ "$fault" = partition ]; then
    for place in "${victims[@]}"; do
      refuses_writes "$place"
      [ -n "$(dump "$place")" ] || fail "${NODES[place]} does not even answer a read of what it holds"
    done
  fi
  for place in "${victims[@]}"; do "end_$fault" "$place"; done
  write_to_all_but
  for place in "${victims[@]}"; do await "${NODES[place]} has caught up" holds "$place"; done
  say "$fault $names: the others went on, it caught up ($((SECONDS - before)) s, $(acknowledged) writes so far)"
}

refuses_start() { # TEXT FLAGS...: a container that cannot start says why, and does not end with 0
  local code=0
  compose run --rm --no-deps -T "${@:2}" node1 >"$WORK/refused" 2>&1 </dev/null || code=$?
  ((code != 0)) && grep -q "^raftkv: .*$1" "$WORK/refused" ||
    fail "a start with ${*:2} gave exit code $code and said: $(tail -3 "$WORK/refused")"
  say "refused with exit code $code: $(grep "^raftkv: " "$WORK/refused")"
}

finish() {
  local code=$?
  trap - EXIT INT TERM
  stop_writer
  if ((code != 0)); then
    compose logs --no-color >"$WORK/containers.log" 2>&1 || true
    compose ps -a || true
    echo "smoke: the containers' logs, and what the clients met, are in $WORK" >&2
  fi
  compose down -v -t 5 >"$WORK/down.log" 2>&1 || cat "$WORK/down.log"
  ((code != 0)) || rm -rf "$WORK"
  exit $code
}

# --- the run ---------------------------------------------------------------------------------------------------------

trap finish EXIT
trap 'exit 130' INT TERM
touch "$WORK/acknowledged" "$WORK/writing"
write_to_all_but

say "up: $SIZE members over $SCHEME, as project $PROJECT; clients are ${ETCDCTL:-curl and the JSON gateway}"
# shellcheck disable=SC2086
compose up -d --wait ${SMOKE_UP:---build} >"$WORK/up.log" 2>&1 || { tail -20 "$WORK/up.log"; fail "the containers do not come up"; }
if [ "$TLS" ]; then
  compose cp certificates:/certificates/client "$WORK/client" >/dev/null 2>&1 || fail "there are no certificates for clients"
  if [ "$ETCDCTL" ]; then
    SECRETS=(--cacert="$WORK/client/ca.pem" --cert="$WORK/client/cert.pem" --key="$WORK/client/key.pem")
  else
    SECRETS=(--cacert "$WORK/client/ca.pem" --cert "$WORK/client/cert.pem" --key "$WORK/client/key.pem")
  fi
fi
say "all containers are healthy: $(compose ps --services | tr '\n' ' ')"

writer &
WRITER=$!
goes_on
say "the members acknowledge writes"

for fault in kill pause disconnect partition mute; do try $fault; done

stop_writer
compose stop -t 60 "${NODES[@]}" >/dev/null 2>&1
for place in "${!NODES[@]}"; do
  code=$(docker inspect -f '{{.State.ExitCode}}' "$(container "$place")")
  [ "$code" = 0 ] || fail "${NODES[place]} was asked to stop and ended with exit code $code"
done
compose start "${NODES[@]}" >/dev/null 2>&1
for place in "${!NODES[@]}"; do await "${NODES[place]} holds every acknowledged write" holds "$place"; done
say "all members were stopped and started: each holds all $(acknowledged) writes that were acknowledged"
await "all members have the same hash" same_hash
say "hash: $(sort -u "$WORK/hashes"), the same on all $SIZE"

refuses_start ETCD_HEARTBEAT_INTERVAL -e ETCD_HEARTBEAT_INTERVAL=fast
refuses_start "/var/lib/raftkv/.* cannot be read: Permission denied" -u 12345:12345

if [[ $SERVICES == *" prometheus "* ]]; then
  scraped() {
    "${CURL[@]}" -G "http://127.0.0.1:$RAFTKV_PROMETHEUS_PORT/api/v1/query" --data-urlencode 'query=sum(up{job="etcd"})' |
      grep "\"$SIZE\"\]" >/dev/null
  }
  await "Prometheus scrapes all members" scraped
  say "Prometheus scrapes all $SIZE members"
fi
if [[ $SERVICES == *" grafana "* ]]; then
  shown() { "${CURL[@]}" "http://127.0.0.1:$RAFTKV_GRAFANA_PORT/api/search?type=dash-db" | grep '"dash-db"' >/dev/null; }
  await "Grafana has its dashboards" shown
  say "Grafana has its dashboards"
else
  say "Grafana is not part of this run"
fi

echo "smoke: PASSED in $((SECONDS - STARTED)) s: $SIZE members, $(acknowledged) acknowledged writes, none lost"
