#!/usr/bin/env bash
# The same trace through `lodestar bench` -> `lodestar serve` -> `lodestar mock-engine`s, and through `lodestar replay`:
# do they agree? About a minute. Fails when a figure of TTFT differs by more than LIMIT percent.
#
#   scripts/sim_vs_live.sh [OUT]         results; default out/sim-vs-live
#
# POLICIES, GPUS (one a mock engine), WORKLOAD, RATE (requests a second), REQUESTS, TIME_SCALE, LIMIT change what runs.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-out/sim-vs-live}
read -ra policies <<<"${POLICIES:-round-robin}"
read -ra gpus <<<"${GPUS:-a100 a100 l40s}"
workload=${WORKLOAD:-share28} rate=${RATE:-6} requests=${REQUESTS:-300} scale=${TIME_SCALE:-1} limit=${LIMIT:-5}
lodestar=${LODESTAR:-target/release/lodestar}
[ -n "${LODESTAR:-}" ] || cargo build --release --quiet

started=()
stop() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; started=(); }
trap stop EXIT

# start LOG COMMAND...: runs a server and sets `address` to where it listens.
start() {
  local log=$1
  shift
  "$lodestar" "$@" 2>"$log" &
  started+=($!)
  for _ in $(seq 100); do
    address=$(sed -n 's/.*listening on //p' "$log")
    [ -z "$address" ] || return 0
    sleep 0.1
  done
  echo "error: $* does not listen; see $log" >&2
  exit 1
}

mkdir -p "$out"
trace=$out/trace.jsonl
"$lodestar" trace generate "$trace" --workload "$workload" --rate "$rate" --requests "$requests" >/dev/null
fleet=$(printf '%s\n' "${gpus[@]}" | uniq -c | awk '{printf "%s%s:%s", (NR > 1 ? "," : ""), $2, $1}')

worst=0
for policy in "${policies[@]}"; do
  # Fresh engines, since caches of the last policy would be warm.
  urls=()
  for index in "${!gpus[@]}"; do
    start "$out/mock-$index.log" mock-engine --gpu "${gpus[$index]}" --port 0 --time-scale "$scale"
    urls+=(--instance "http://$address")
  done
  start "$out/serve.log" serve --listen 127.0.0.1:0 --policy "$policy" "${urls[@]}"
  for _ in $(seq 100); do
    [ "$(grep -c joined "$out/serve.log")" -lt "${#gpus[@]}" ] || break
    sleep 0.1
  done
  "$lodestar" bench "$trace" --url "http://$address" --fleet "$fleet" --time-scale "$scale" --out "$out/$policy-live" \
    >"$out/$policy-live.txt"
  stop
  grep -E '^(sent|failed)' "$out/$policy-live.txt" || true
  "$lodestar" replay "$trace" --fleet "$fleet" --policy "$policy" --information ideal --seed 0 --beside "$out/$policy-live" \
    --out "$out/$policy" >"$out/$policy.txt"
  echo
  awk -F, -v policy="$policy" -v fleet="$fleet" '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    { for (name in column) value[$1, name] = $column[name] }
    END {
      printf "%s on %s, %d requests\n%-10s %10s %10s %8s\n", policy, fleet, value[policy, "requests"], "", "simulated", "live", "differ"
      count = split("ttft_mean ttft_p50 ttft_p90 ttft_p99 tpot_mean tpot_p99 e2e_mean e2e_p99", names, " ")
      for (i = 1; i <= count; i++) {
        name = names[i] "_ms"; sim = value[policy, name]; live = value["live", name]
        printf "%-10s %10.2f %10.2f %+7.1f%%\n", names[i], sim, live, 100 * (live / sim - 1)
      }
      printf "%-10s %10.4f %10.4f\n", "hit ratio", value[policy, "hit_ratio"], value["live", "hit_ratio"]
    }' "$out/$policy/summary.csv" | tee "$out/$policy-table.txt"
  worst=$(awk -v worst="$worst" '/^ttft_/ { d = $4 + 0; if (d < 0) d = -d; if (d > worst) worst = d } END { print worst }' \
    "$out/$policy-table.txt")
done
echo
echo "TTFT differs by at most $worst %; figures of both in $out/<policy>/figures"
awk -v worst="$worst" -v limit="$limit" 'BEGIN { exit !(worst <= limit) }'
