"""Workload / trace formats of the recorder and the case generator (no vLLM)."""
from __future__ import annotations

import gzip
import hashlib
import json

FORMAT = 2
MASK64 = (1 << 64) - 1
TOKEN_MASK = (1 << 31) - 1


# --------------------------------------------------------------------------
# deterministic tokens
# --------------------------------------------------------------------------
def splitmix64(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def prompt_token(hash_id: int, pos: int) -> int:
    """Token at offset ``pos`` (0-based) inside the block named ``hash_id``."""
    return splitmix64(((hash_id << 20) + pos) & MASK64) & TOKEN_MASK


def output_token(seed: int, k: int) -> int:
    """k-th (0-based) generated token of a request with output seed ``seed``."""
    return splitmix64(((1 << 63) | (seed << 24)) + k & MASK64) & TOKEN_MASK


def expand_hash_ids(hash_ids, n, hash_block, memo) -> list[int]:
    out: list[int] = []
    for h in hash_ids:
        if len(out) >= n:
            break
        blk = memo.get(h)
        if blk is None:
            blk = memo[h] = [prompt_token(h, j) for j in range(hash_block)]
        out.extend(blk)
    if len(out) < n:
        raise ValueError(f"hash_ids cover {len(out)} < {n} tokens")
    del out[n:]
    return out


class Workload:
    """Parsed + validated workload; prompts are expanded lazily."""

    def __init__(self, case: dict):
        self.case = case
        self.hash_block = int(case.get("hash_block", 512))
        self.reqs = case["requests"]
        self.index = {r["id"]: i for i, r in enumerate(self.reqs)}
        if len(self.index) != len(self.reqs):
            raise ValueError("duplicate request ids")
        self._memo: dict[int, list[int]] = {}
        self._prompts: dict[int, list[int]] = {}
        # keep prompts that later requests refer to
        self._referenced = set()
        for r in self.reqs:
            for s in r.get("segments", ()):
                if "p" in s:
                    self._referenced.add(self.index[s["p"]])

    def out_seed(self, i: int) -> int:
        return int(self.reqs[i].get("out_seed", i))

    def prompt(self, i: int) -> list[int]:
        p = self._prompts.get(i)
        if p is not None:
            return p
        r = self.reqs[i]
        if "segments" in r:
            p = []
            for s in r["segments"]:
                if "h" in s:
                    p += expand_hash_ids(s["h"], s["n"], self.hash_block, self._memo)
                elif "p" in s:
                    q = self.prompt(self.index[s["p"]])
                    p += q[: s["n"]] if "n" in s else q
                elif "o" in s:
                    seed = self.out_seed(self.index[s["o"]])
                    p += [output_token(seed, k) for k in range(s["n"])]
                else:
                    raise ValueError(f"bad segment {s}")
        else:
            p = expand_hash_ids(
                r["hash_ids"], r["prompt_len"], self.hash_block, self._memo
            )
        if "prompt_len" in r and r["prompt_len"] != len(p):
            raise ValueError(f"{r['id']}: prompt_len {r['prompt_len']} != {len(p)}")
        if i in self._referenced:
            self._prompts[i] = p
        return p


# --------------------------------------------------------------------------
# configuration defaults
# --------------------------------------------------------------------------
CONFIG_DEFAULTS = dict(
    num_blocks=1024,
    block_size=16,
    max_num_batched_tokens=2048,
    max_num_seqs=256,
    max_model_len=8192,
    enable_prefix_caching=True,
    enable_chunked_prefill=True,
    long_prefill_token_threshold=0,
    long_prefill_token_threshold_adaptive=False,
    policy="fcfs",
    watermark=0.0,
    scheduler_reserve_full_isl=True,
    max_num_active_seqs=None,
    async_scheduling=False,
)
STEP_DEFAULTS = dict(a_ns=5_000_000, b_ns=50_000, c_ns=20_000, d_ns=20, empty_us=1000)


# --------------------------------------------------------------------------
# trace format
# --------------------------------------------------------------------------
def step_line(k, t0, t1, rows, pre, fin, abt, run, wait, free, free2) -> str:
    """Canonical text of one step; trace_sha256 hashes their concatenation."""
    return "%d %d %d|%s|%s|%s|%s|%d %d %d %d\n" % (
        k, t0, t1,
        ";".join("%d,%d,%d,%d" % tuple(r) for r in rows),
        ",".join("%d:%d" % tuple(p) for p in pre),
        ",".join(map(str, fin)),
        ",".join(map(str, abt)),
        run, wait, free, free2,
    )


def fnv_free_queue(block_ids) -> str:
    """FNV-1a/64 over the free queue's block ids (u32 LE), head first."""
    h = 0xCBF29CE484222325
    for b in block_ids:
        for byte in b.to_bytes(4, "little"):
            h = ((h ^ byte) * 0x100000001B3) & MASK64
    return "%016x" % h


def case_sha(case: dict) -> str:
    return hashlib.sha256(
        json.dumps(case, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def load(path: str) -> dict:
    op = gzip.open if path.endswith(".gz") else open
    with op(path, "rt") as f:
        return json.load(f)


def dump(obj: dict, path: str):
    """One line per request / step so goldens diff well."""
    head = {k: v for k, v in obj.items() if k not in ("requests", "steps")}
    sep = (",", ":")
    parts = [json.dumps(head, separators=sep)[:-1]]
    for key in ("requests", "steps"):
        if key in obj:
            body = ",\n".join(json.dumps(x, separators=sep) for x in obj[key])
            parts.append(',\n"%s":[\n%s\n]' % (key, body))
    parts.append("}\n")
    data = "".join(parts).encode()
    if path.endswith(".gz"):
        with open(path, "wb") as raw, gzip.GzipFile(
            filename="", fileobj=raw, mode="wb", mtime=0, compresslevel=9
        ) as f:
            f.write(data)
    else:
        with open(path, "wb") as f:
            f.write(data)


def golden_path(case_path: str, gz: bool) -> str:
    base = case_path
    for ext in (".json.gz", ".json"):
        if base.endswith(ext):
            base = base[: -len(ext)]
            break
    return base + ".golden.json" + (".gz" if gz else "")
