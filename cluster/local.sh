#!/usr/bin/env bash
# A Ray head on this machine, for `ray job submit` and for watching a run: token authentication, the dashboard on loopback,
# Prometheus and Grafana beside it where their programs are installed.
#   cluster/local.sh start     # may be called again: what runs is left alone
#   cluster/local.sh status
#   cluster/local.sh stop      # ends what it started, nothing else
# Settings: GCS_PORT, CLIENT_PORT, AGENT_PORT, DASHBOARD_PORT, METRICS_PORT, PROMETHEUS_PORT, GRAFANA_PORT, GRAFANA_HOME; and
# RAY_AUTH_TOKEN_PATH, as for Ray.
set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=${ALPAGASUS_LOCAL:-$HOME/.alpagasus/local}
SESSION=/tmp/ray/session_latest/metrics
GCS_PORT=${GCS_PORT:-6379}
CLIENT_PORT=${CLIENT_PORT:-10001}
AGENT_PORT=${AGENT_PORT:-52365}
DASHBOARD_PORT=${DASHBOARD_PORT:-8265}
METRICS_PORT=${METRICS_PORT:-8080}
PROMETHEUS_PORT=${PROMETHEUS_PORT:-9090}
GRAFANA_PORT=${GRAFANA_PORT:-3000}
GRAFANA_HOME=${GRAFANA_HOME:-/usr/share/grafana}
START_S=90
STOP_S=40
export RAY_AUTH_MODE=token
export RAY_USAGE_STATS_ENABLED=${RAY_USAGE_STATS_ENABLED:-0}
# nobody else on this machine may read logs, pid files or a new token
umask 077

say() { printf '%s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# When a process began. Ids are used again: one alone does not say that a process is ours.
began() { ps -o lstart= -p "$1" 2>/dev/null || true; }

running() {
  local id start
  [[ -f $STATE/$1.pid ]] || return 1
  { read -r id && read -r start; } <"$STATE/$1.pid" || return 1
  [[ -n $start && $(began "$id") == "$start" ]]
}

# A program in the background, in a session of its own so that closing the terminal does not end it: name, then command.
launch() {
  local name=$1
  shift
  setsid "$@" >"$STATE/$name.log" 2>&1 </dev/null &
  printf '%s\n%s\n' "$!" "$(began "$!")" >"$STATE/$name.pid"
}

end() {
  local id waited=0
  if running "$1"; then
    read -r id <"$STATE/$1.pid"
    # a head ends its own processes at SIGTERM
    kill -TERM "$id"
    while running "$1"; do
      ((waited++ < STOP_S)) || die "$1 (process $id) is still there after $STOP_S s; see $STATE/$1.log"
      sleep 1
    done
    say "$1: stopped"
  fi
  rm -f "$STATE/$1.pid"
}

find_ray() {
  RAY=$ROOT/.venv/bin/ray
  [[ -x $RAY ]] || RAY=$ROOT/.venv-gpu/bin/ray
  [[ -x $RAY ]] || RAY=$(command -v ray) || die "there is no ray: run \`make install\` in $ROOT first"
  # workers start Python by its name
  PATH=$(dirname "$RAY"):$PATH
}

need_token() {
  [[ -z ${RAY_AUTH_TOKEN:-} ]] || return 0
  local default=$HOME/.ray/auth_token
  TOKEN=${RAY_AUTH_TOKEN_PATH:-$default}
  if [[ ! -s $TOKEN ]]; then
    [[ $TOKEN == "$default" ]] || die "RAY_AUTH_TOKEN_PATH: no token in $TOKEN; unset it to have one made in $default"
    # it prints the token, which belongs on no terminal
    "$RAY" get-auth-token --generate >/dev/null 2>&1 || die "no token could be made in $default"
    say "made a token in $default"
  fi
  chmod 600 "$TOKEN"
  export RAY_AUTH_TOKEN_PATH=$TOKEN
}

# What Ray's dashboard shows besides its own: it asks these two from the browser and from the head.
name_monitors() {
  if command -v prometheus >/dev/null; then export RAY_PROMETHEUS_HOST=http://127.0.0.1:$PROMETHEUS_PORT; fi
  export RAY_GRAFANA_HOST=DISABLED
  if grafana_command >/dev/null; then export RAY_GRAFANA_HOST=http://127.0.0.1:$GRAFANA_PORT; fi
}

grafana_command() { command -v grafana-server || command -v grafana; }

start_head() {
  if running head; then
    say "head: runs already"
    return
  fi
  name_monitors
  # Its address is loopback, so that none of Ray's ports is open to others; Ray takes that for a node's address only where
  # the variable says no to clusters of laptops.
  export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
  launch head "$RAY" start --head --block --node-ip-address=127.0.0.1 --port="$GCS_PORT" \
    --ray-client-server-port="$CLIENT_PORT" --dashboard-agent-listen-port="$AGENT_PORT" \
    --dashboard-host=127.0.0.1 --dashboard-port="$DASHBOARD_PORT" --metrics-export-port="$METRICS_PORT" --disable-usage-stats
  wait_for_head
}

wait_for_head() {
  local waited=0
  until grep -q "Ray runtime started" "$STATE/head.log"; do
    if ! running head || ((waited++ >= START_S)); then
      tail -n 20 "$STATE/head.log" >&2
      end head
      die "the head did not start; all it said: $STATE/head.log"
    fi
    sleep 1
  done
}

start_prometheus() {
  local config=$ROOT/cluster/prometheus/prometheus.yml
  if ! command -v prometheus >/dev/null; then
    say "prometheus: not installed. \`ray metrics launch-prometheus\` fetches one and starts it, open to the network"
    return
  fi
  running prometheus && return
  [[ -f $config ]] || config=$SESSION/prometheus/prometheus.yml
  wait_for_file "$config" || return 0
  launch prometheus prometheus --config.file="$config" --storage.tsdb.path="$STATE/prometheus" \
    --web.listen-address="127.0.0.1:$PROMETHEUS_PORT"
}

start_grafana() {
  local program dashboards=$SESSION/grafana/dashboards
  if ! program=$(grafana_command); then
    say "grafana: not installed; the file for it is cluster/grafana/alpagasus.json"
    return
  fi
  running grafana && return
  wait_for_file "$SESSION/grafana/grafana.ini" || return 0
  # the folder from which Ray's own dashboards come is that of the session
  if [[ -f $ROOT/cluster/grafana/alpagasus.json && -d $dashboards ]]; then
    cp "$ROOT/cluster/grafana/alpagasus.json" "$dashboards/"
  fi
  export GF_SERVER_HTTP_ADDR=127.0.0.1 GF_SERVER_HTTP_PORT=$GRAFANA_PORT GF_PATHS_DATA=$STATE/grafana
  # one program since version 10; before, the server had a name of its own
  if [[ $(basename "$program") == grafana ]]; then set -- server; else set --; fi
  launch grafana "$program" "$@" --homepath "$GRAFANA_HOME" --config "$SESSION/grafana/grafana.ini"
}

# The dashboard writes its files for Prometheus and Grafana a moment after the head has started.
wait_for_file() {
  local waited=0
  until [[ -f $1 ]]; do
    ((waited++ < 30)) || { say "$1 did not appear: without it there are no charts, the head works all the same"; return 1; }
    sleep 1
  done
}

tell() {
  local name
  for name in head prometheus grafana; do
    if running "$name"; then say "$name: runs"; else say "$name: does not run"; fi
  done
}

how_to_submit() {
  say "dashboard: http://127.0.0.1:$DASHBOARD_PORT (it asks for the token). To submit jobs:"
  say "  export RAY_ADDRESS=http://127.0.0.1:$DASHBOARD_PORT RAY_AUTH_MODE=token${TOKEN:+ RAY_AUTH_TOKEN_PATH=$TOKEN}"
  say "  ray job submit --working-dir . -- python jobs/run_all.py --recipe recipes/quickstart.yaml --run $ROOT/runs/demo"
  say "and to watch a run from anywhere: python jobs/status.py --run $ROOT/runs/demo"
}

case ${1:-} in
  start)
    mkdir -p "$STATE"
    find_ray
    need_token
    start_head
    start_prometheus
    start_grafana
    sleep 1
    tell
    how_to_submit
    ;;
  stop)
    end grafana
    end prometheus
    end head
    ;;
  status) tell ;;
  *)
    say "usage: cluster/local.sh start | stop | status"
    exit 2
    ;;
esac
