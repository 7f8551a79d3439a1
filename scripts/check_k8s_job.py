#!/usr/bin/env python3
"""Checks scripts/sweep-k8s-job.yaml without a cluster, and that its pods together run every shard once.

Says SKIPPED where PyYAML is not installed.
"""
import os
import pathlib
import subprocess
import tempfile

try:
    import yaml
except ImportError:
    raise SystemExit("SKIPPED: no PyYAML") from None

manifest = pathlib.Path(__file__).parent / "sweep-k8s-job.yaml"
(job,) = yaml.safe_load_all(manifest.read_text())
assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
spec = job["spec"]
assert spec["completionMode"] == "Indexed"
pods = spec["completions"]
assert 1 <= spec["parallelism"] <= pods
assert isinstance(spec["backoffLimitPerIndex"], int)
pod = spec["template"]["spec"]
# Kubernetes takes no other with backoffLimitPerIndex.
assert pod["restartPolicy"] == "Never"
(container,) = pod["containers"]
volumes = {volume["name"] for volume in pod["volumes"]}
assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
assert container["command"] == ["/bin/sh", "-c"]
(script,) = container["args"]

with tempfile.TemporaryDirectory() as folder:
    stub = pathlib.Path(folder) / "lodestar"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    seen = set()
    for index in range(pods):
        environment = {"PATH": f"{folder}:{os.environ['PATH']}", "JOB_COMPLETION_INDEX": str(index)}
        command = ["/bin/sh", "-c", script.replace("$$", "$")]
        words = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        assert words[0] == "sweep" and "--resume" in words, words
        shard, out = words[words.index("--shard") + 1], words[words.index("--out") + 1]
        assert shard == f"{index + 1}/{pods}", shard
        assert out.startswith(container["volumeMounts"][0]["mountPath"] + "/"), out
        seen.add(out)
    assert len(seen) == pods, "two pods write into one folder"
print(f"ok {pods} pods, a shard each")
