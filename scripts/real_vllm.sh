#!/usr/bin/env bash
# `lodestar serve` in front of three real vLLM servers: clients, caches, KV events, a server that is killed, the log of decisions.
# Prints PASS or FAIL for each thing that is checked, with numbers, and fails if one of them does. What is checked: real_vllm/check.py.
#
#   scripts/real_vllm.sh [--mock] [OUT]  logs, configuration, results; default out/real-vllm
#
# vLLM 0.32.0 computes on this machine's CPU, with a tiny random model that is made here. Its Python environment, 8 GB that take
# minutes, is made in VLLM_VENV if it is not there. Needs Linux, 8 GB of memory, python3 and unzip; a network for the environment alone.
# --mock: `lodestar mock-engine`s in the place of vLLM, a client of our own in the place of `openai` and `vllm bench serve`;
# needs python3 alone, and half a minute.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=real
[ "${1:-}" != --mock ] || { mode=mock; shift; }
out=${1:-out/real-vllm}
lodestar=${LODESTAR:-target/release/lodestar}
[ -n "${LODESTAR:-}" ] || cargo build --release --quiet
mkdir -p "$out"

python=python3
if [ "$mode" = real ]; then
  venv=${VLLM_VENV:-$HOME/.cache/lodestar/vllm}
  # The last thing that is made: what an interrupted run left behind is made again.
  if ! compgen -G "$venv/lib/python3*/site-packages/vllm-0.32.0+cpu.dist-info/METADATA" >/dev/null; then
    echo "making a Python environment with vLLM in $venv"
    scripts/recorder/vllm-venv.sh "$venv"
  fi
  python=$venv/bin/python
fi
exec "$python" -B scripts/real_vllm/check.py --mode "$mode" --lodestar "$lodestar" --out "$out"
