#!/usr/bin/env bash
# `lodestar serve` under mixed load for a long time, with engines that fail all the time: is anything lost, does anything
# stay reserved, does memory grow? Fails if so. Needs Python 3 and nothing else.
#
#   scripts/soak.sh [MINUTES] [OUT]      default: 30 minutes, out/soak
#
# Three mock engines; two of them behind a proxy that kills, freezes, resets, garbles and slows connections (soak/faults.py).
# The third one is always well, so that every request has somebody who can serve it. What is sent and what is checked at the
# end: soak/soak.py. RATE (requests a second) and SEED change what is sent, TIME_SCALE how fast engines are.
set -euo pipefail
cd "$(dirname "$0")/.."
minutes=${1:-30} out=${2:-out/soak}
lodestar=${LODESTAR:-target/release/lodestar}
[ -n "${LODESTAR:-}" ] || cargo build --release --quiet
mkdir -p "$out"

started=()
stop() { for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; }
trap stop EXIT

engines=()
for index in 0 1 2; do
  log=$out/mock-$index.log
  "$lodestar" mock-engine --gpu a100 --port 0 --time-scale "${TIME_SCALE:-10}" 2>"$log" &
  started+=($!)
  address=
  for _ in $(seq 300); do
    address=$(sed -n 's/.*listening on //p' "$log")
    [ -z "$address" ] || break
    sleep 0.1
  done
  [ -n "$address" ] || { echo "error: mock-engine does not listen; see $log" >&2; exit 1; }
  engines+=("$address")
done
python3 -B scripts/soak/soak.py --lodestar "$lodestar" --out "$out" --minutes "$minutes" --rate "${RATE:-10}" \
  --seed "${SEED:-1}" "${engines[@]}"
