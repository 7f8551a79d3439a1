#!/usr/bin/env python3
"""Drive vLLM's real v1 scheduler (no GPU, no model) on a virtual clock.

The module builds a ``VllmConfig`` + ``KVCacheConfig`` around a fake local
model directory, instantiates the real ``Scheduler`` (or ``AsyncScheduler``),
feeds it a JSON workload and records a step-by-step golden trace.

Only vLLM's public/internal *API* is called from here; every scheduling and
KV-cache decision in the trace is taken by vLLM itself.  The only behaviour
supplied by this file is

  * the workload expansion (token ids),
  * the virtual clock / step-time model,
  * the fake model runner (one deterministic token per sampling request),
  * the engine-core loop order (drain inputs -> schedule -> execute -> update),
    in a synchronous and a 2-deep asynchronous variant.

See docs/golden.md for the input / output formats and docs/vllm.md for the rules.

usage: record.py run  CASE.json [-o OUT.golden.json[.gz]] [--stats]
       record.py all  DIR  [--check] [--only SUBSTR]
"""
from __future__ import annotations

import argparse
import gc
import hashlib
import heapq
import json
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
from tracefmt import (  # noqa: E402
    CONFIG_DEFAULTS, FORMAT, STEP_DEFAULTS, Workload, case_sha, dump, fnv_free_queue,
    golden_path, load, output_token, step_line,
)


# --------------------------------------------------------------------------
# vLLM construction
# --------------------------------------------------------------------------
_V = None  # lazily imported vLLM namespace


def _vllm():
    global _V
    if _V is not None:
        return _V
    import types

    import torch
    import vllm
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import (
        get_request_block_hasher,
        init_none_hash,
        resolve_kv_cache_block_sizes,
    )
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.kv_cache_interface import (
        FullAttentionSpec,
        KVCacheConfig,
        KVCacheGroupSpec,
    )
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request, RequestStatus
    from vllm.v1.structured_output import StructuredOutputManager

    def tracing(base):
        """Subclass that only *observes* preemptions (order + lost tokens)."""

        class Traced(base):
            def __init__(self, *a, **k):
                super().__init__(*a, **k)
                self.oracle_preempt_log: list[tuple[str, int]] = []

            def _preempt_request(self, request, *a, **k):
                self.oracle_preempt_log.append(
                    (request.request_id, request.num_computed_tokens)
                )
                return super()._preempt_request(request, *a, **k)

        Traced.__name__ = "Traced" + base.__name__
        return Traced

    TracedScheduler = tracing(Scheduler)
    TracedAsyncScheduler = tracing(AsyncScheduler)
    _V = types.SimpleNamespace(**{k: v for k, v in locals().items() if k != "tracing"})
    return _V


def build_scheduler(cfg: dict):
    V = _vllm()
    bs, nb, mml = cfg["block_size"], cfg["num_blocks"], cfg["max_model_len"]
    if -(-mml // bs) > nb - 1:
        # vLLM refuses to start in this situation (KV memory check at startup)
        raise ValueError("max_model_len does not fit the KV cache")
    model_config = V.ModelConfig(
        model=os.path.join(HERE, "model"),
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=mml,
        seed=0,
    )
    sched = dict(
        max_num_seqs=cfg["max_num_seqs"],
        max_num_batched_tokens=cfg["max_num_batched_tokens"],
        max_model_len=mml,
        is_encoder_decoder=False,
        enable_chunked_prefill=cfg["enable_chunked_prefill"],
        long_prefill_token_threshold=cfg["long_prefill_token_threshold"],
        long_prefill_token_threshold_adaptive=cfg[
            "long_prefill_token_threshold_adaptive"
        ],
        policy=cfg["policy"],
        watermark=cfg["watermark"],
        scheduler_reserve_full_isl=cfg["scheduler_reserve_full_isl"],
        async_scheduling=False,
    )
    if cfg["max_num_active_seqs"] is not None:
        sched["max_num_active_seqs"] = cfg["max_num_active_seqs"]
    os.environ.pop("VLLM_USE_V2_MODEL_RUNNER", None)
    vllm_config = V.VllmConfig(
        model_config=model_config,
        scheduler_config=V.SchedulerConfig(**sched),
        cache_config=V.CacheConfig(
            block_size=bs, enable_prefix_caching=cfg["enable_prefix_caching"]
        ),
    )
    # The CPU platform forces async scheduling off inside VllmConfig; a CUDA
    # platform would leave it on.  Flip it afterwards for the async variant.
    vllm_config.scheduler_config.async_scheduling = bool(cfg["async_scheduling"])
    # nothing may have been silently rewritten by the CPU platform hooks
    sc, cc = vllm_config.scheduler_config, vllm_config.cache_config
    for k in (
        "max_num_seqs max_num_batched_tokens enable_chunked_prefill policy watermark "
        "long_prefill_token_threshold long_prefill_token_threshold_adaptive "
        "scheduler_reserve_full_isl max_num_active_seqs"
    ).split():
        assert getattr(sc, k) == cfg[k], (k, getattr(sc, k), cfg[k])
    assert cc.block_size == bs
    assert cc.enable_prefix_caching == cfg["enable_prefix_caching"]
    assert vllm_config.model_config.max_model_len == mml
    assert vllm_config.num_lookahead_tokens == 0

    if os.environ.get("ORACLE_V2_RUNNER"):
        # The CPU build refuses model runner V2 (the CUDA default) for lack of
        # Triton; the scheduler only reads the property, so set it late.
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1"
        assert vllm_config.use_v2_model_runner

    cc.num_gpu_blocks = nb
    kv_cache_config = V.KVCacheConfig(
        num_blocks=nb,
        kv_cache_tensors=[],
        kv_cache_groups=[
            V.KVCacheGroupSpec(
                ["layer"],
                V.FullAttentionSpec(
                    block_size=bs, num_kv_heads=1, head_size=1, dtype=V.torch.float32
                ),
            )
        ],
        prefix_cache_retention_interval=cc.prefix_cache_retention_interval,
    )
    sbs, hbs = V.resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)
    assert sbs == hbs == bs
    cls = V.TracedAsyncScheduler if cfg["async_scheduling"] else V.TracedScheduler
    # base class agrees with what EngineCore would pick
    assert sc.get_scheduler_cls() is cls.__mro__[1]
    scheduler = cls(
        vllm_config=vllm_config,
        kv_cache_config=kv_cache_config,
        structured_output_manager=V.StructuredOutputManager(vllm_config),
        include_finished_set=False,
        log_stats=False,
        block_size=sbs,
        hash_block_size=hbs,
    )
    hasher = None
    if cfg["enable_prefix_caching"]:
        fn = V.get_hash_fn_by_name(cc.prefix_caching_hash_algo)
        V.init_none_hash(fn)
        hasher = V.get_request_block_hasher(hbs, fn)
    return scheduler, hasher, vllm_config


# --------------------------------------------------------------------------
# driver
# --------------------------------------------------------------------------
class ReqState:
    __slots__ = (
        "arrival", "sched", "first", "finish", "npre", "cached", "nout", "status",
        "nblk",
    )

    def __init__(self):
        self.arrival = self.sched = self.first = self.finish = None
        self.npre = 0
        self.cached = 0
        self.nout = 0
        self.status = None
        self.nblk = 0


class Oracle:
    def __init__(self, case: dict, keep_steps: bool = True):
        self.V = _vllm()
        self.case = case
        self.cfg = {**CONFIG_DEFAULTS, **case.get("config", {})}
        bad = set(self.cfg) - set(CONFIG_DEFAULTS)
        if bad:
            raise ValueError(f"unknown config keys {bad}")
        self.st = {**STEP_DEFAULTS, **case.get("step_time", {})}
        bad = set(self.st) - set(STEP_DEFAULTS)
        if bad:
            raise ValueError(f"unknown step_time keys {bad}")
        self.trace_blocks = bool(case.get("trace", {}).get("blocks", False))
        self.wl = Workload(case)
        self.sched, self.hasher, self.vcfg = build_scheduler(self.cfg)
        self.rs = [ReqState() for _ in self.wl.reqs]
        self.steps: list[dict] | None = [] if keep_steps else None
        self.nsteps = 0
        self.digest = hashlib.sha256()
        self.now = 0
        self.end_us = 0
        self.events: list[tuple[int, int, int]] = []  # (time, kind, idx)
        self.children: dict[int, list[int]] = {}
        self.aborts: list[tuple[int, int]] = []  # pending (time, idx)
        self.t_sched = self.t_update = self.t_add = 0.0
        self.tot_sched_tokens = 0
        self.tot_rows = 0
        self.npreempt = 0
        self.max_running = self.max_waiting = 0
        self.min_free = self.cfg["num_blocks"] - 1
        for i, r in enumerate(self.wl.reqs):
            if "after" in r:
                self.children.setdefault(self.wl.index[r["after"]], []).append(i)
            else:
                heapq.heappush(self.events, (int(r["arrival_us"]), 0, i))

    # -- inputs ------------------------------------------------------------
    def _done(self, i: int, t: int, status: str):
        s = self.rs[i]
        s.finish, s.status = t, status
        for c in self.children.get(i, ()):
            d = int(self.wl.reqs[c].get("delay_us", 0))
            heapq.heappush(self.events, (t + d, 0, c))

    def _arrive(self, i: int, t: int):
        V, r, s = self.V, self.wl.reqs[i], self.rs[i]
        s.arrival = t
        prompt = self.wl.prompt(i)
        mml = self.cfg["max_model_len"]
        if not 0 < len(prompt) < mml:
            self._done(i, t, "rejected")  # front-end validation error (HTTP 400)
            return
        max_tokens = min(int(r["output_len"]), mml - len(prompt))
        kw = {}
        if r.get("skip_read"):
            kw["skip_reading_prefix_cache"] = True
        sp = V.SamplingParams(max_tokens=max_tokens, ignore_eos=True, **kw)
        t0 = time.thread_time()
        req = V.Request(  # hashes the prompt's full blocks
            request_id=r["id"],
            prompt_token_ids=prompt,
            sampling_params=sp,
            pooling_params=None,
            arrival_time=float(t),
            cache_salt=r.get("salt"),
            priority=int(r.get("priority", 0)),
            block_hasher=self.hasher,
        )
        self.sched.add_request(req)
        self.t_add += time.thread_time() - t0
        if "abort_us" in r:
            # relative to the workload clock, never before the arrival
            heapq.heappush(self.events, (max(int(r["abort_us"]), t), 1, i))

    def _abort(self, i: int, t: int):
        rid = self.wl.reqs[i]["id"]
        req = self.sched.requests.get(rid)
        if req is None or req.is_finished():
            return False
        s = self.rs[i]
        s.nout = req.num_output_tokens
        s.npre = req.num_preemptions
        self.sched.finish_requests([rid], self.V.RequestStatus.FINISHED_ABORTED)
        self._done(i, t, "aborted")
        return True

    def _drain_inputs(self) -> list[int]:
        """EngineCore._process_input_queue: ADD / ABORT messages up to now."""
        aborted = []
        while self.events and self.events[0][0] <= self.now:
            t, kind, i = heapq.heappop(self.events)
            if kind == 0:
                self._arrive(i, t)
            elif self._abort(i, self.now):
                aborted.append(i)
        return aborted

    def _drain_aborts(self, t: int) -> list[int]:
        """EngineCore._process_aborts_queue: just before update_from_output."""
        hit = sorted(e for e in self.events if e[1] == 1 and e[0] <= t)
        return [i for _, _, i in hit if self._abort(i, t)]

    # -- one schedule() call -------------------------------------------------
    def _schedule(self):
        sch = self.sched
        sch.oracle_preempt_log.clear()
        t0 = time.thread_time()
        so = sch.schedule()
        self.t_sched += time.thread_time() - t0
        index, reqs = self.wl.index, sch.requests
        rows, sample = [], []
        npre = ndec = nctx = 0
        before = {}
        for d in so.scheduled_new_reqs:
            before[d.req_id] = (d.num_computed_tokens, True)
        cr = so.scheduled_cached_reqs
        for rid, c in zip(cr.req_ids, cr.num_computed_tokens):
            before[rid] = (c, rid in cr.resumed_req_ids)
        blocks = [] if self.trace_blocks else None
        for rid, n in so.num_scheduled_tokens.items():
            req = reqs[rid]
            i = index[rid]
            c, fresh = before[rid]
            assert req.num_computed_tokens == c + n
            flag = (2 if req.num_preemptions else 1) if fresh else 0
            rows.append([i, n, c, flag])
            # is_prefill_chunk was just refreshed by schedule(): a request
            # samples iff this chunk reaches the end of its known tokens.
            sampling = not req.is_prefill_chunk
            sample.append((rid, i, c + n) if sampling else None)
            if n == 1 and sampling and c >= req.num_prompt_tokens:
                ndec += 1
            else:
                npre += n
            nctx += c + n
            if blocks is not None:
                tbl = sch.kv_cache_manager.get_block_ids(rid)[0]
                k = 0 if fresh else self.rs[i].nblk
                blocks.append(list(tbl[k:]))
                self.rs[i].nblk = len(tbl)
        pre = [(index[rid], lost) for rid, lost in sch.oracle_preempt_log]
        self.npreempt += len(pre)
        running, waiting = sch.get_request_counts()
        free = sch.kv_cache_manager.block_pool.get_num_free_blocks()
        usage = sch.get_kv_cache_usage()
        assert abs(usage - (1 - free / (self.cfg["num_blocks"] - 1))) < 1e-12
        self.max_running = max(self.max_running, running)
        self.max_waiting = max(self.max_waiting, waiting)
        self.min_free = min(self.min_free, free)
        total = so.total_num_scheduled_tokens
        assert total == npre + ndec
        if total:
            st = self.st
            ns = st["a_ns"] + st["b_ns"] * npre + st["c_ns"] * ndec + st["d_ns"] * nctx
            dur = max(1, ns // 1000)
        else:
            dur = 0
        info = dict(
            rows=rows, sample=sample, pre=pre, run=running, wait=waiting, free=free,
            usage=usage, dur=dur, total=total, blocks=blocks,
        )
        return so, info

    def _update(self, so, info, t1: int):
        """Fake model runner + update_from_output at virtual time t1."""
        V, sch = self.V, self.sched
        ids = list(so.num_scheduled_tokens)
        toks, first = [], []
        for rid, smp in zip(ids, info["sample"]):
            if smp is None:
                toks.append([])
                continue
            _, i, ntok = smp
            req = sch.requests.get(rid)
            if req is None:  # aborted while in flight
                toks.append([])
                continue
            k = ntok - req.num_prompt_tokens
            toks.append([output_token(self.wl.out_seed(i), k)])
        mro = V.ModelRunnerOutput(
            req_ids=ids,
            req_id_to_index={r: j for j, r in enumerate(ids)},
            sampled_token_ids=toks,
        )
        live = {rid: sch.requests.get(rid) for rid in ids}
        t0 = time.thread_time()
        out = sch.update_from_output(so, mro)
        self.t_update += time.thread_time() - t0
        fin = []
        for eo in out[0].outputs if 0 in out else ():
            i = self.wl.index[eo.request_id]
            s = self.rs[i]
            if eo.new_token_ids and s.first is None:
                s.first = t1
            s.nout += len(eo.new_token_ids)
            if eo.prefill_stats is not None:
                s.cached = eo.prefill_stats.num_cached_tokens
            if eo.finish_reason is not None:
                assert str(eo.finish_reason) == "length", eo.finish_reason
                s.npre = live[eo.request_id].num_preemptions
                assert s.nout == live[eo.request_id].num_output_tokens
                fin.append(i)
                self._done(i, t1, "length")
        return fin

    def _record(self, info, t0, t1, fin, abt):
        free2 = self.sched.kv_cache_manager.block_pool.get_num_free_blocks()
        for i, n, c, f in info["rows"]:
            if f == 1 and self.rs[i].sched is None:
                self.rs[i].sched = t0
        self.tot_sched_tokens += info["total"]
        self.tot_rows += len(info["rows"])
        k = self.nsteps
        self.nsteps += 1
        self.end_us = max(self.end_us, t1)
        line = step_line(
            k, t0, t1, info["rows"], info["pre"], fin, abt,
            info["run"], info["wait"], info["free"], free2,
        )
        self.digest.update(line.encode())
        if self.steps is None:
            return
        d = {
            "i": k, "t": [t0, t1], "s": info["rows"], "run": info["run"],
            "wait": info["wait"], "free": info["free"], "free2": free2,
            "use": round(info["usage"], 6),
        }
        if info["pre"]:
            d["pre"] = [list(p) for p in info["pre"]]
        if fin:
            d["fin"] = fin
        if abt:
            d["abt"] = abt
        if self.trace_blocks:
            d["blk"] = info["blocks"]
            d["fq"] = self._free_queue_hash()
            d["nhash"] = len(
                self.sched.kv_cache_manager.block_pool.cached_block_hash_to_block
            )
        self.steps.append(d)

    def _free_queue_hash(self) -> str:
        q = self.sched.kv_cache_manager.block_pool.free_block_queue
        return fnv_free_queue(b.block_id for b in q.get_all_free_blocks())

    # -- engine loops --------------------------------------------------------
    def run(self, progress: bool = False):
        gc.collect()
        gc.freeze()
        t0, c0 = time.perf_counter(), time.thread_time()
        if self.cfg["async_scheduling"]:
            self._run_async()
        else:
            self._run_sync()
        self.wall = time.perf_counter() - t0
        self.cpu = time.thread_time() - c0
        gc.unfreeze()
        pool = self.sched.kv_cache_manager.block_pool
        assert pool.get_num_free_blocks() == self.cfg["num_blocks"] - 1
        assert not self.sched.requests and not self.sched.running
        return self

    def _run_sync(self):
        sch = self.sched
        while True:
            # idle: block on the input queue until the next message
            if not sch.has_requests():
                if not self.events:
                    break
                self.now = max(self.now, self.events[0][0])
            abt0 = self._drain_inputs()
            if not sch.has_requests():
                continue
            unfinished = sch.has_unfinished_requests()
            so, info = self._schedule()
            t0, t1 = self.now, self.now + info["dur"]
            abt1 = self._drain_aborts(t1) if info["total"] else []
            fin = self._update(so, info, t1)
            self.now = t1
            if not info["total"]:
                if not unfinished:
                    continue  # flush of finished ids only: not a step
                if not info["pre"]:
                    raise RuntimeError(f"stuck at {self.now}")
                if sch.has_requests():
                    self.now += self.st["empty_us"]
            self._record(info, t0, self.now, fin, abt0 + abt1)

    def _run_async(self):
        """EngineCore.step_with_batch_queue with a queue of 2 batches.

        t0 of a recorded step is the moment schedule() ran, t1 the moment its
        output was processed; the device runs batches back to back.
        Steps are recorded in *schedule* order.
        """
        from collections import deque

        sch, qsize = self.sched, 2
        queue: deque = deque()
        dev_free = 0
        pending: deque = deque()
        while True:
            if not sch.has_requests() and not queue:
                if not self.events:
                    break
                self.now = max(self.now, self.events[0][0])
            abt0 = self._drain_inputs()
            executed = False
            if sch.has_requests():
                unfinished = sch.has_unfinished_requests()
                so, info = self._schedule()
                executed = info["total"] > 0
                start = max(self.now, dev_free)
                end = start + info["dur"]
                dev_free = end
                info["fin"], info["abt"] = [], abt0
                info["t0"] = self.now
                info["keep"] = executed or bool(info["pre"])
                # free blocks after schedule are in info; "free2" is taken
                # right after this batch's own update
                queue.append((so, info, end))
                if len(queue) < qsize and (executed or sch.has_requests()):
                    continue
            elif not queue:
                continue
            so, info, end = queue.popleft()
            self.now = max(self.now, end)
            abt1 = self._drain_aborts(self.now) if info["total"] else []
            fin = self._update(so, info, self.now)
            if info["keep"]:
                self._record(info, info["t0"], self.now, fin, info["abt"] + abt1)
            if not executed and sch.has_requests():
                self.now += self.st["empty_us"]

    # -- output ----------------------------------------------------------------
    def golden(self) -> dict:
        rows = []
        for r, s in zip(self.wl.reqs, self.rs):
            rows.append(
                {
                    "id": r["id"], "status": s.status, "arrival": s.arrival,
                    "sched": s.sched, "first": s.first, "finish": s.finish,
                    "preempt": s.npre, "cached": s.cached, "nout": s.nout,
                }
            )
        done = [s for s in self.rs if s.status == "length"]
        ttft = sorted(s.first - s.arrival for s in done)
        e2e = sorted(s.finish - s.arrival for s in done)

        def pct(v, p):
            return v[min(len(v) - 1, p * len(v) // 100)] if v else None

        g = {
            "format": FORMAT,
            "vllm": self.V.vllm.__version__,
            "name": self.case.get("name"),
            "input_sha256": case_sha(self.case),
            "trace_sha256": self.digest.hexdigest(),
            "summary": {
                "requests": len(self.rs),
                "finished": len(done),
                "rejected": sum(s.status == "rejected" for s in self.rs),
                "aborted": sum(s.status == "aborted" for s in self.rs),
                "steps": self.nsteps,
                "end_us": self.end_us,
                "scheduled_tokens": self.tot_sched_tokens,
                "scheduled_rows": self.tot_rows,
                "output_tokens": sum(s.nout for s in self.rs),
                "cached_tokens": sum(s.cached for s in self.rs),
                "preemptions": self.npreempt,
                "max_running": self.max_running,
                "max_waiting": self.max_waiting,
                "min_free": self.min_free,
                "ttft_us": {p: pct(ttft, int(p)) for p in ("50", "90", "99")},
                "e2e_us": {p: pct(e2e, int(p)) for p in ("50", "90", "99")},
            },
            "requests": rows,
        }
        if self.steps is not None:
            g["steps"] = self.steps
        return g

    def perf(self) -> dict:
        busy = self.t_sched + self.t_update + self.t_add
        n = max(1, self.nsteps)
        return {
            "steps": self.nsteps,
            "requests": len(self.rs),
            "rows": self.tot_rows,
            "harness_wall_s": round(self.wall, 3),
            "harness_cpu_s": round(self.cpu, 3),
            # CPU seconds spent inside vLLM code only
            "vllm_schedule_s": round(self.t_sched, 3),
            "vllm_update_s": round(self.t_update, 3),
            "vllm_add_and_hash_s": round(self.t_add, 3),
            "vllm_us_per_step": round((self.t_sched + self.t_update) / n * 1e6, 1),
            "vllm_steps_per_s": round(n / busy, 1),
            "vllm_rows_per_s": round(self.tot_rows / busy),
            "vllm_requests_per_s": round(len(self.rs) / busy, 1),
            "harness_requests_per_s": round(len(self.rs) / self.cpu, 1),
        }


def run_case(case: dict, keep_steps=True) -> Oracle:
    return Oracle(case, keep_steps).run()


GZ_LIMIT = 1_000_000


def write_golden(case_path: str, g: dict) -> str:
    big = len(json.dumps(g, separators=(",", ":"))) > GZ_LIMIT
    path = golden_path(case_path, big)
    other = golden_path(case_path, not big)
    if os.path.exists(other):
        os.remove(other)
    dump(g, path)
    return path


def main(argv=None):
    ap = argparse.ArgumentParser()
    sub = ap.add_subparsers(dest="cmd", required=True)
    p = sub.add_parser("run")
    p.add_argument("case")
    p.add_argument("-o", "--out")
    p.add_argument("--stats", action="store_true")
    p = sub.add_parser("all")
    p.add_argument("dir")
    p.add_argument("--check", action="store_true", help="compare with goldens")
    p.add_argument("--only", default="")
    p.add_argument("--perf", help="write per-case speed numbers here")
    p.add_argument("--bench", action="store_true", help="time only, keep no steps, write no goldens")
    a = ap.parse_args(argv)
    if a.cmd == "run":
        case = load(a.case)
        o = run_case(case)
        g = o.golden()
        path = a.out
        if path:
            dump(g, path)
        else:
            path = write_golden(a.case, g)
        print(path, g["trace_sha256"][:16], json.dumps(g["summary"]))
        if a.stats:
            print(json.dumps(o.perf()))
        return 0
    bad, perf = 0, {}
    names = sorted(
        f for f in os.listdir(a.dir)
        if f.endswith((".json", ".json.gz")) and ".golden." not in f and a.only in f
    )
    for f in names:
        path = os.path.join(a.dir, f)
        case = load(path)
        o = run_case(case, keep_steps=not a.bench)
        g = o.golden()
        perf[f] = o.perf()
        if a.bench:
            print(f, json.dumps(perf[f]), flush=True)
        elif a.check:
            gp = next(
                p for p in (golden_path(path, False), golden_path(path, True))
                if os.path.exists(p)
            )
            same = load(gp) == json.loads(json.dumps(g))
            bad += not same
            print("%-4s %s" % ("ok" if same else "DIFF", f), flush=True)
        else:
            write_golden(path, g)
            s = g["summary"]
            print(
                "%-34s steps=%-6d pre=%-5d cached=%-9d fin=%d rej=%d abt=%d "
                "maxrun=%d minfree=%d us/step=%s"
                % (f, s["steps"], s["preemptions"], s["cached_tokens"], s["finished"],
                   s["rejected"], s["aborted"], s["max_running"], s["min_free"],
                   perf[f]["vllm_us_per_step"]),
                flush=True,
            )
    if a.perf:
        with open(a.perf, "w") as fh:
            json.dump(perf, fh, indent=1)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
