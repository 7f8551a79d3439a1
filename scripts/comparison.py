#!/usr/bin/env python3
"""The tables of docs/comparison.md: `lodestar` against everything else, on every scenario of the catalog.

    scripts/comparison.py OUT [--tables deployed ideal left parts paper] [--only NAME ...] [--seeds 5]
                              [--lodestar target/release/lodestar]

Makes a sweep for each table and scenario in OUT/TABLE/SCENARIO, and prints the
tables as they get ready. Sweeps that OUT has already are continued. OUT/TABLE/SCENARIO/report.html shows each of them,
OUT/TABLE/report.html all of a table.
"""

import argparse
import csv
import math
import pathlib
import re
import subprocess

HEURISTICS = """random round-robin least-request power-of-two least-kv prefix-cache prefix-hit-threshold-20
    prefix-hit-threshold-40 prefix-hit-threshold-60 prefix-hit-threshold-80 lmetric mooncake mooncake-simple preble
    sglang-cache-aware sglang-least-load vllm-router-cache-aware llm-d-sticky llm-d-weighted llm-d-predicted dynamo
    production-stack bounded-hash session-affinity least-tokens least-latency vtc join-shortest-work""".split()
# See how fast each instance is: by its prefills until first tokens, or by its answers.
LEARNS_SPEEDS = {"mooncake", "least-latency"}
PARTS = """network delay-of-others delay-by-answers cache-price doubt exploration guardrail drift late-heads trust places copies""".split()
# Knows the lengths of answers and forks the engines to try every instance.
GREEDY = "clairvoyant-greedy"
YARDSTICKS = [GREEDY, "hindsight", "physical-bound"]
# The longer a trace, the less the search for hindsight finds of what there is.
LEFT = "azure-code azure-conversation diurnal long-context mooncake paper-a30 paper-hetero".split()
LEFT_REQUESTS = 1500
# Where something happens, and later than short traces end.
LEFT_WHOLE = "cold-join crash-return drain drift slow-instance".split()
# Between them every part has something to do.
WITH_PARTS = "agents full-engines other-fleets paper-a30 paper-hetero slow-instance".split()
# Whose runs are long enough for the network of `lodestar-paper`, which answers after 5,000 requests.
PAPER = "azure-code azure-conversation diurnal long-context drift slow-instance crash-return".split()
# Run when everything was decided: not among those that it was decided by.
HELD_OUT = "held-out"
CATALOG = pathlib.Path(__file__).resolve().parent.parent / "scenarios" / "catalog"


def shortened(text):
    """The scenario with fewer requests and without traffic that changes at set times."""
    # What was measured lies beside the original.
    text = re.sub(r"^measured = .*\n", "", text, flags=re.MULTILINE)
    head, *workloads = re.split(r"(?=^\[\[workload\]\])", text, flags=re.MULTILINE)
    workloads = [workload for workload in workloads if "piecewise" not in workload]
    return head + re.sub(r"^requests = \d+", f"requests = {LEFT_REQUESTS}", "".join(workloads), flags=re.MULTILINE)


class Sweeps:
    def __init__(self, arguments):
        self.lodestar, self.out, self.only = arguments.lodestar, arguments.out, arguments.only
        self.seeds = arguments.seeds

    def scenarios(self, names=None):
        chosen = names or sorted(file.stem for file in CATALOG.glob("*.toml"))
        return [name for name in chosen if self.only is None or name in self.only]

    def run(self, table, name, policies, seeds, information="deployed", edit=None):
        """Makes or continues one sweep; its cells, each with (mean, P99) of TTFT in ms by policy."""
        folder = self.out / table / name
        folder.parent.mkdir(parents=True, exist_ok=True)
        scenario = name
        if edit:
            scenario = folder.with_suffix(".toml")
            scenario.write_text(edit((CATALOG / f"{name}.toml").read_text()))
        command = [self.lodestar, "sweep", scenario, "--policies", ",".join(policies), "--information", information]
        command += ["--baseline", "prefix-cache" if "prefix-cache" in policies else policies[0]]
        command += ["--seeds", seeds, "--out", folder] + (["--resume"] if folder.exists() else [])
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


def pair(ratios):
    """`mean / P99` of ratios that are (mean, P99)."""
    return " / ".join(f"{geometric([ratio[index] for ratio in ratios]):.2f}" for index in (0, 1))


def slower(cells, other):
    """How many times as slow as `lodestar` the other one is, (mean, P99) of each cell."""
    return [tuple(other(policies, index) / policies["lodestar"][index] for index in (0, 1)) for policies in cells]


def best(policies, index, leave_out=frozenset()):
    return min(policies[name][index] for name in HEURISTICS if name in policies and name not in leave_out)


def against_heuristics(sweeps, information):
    print(f'\n### `information = "{information}"`\n')
    print("| scenario | cells | `prefix-cache` | `clairvoyant-greedy` | best of each cell | best without speeds | most | worst | lost |")
    print("|---|---|---|---|---|---|---|---|---|")

    def row(name, cells):
        of = lambda policy: slower(cells, lambda policies, index: policies[policy][index])
        cache, greedy = of("prefix-cache"), of(GREEDY)
        to_best = slower(cells, best)
        blind = slower(cells, lambda policies, index: best(policies, index, LEARNS_SPEEDS))
        most = " / ".join(f"{max(ratio[index] for ratio in cache):.2f}" for index in (0, 1))
        worst = " / ".join(f"{min(ratio[index] for ratio in to_best):.2f}" for index in (0, 1))
        lost = sum(mean < 0.98 for mean, _ in to_best)
        print(f"| {name} | {len(cells)} | {pair(cache)} | {pair(greedy)} | {pair(to_best)} | {pair(blind)} | {most} | {worst} | {lost} |", flush=True)

    run = lambda name: sweeps.run(information, name, [*HEURISTICS, "lodestar", GREEDY], sweeps.seeds, information)
    every = {}
    for name in sweeps.scenarios():
        if name == HELD_OUT:
            continue
        cells = run(name)
        row(name, list(cells.values()))
        every |= {(name, cell): policies for cell, policies in cells.items()}
    if every:
        row("**all**", list(every.values()))
    unequal = [policies for (_, cell), policies in every.items() if all(gpu in cell for gpu in ("a100-", "h100-", "l4-"))]
    if unequal:
        row("**A100, H100 and L4**", unequal)
    if HELD_OUT in sweeps.scenarios():
        cells = run(HELD_OUT)
        workload = lambda cell: cell.split("--")[1]
        for one in dict.fromkeys(map(workload, cells)):
            row(f"{HELD_OUT}, {one}", [policies for cell, policies in cells.items() if workload(cell) == one])
        row(f"**{HELD_OUT}**", list(cells.values()))


def what_is_left(sweeps):
    policies = [*HEURISTICS, "lodestar", *YARDSTICKS]

    def head(what):
        print(f"\n### What is left to win, {what}\n")
        print("| scenario | cells | `clairvoyant-greedy` | best of each cell | hindsight | left | gap closed | physical bound |")
        print("|---|---|---|---|---|---|---|---|")

    def row(name, cells):
        of = lambda policy: slower(cells, lambda policies, index: policies[policy][index])
        to_best, hindsight = slower(cells, best), of("hindsight")
        won, to_win = (geometric([mean for mean, _ in ratios]) for ratios in (to_best, [(b / h, 0) for (b, _), (h, _) in zip(to_best, hindsight)]))
        closed = f"{100 * math.log(won) / math.log(to_win):.0f} %" if to_win > 1.005 else "-"
        print(f"| {name} | {len(cells)} | {pair(of(GREEDY))} | {pair(to_best)} | {pair(hindsight)} | {to_win:.2f} | {closed} "
              f"| {pair(of('physical-bound'))} |", flush=True)

    def rows(what, names, edit):
        every, names = [], sweeps.scenarios(names)
        if names:
            head(what)
        for name in names:
            cells = list(sweeps.run("left", name, policies, 2, edit=edit).values())
            row(name, cells)
            every += cells
        if every:
            row("**all**", every)
        return every

    every = rows(f"{LEFT_REQUESTS:,} requests a cell", LEFT, shortened)
    if every:
        print("\n| policy | gap closed |")
        print("|---|---|")
        share = lambda policy: geometric([best(cell, 0) / cell[policy][0] for cell in every])
        to_win = math.log(share("hindsight"))
        for policy in sorted(set(policies) - {"physical-bound"}, key=share, reverse=True):
            print(f"| `{policy}` | {100 * math.log(share(policy)) / to_win:.0f} % |")
    rows("whole traces", LEFT_WHOLE, None)


def parts(sweeps):
    print("\n### Without a part\n")
    print("| without | all cells | fastest | slowest |")
    print("|---|---|---|---|")
    policies = ["lodestar", *(f"lodestar-without-{part}" for part in PARTS)]
    every = [(name, cell, of_cell) for name in sweeps.scenarios(WITH_PARTS) for cell, of_cell in sweeps.run("parts", name, policies, 2).items()]
    for part in PARTS:
        ratios = slower([of_cell for *_, of_cell in every], lambda policies, index: policies[f"lodestar-without-{part}"][index])
        ordered = sorted((mean, p99, f"{name}, {cell}") for (mean, p99), (name, cell, _) in zip(ratios, every))
        single = lambda mean, p99, where: f"{mean:.2f} / {p99:.2f} {where}"
        print(f"| {part} | {pair(ratios)} | {single(*ordered[0])} | {single(*ordered[-1])} |", flush=True)


def against_paper(sweeps):
    print("\n### `lodestar-paper`\n")
    print("| scenario | cells | `lodestar-paper` | smallest |")
    print("|---|---|---|---|")
    for name in sweeps.scenarios(PAPER):
        cells = sweeps.run("paper", name, ["lodestar-paper", "lodestar"], 2)
        ratios = slower(cells.values(), lambda policies, index: policies["lodestar-paper"][index])
        print(f"| {name} | {len(cells)} | {pair(ratios)} | {min(mean for mean, _ in ratios):.2f} |", flush=True)


TABLES = {
    "deployed": lambda sweeps: against_heuristics(sweeps, "deployed"),
    "ideal": lambda sweeps: against_heuristics(sweeps, "ideal"),
    "left": what_is_left,
    "parts": parts,
    "paper": against_paper,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tables", nargs="*", choices=TABLES, default=list(TABLES))
    parser.add_argument("--only", nargs="*", help="names of scenarios; all that a table has if absent")
    parser.add_argument("--seeds", type=int, default=5, help="of the first two tables; the others have two")
    parser.add_argument("--lodestar", default="target/release/lodestar")
    arguments = parser.parse_args()
    for table in arguments.tables:
        TABLES[table](Sweeps(arguments))
        if (arguments.out / table).is_dir():
            subprocess.run([arguments.lodestar, "plot", str(arguments.out / table)], check=True)


if __name__ == "__main__":
    main()
