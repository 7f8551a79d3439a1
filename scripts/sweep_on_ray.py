#!/usr/bin/env python3
"""Runs `lodestar sweep` as shards on a Ray cluster and merges what they leave.

    pip install ray        # Python 3.11.4 or later
    scripts/sweep_on_ray.py paper-a30 --shards 16 --out out/paper-a30 -- --seeds 5

What follows `--` goes to `lodestar sweep`. The binary, a scenario file and the files that it names by relative paths
travel with the tasks, so nodes need neither a shared folder nor Lodestar; what it names by absolute paths has to lie
there on every node.
A shard that is lost with its node is run again. What has ended is kept in OUT/shards: the same command makes what
is missing. Connects to the cluster of RAY_ADDRESS, or starts a local one.
"""

import argparse
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import tomllib

import ray

# A file in the folder of a shard of which nothing is missing: what it was asked for.
ENDED = "ended"


def files_of(scenario: pathlib.Path):
    """The scenario's file, first, and those that it names by relative paths, by their places below the root."""
    text = scenario.read_bytes()
    files = {absolute(scenario): text}
    # What is wrong or not there is for the sweep to complain of.
    try:
        content = tomllib.loads(text.decode())
        named = [content.get("measured"), *(workload.get("trace") for workload in content.get("workload", []))]
    except (ValueError, TypeError, AttributeError):
        return files
    for name in named:
        if isinstance(name, str) and not os.path.isabs(name) and (scenario.parent / name).is_file():
            files[absolute(scenario.parent / name)] = (scenario.parent / name).read_bytes()
    return files


def absolute(path: pathlib.Path) -> str:
    return os.path.relpath(os.path.abspath(path), "/")


def sweep_shard(binary: bytes, scenario: str, files: dict[str, bytes], shard: str, options: list[str]):
    """Runs one shard; returns its runs, and which there are to be, as a tar archive, and what it said if it went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        program = root / "lodestar"
        program.write_bytes(binary)
        program.chmod(0o755)
        # As they lie to each other: the scenario is not changed, since its digest would be another.
        for place, content in files.items():
            (root / "files" / place).parent.mkdir(parents=True, exist_ok=True)
            (root / "files" / place).write_bytes(content)
        if files:
            scenario = root / "files" / next(iter(files))
        command = [program, "sweep", scenario, "--shard", shard, "--out", root / "out", "--threads", "1"]
        run = subprocess.run([*command, *options], capture_output=True, text=True)
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w:gz") as tar:
            for name in ("runs", "planned.json"):
                if (root / "out" / name).exists():
                    tar.add(root / "out" / name, name)
        return archive.getvalue(), run.returncode, run.stderr


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="What follows -- goes to `lodestar sweep`."
    )
    parser.add_argument("scenario", help="a scenario file, or the name of one that comes with Lodestar")
    parser.add_argument("--shards", type=int, required=True, help="parts, one core each")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the runs and the tables")
    parser.add_argument("--binary", type=pathlib.Path, default="target/release/lodestar")
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args, options = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]

    path = pathlib.Path(args.scenario)
    files = files_of(path) if path.is_file() else {}
    program = args.binary.read_bytes()
    digest = lambda sent: hashlib.sha256(sent).hexdigest()
    scenario = [digest(sent) for sent in files.values()] or args.scenario
    asked = json.dumps({"program": digest(program), "scenario": scenario, "options": options})
    for marker in args.out.glob(f"shards/*-of-{args.shards}/{ENDED}"):
        if marker.read_text() != asked:
            print(f"{marker.parent} is of another program, scenario or options: name another --out", file=sys.stderr)
            return 2

    ray.init()
    binary, sent = ray.put(program), ray.put(files)
    task = ray.remote(num_cpus=1, max_retries=3)(sweep_shard)
    folders = {number: args.out / "shards" / f"{number}-of-{args.shards}" for number in range(1, args.shards + 1)}
    shards = {
        task.remote(binary, args.scenario, sent, f"{number}/{args.shards}", options): number
        for number, folder in folders.items()
        if not (folder / ENDED).exists()
    }
    worst, waiting = 0, list(shards)
    while waiting:
        [ready], waiting = ray.wait(waiting)
        number = shards[ready]
        folders[number].mkdir(parents=True, exist_ok=True)
        try:
            archive, code, said = ray.get(ready)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folders[number], filter="data")
            if code == 0:
                (folders[number] / ENDED).write_text(asked)
        except ray.exceptions.RayError as error:
            code, said = 2, str(error)
        # 1: some runs failed, which their files say. 2: the shard could not run.
        worst = max(worst, code)
        done = args.shards - len(waiting)
        problem = f" (shard {number}: {said.strip()})" if code else ""
        print(f"{done} of {args.shards} shards{problem}", file=sys.stderr)
    if worst > 1:
        return worst
    merge = [args.binary.resolve(), "merge", *folders.values(), "--out", args.out]
    # Shards know the scenario's baseline only.
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    chosen.add_argument("--baseline")
    baseline = chosen.parse_known_args(options)[0].baseline
    return subprocess.run(merge + (["--baseline", baseline] if baseline else [])).returncode


if __name__ == "__main__":
    sys.exit(main())
