#!/usr/bin/env python3
"""Every policy on every scenario of the catalog, and the tables of docs/comparison.md.

    scripts/comparison.py OUT [--seeds 5] [--lodestar target/release/lodestar] [--only NAME ...]

Makes one sweep a scenario and information (`deployed`, `ideal`) in OUT, about half an hour in all on two cores, and prints the
tables. Sweeps that are in OUT already are continued. `OUT/*/*/report.html` shows each of them.
"""

import argparse
import csv
import math
import pathlib
import subprocess

HEURISTICS = """random least-request least-kv prefix-cache prefix-hit-threshold-40 prefix-hit-threshold-60
    prefix-hit-threshold-80 lmetric mooncake preble sglang-cache-aware vllm-router-cache-aware llm-d-sticky llm-d-weighted
    llm-d-predicted dynamo session-affinity least-tokens join-shortest-work""".split()
LEARNED = ["lodestar", "lodestar-paper"]
CATALOG = pathlib.Path(__file__).resolve().parent.parent / "scenarios" / "catalog"


def sweep(lodestar, scenario, information, seeds, out):
    """Makes or continues one sweep; answers its rows by cell and policy."""
    folder = out / information / scenario.stem
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".toml")
    lines = [line for line in scenario.read_text().splitlines() if not line.startswith(("information =", "measured ="))]
    file.write_text("\n".join([f'information = "{information}"', *lines]) + "\n")
    policies = ",".join(HEURISTICS + LEARNED)
    command = [lodestar, "sweep", file, "--policies", policies, "--baseline", "prefix-cache", "--seeds", seeds, "--out", folder]
    if folder.exists():
        command.append("--resume")
    with open(folder.with_suffix(".log"), "w") as log:
        subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log)
    cells = {}
    with open(folder / "comparison.csv", newline="") as rows:
        for row in csv.DictReader(rows):
            if row["ttft_mean_ms"]:
                cells.setdefault(row["cell"], {})[row["policy"]] = (float(row["ttft_mean_ms"]), float(row["ttft_p99_ms"]))
    return cells


def geometric(ratios):
    return math.exp(sum(map(math.log, ratios)) / len(ratios))


def speedups(cells, other):
    """How many times as slow the other one is, (mean, P99) of each cell."""
    return [tuple(other(policies, index) / policies["lodestar"][index] for index in (0, 1)) for policies in cells]


def best(policies, index):
    return min(policies[name][index] for name in HEURISTICS if name in policies)


def row(name, cells):
    against = {
        "prefix-cache": speedups(cells, lambda policies, index: policies["prefix-cache"][index]),
        "best": speedups(cells, best),
        "paper": speedups(cells, lambda policies, index: policies["lodestar-paper"][index]),
    }
    means = [" / ".join(f"{geometric([pair[index] for pair in pairs]):.2f}" for index in (0, 1)) for pairs in against.values()]
    to_best = [mean for mean, _ in against["best"]]
    lost = sum(mean < 0.98 for mean in to_best)
    p99_lost = sum(p99 < 0.98 for _, p99 in against["best"])
    most = max(mean for mean, _ in against["prefix-cache"])
    return f"| {name} | {len(cells)} | {' | '.join(means)} | {most:.2f} | {lost} | {min(to_best):.2f} | {p99_lost} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lodestar", default="target/release/lodestar")
    parser.add_argument("--only", nargs="*", help="names of scenarios; all of the catalog if absent")
    parser.add_argument("--information", nargs="*", default=["deployed", "ideal"])
    arguments = parser.parse_args()
    scenarios = [file for file in sorted(CATALOG.glob("*.toml")) if arguments.only is None or file.stem in arguments.only]
    for information in arguments.information:
        print(f"\n### `information = \"{information}\"`\n")
        print("| scenario | cells | `prefix-cache` | best heuristic | `lodestar-paper` | most | lost | worst | P99 lost |")
        print("|---|---|---|---|---|---|---|---|---|")
        every = []
        for scenario in scenarios:
            cells = list(sweep(arguments.lodestar, scenario, information, arguments.seeds, arguments.out).values())
            print(row(scenario.stem, cells), flush=True)
            every += cells
        print(row("**all**", every))


if __name__ == "__main__":
    main()
