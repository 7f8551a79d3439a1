#!/usr/bin/env python3
"""Compose steps of Llama-3.1-8B from LLMServingSim's operator latencies, as a step log for `lodestar calibrate steps`.

    scripts/compose_llmservingsim.py FOLDER RTX4090 rtx4090-steps.csv
    lodestar calibrate steps rtx4090-steps.csv --gpu rtx4090 --source "..." --out rtx4090.toml

FOLDER has GPU_Llama-3.1-8B_tp1_{dense,per_sequence,attention}.csv.gz of LLMServingSim's profiler (MIT). `calibrate operators` is
for tables of other columns, in which prefill and decode are measured apart: here attention was measured with both in one batch,
so that what they cost each other is in the rows and not assumed.

A step is, in each of the layers, the operators over its tokens and the attention of its row, then the last norm, the output matrix
and the sampler over the requests that have a token to come. Rows beyond a token budget of 2,048 are left out.
"""

import csv
import gzip
import sys
from pathlib import Path

LAYERS = 32
TOKEN_BUDGET = 2048
# How often an operator runs in a layer.
IN_LAYER = {"qkv_proj": 1, "rotary_emb": 1, "o_proj": 1, "gate_up_proj": 1, "act_fn": 1, "down_proj": 1, "layernorm": 2}


def rows(path):
    with gzip.open(path, "rt", newline="") as file:
        yield from csv.DictReader(file)


def latencies_us(path, size):
    """By operator: (size, latency in us), ascending by size."""
    table = {}
    for row in rows(path):
        table.setdefault(row["layer"], []).append((int(row[size]), float(row["time_us"])))
    return {operator: sorted(points) for operator, points in table.items()}


def at(points, size):
    """The latency at a size, between its neighbours on a line, which goes on beyond the ends."""
    upper = next((i for i, (x, _) in enumerate(points) if x >= size), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(upper, 1) - 1], points[max(upper, 1)]
    return y0 + (y1 - y0) * (size - x0) / (x1 - x0)


def steps(folder, gpu):
    name = f"{gpu}_Llama-3.1-8B_tp1"
    dense = latencies_us(folder / f"{name}_dense.csv.gz", "tokens")
    sampled = latencies_us(folder / f"{name}_per_sequence.csv.gz", "sequences")
    for row in rows(folder / f"{name}_attention.csv.gz"):
        prefill, cached = int(row["prefill_chunk"]), int(row["kv_prefill"])
        decodes, context = int(row["n_decode"]), int(row["kv_decode"])
        tokens, requests = prefill + decodes, decodes + (prefill > 0)
        if not 0 < tokens <= TOKEN_BUDGET:
            continue
        layer_us = float(row["time_us"]) + sum(times * at(dense[name], tokens) for name, times in IN_LAYER.items())
        once_us = at(dense["embedding"], tokens) + at(dense["final_layernorm"], tokens)
        once_us += at(sampled["lm_head"], requests) + at(sampled["sampler"], requests)
        pairs = prefill * cached + prefill * prefill / 2
        yield prefill, pairs, decodes, decodes * context, (LAYERS * layer_us + once_us) / 1e3


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    folder, gpu, out = sys.argv[1:]
    with open(out, "w", newline="") as file:
        log = csv.writer(file, lineterminator="\n")
        log.writerow(["prefill_tokens", "prefill_pairs", "decode_requests", "decode_context_tokens", "duration_ms"])
        log.writerows(steps(Path(folder), gpu))


if __name__ == "__main__":
    main()
