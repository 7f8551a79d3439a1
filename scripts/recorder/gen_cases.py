#!/usr/bin/env python3
"""Generate oracle input cases (no vLLM import; goldens come from record.py).

usage: gen_cases.py suite -o cases              # the fixed suite (c*, r*, m*)
       gen_cases.py fuzz --seed 1000 --n 50 -o held [--async] [--size 100]
       gen_cases.py mooncake --seed 7 --n 2000 -o held

Every case is a pure function of (generator version, seed).
"""
from __future__ import annotations

import argparse
import gzip
import json
import os
import random

GEN_VERSION = 1
STEP = dict(a_ns=5_000_000, b_ns=50_000, c_ns=20_000, d_ns=20, empty_us=1000)


# --------------------------------------------------------------------------
# helpers
# --------------------------------------------------------------------------
def case(name, note, config, requests, hash_block=32, step=None, blocks=True):
    c = {"name": name, "note": note, "config": config, "hash_block": hash_block,
         "step_time": step or STEP, "requests": requests}
    if blocks:
        c["trace"] = {"blocks": True}
    return c


def R(rid, t, ids, plen, olen, **kw):
    r = {"id": rid, "arrival_us": t, "hash_ids": list(ids), "prompt_len": plen,
         "output_len": olen}
    r.update(kw)
    return r


def cfg(nb=64, mml=512, mbt=256, mns=16, bs=16, **kw):
    d = dict(num_blocks=nb, block_size=bs, max_model_len=mml,
             max_num_batched_tokens=mbt, max_num_seqs=mns)
    d.update(kw)
    return d


def uniq(base, n, hash_block=32):
    """Unshared hash ids covering n tokens."""
    return list(range(base, base + -(-n // hash_block)))


# --------------------------------------------------------------------------
# hand-written feature cases
# --------------------------------------------------------------------------
def feature_cases():
    C = []
    add = C.append

    add(case("c01_single", "one request, prefill then decode to max_tokens",
             cfg(), [R("a", 0, uniq(1, 70), 70, 12)]))
    add(case("c02_no_prefix_caching", "identical prompts, caching disabled: never a hit; "
             "freed blocks go back to the queue head",
             cfg(enable_prefix_caching=False),
             [R("a", 0, [1, 2, 3], 96, 6), R("b", 0, [1, 2, 3], 96, 9),
              R("c", 60_000, [1, 2, 3], 96, 6), R("d", 200_000, [1, 2, 3], 90, 3)]))
    add(case("c03_prefix_sequential", "same prompt later: full blocks hit, partial tail not",
             cfg(), [R("a", 0, [1, 2, 3], 75, 5), R("b", 100_000, [1, 2, 3], 75, 5),
                     R("c", 200_000, [1, 2, 4], 96, 5), R("d", 300_000, [1, 9], 64, 5)]))
    add(case("c04_prompt_multiple_of_block", "prompt is an exact block multiple: resend may "
             "hit at most prompt_len-1 tokens, so the whole last block is recomputed and "
             "becomes a duplicate",
             cfg(), [R("a", 0, [1, 2], 64, 3), R("b", 100_000, [1, 2], 64, 3),
                     R("c", 200_000, [1, 2], 64, 20), R("d", 400_000, [1, 2, 3], 80, 3)]))
    add(case("c05_prompt_one_over_block", "block multiple + 1: hit leaves exactly one token",
             cfg(), [R("a", 0, [1, 2, 3], 65, 3), R("b", 100_000, [1, 2, 3], 65, 3),
                     R("c", 100_000, [1, 2, 3], 65, 1)]))
    add(case("c06_short_prompts", "prompts shorter than a block, and of length 1",
             cfg(), [R("a", 0, [1], 1, 40), R("b", 0, [1], 1, 40), R("c", 10_000, [1], 15, 2),
                     R("d", 10_000, [1], 16, 2), R("e", 90_000, [1], 16, 2),
                     R("f", 90_000, [1], 17, 2)]))
    add(case("c07_same_step_sharing", "identical prompts arriving together: the second hits "
             "blocks registered by the first in the same step",
             cfg(), [R("a", 0, [1, 2, 3], 90, 8), R("b", 0, [1, 2, 3], 90, 8),
                     R("c", 0, [1, 2, 3], 96, 8), R("d", 0, [1, 2, 7], 96, 8)]))
    add(case("c08_chunked_prefill", "long prompts chunked by the token budget while decodes run",
             cfg(mbt=64, nb=128, mml=1024),
             [R("a", 0, uniq(1, 40), 40, 30), R("b", 5_000, uniq(50, 400), 400, 10),
              R("c", 6_000, uniq(100, 300), 300, 10), R("d", 7_000, uniq(150, 10), 10, 10)]))
    add(case("c09_chunked_prefill_off", "chunked prefill disabled: a prompt that does not fit "
             "the remaining budget blocks the queue",
             cfg(mbt=512, mml=512, nb=128, enable_chunked_prefill=False),
             [R("a", 0, uniq(1, 300), 300, 10), R("b", 0, uniq(50, 300), 300, 10),
              R("c", 0, uniq(100, 20), 20, 10), R("d", 1_000, uniq(150, 500), 500, 5),
              R("e", 2_000, uniq(200, 11), 11, 5)]))
    add(case("c10_budget_edges", "prompts exactly at / one over the budget",
             cfg(mbt=64, nb=128, mml=1024),
             [R("a", 0, uniq(1, 64), 64, 4), R("b", 0, uniq(50, 65), 65, 4),
              R("c", 0, uniq(100, 63), 63, 4), R("d", 0, uniq(150, 64), 64, 4),
              R("e", 0, uniq(200, 1), 1, 4)]))
    add(case("c11_max_num_seqs", "running set bounded by max_num_seqs",
             cfg(mns=3), [R(f"r{i}", i * 500, uniq(10 * i + 1, 30), 30, 5 + i)
                          for i in range(9)]))
    add(case("c12_max_num_active_seqs", "admission bounded below max_num_seqs",
             cfg(mns=8, max_num_active_seqs=2),
             [R(f"r{i}", i * 500, uniq(10 * i + 1, 30), 30, 9 - i) for i in range(8)]))
    add(case("c13_preempt_fcfs", "tiny KV, decode growth preempts the newest request; resume "
             "uses its own cached blocks",
             cfg(nb=13, mml=160, mbt=128),
             [R("a", 0, uniq(1, 60), 60, 60), R("b", 0, uniq(20, 60), 60, 60),
              R("c", 0, uniq(40, 50), 50, 40)]))
    add(case("c14_preempt_nocache", "as c13 without prefix caching: full recompute",
             cfg(nb=13, mml=160, mbt=128, enable_prefix_caching=False),
             [R("a", 0, uniq(1, 60), 60, 60), R("b", 0, uniq(20, 60), 60, 60),
              R("c", 0, uniq(40, 50), 50, 40)]))
    add(case("c15_self_preempt", "the request needing a block is itself the last running one",
             cfg(nb=9, mml=112, mbt=128),
             [R("a", 0, uniq(1, 62), 62, 40), R("b", 0, uniq(20, 47), 47, 50)]))
    add(case("c16_preempt_mid_prefill", "a half-prefilled request is the victim",
             cfg(nb=17, mml=240, mbt=32, scheduler_reserve_full_isl=False),
             [R("a", 0, uniq(1, 30), 30, 60), R("b", 0, uniq(20, 30), 30, 60),
              R("c", 20_000, uniq(40, 200), 200, 8), R("d", 25_000, uniq(60, 100), 100, 8)]))
    add(case("c17_cascade_preempt", "many requests cross a block boundary together",
             cfg(nb=17, mml=200, mbt=256, mns=8),
             [R(f"r{i}", 0, uniq(10 * i + 1, 31), 31, 40) for i in range(8)]))
    add(case("c18_no_admission_when_preempting", "waiting requests that would fit are not "
             "admitted in a step that preempted",
             cfg(nb=14, mml=160, mbt=128),
             [R("a", 0, uniq(1, 60), 60, 50), R("b", 0, uniq(20, 60), 60, 50),
              R("c", 15_000, uniq(40, 75), 75, 10), R("d", 16_000, uniq(50, 8), 8, 5),
              R("e", 17_000, uniq(60, 8), 8, 5)]))
    add(case("c19_priority_order", "waiting queue ordered by (priority, arrival, id)",
             cfg(mns=2, policy="priority"),
             [R("a", 0, uniq(1, 30), 30, 6, priority=5), R("b", 100, uniq(10, 30), 30, 6, priority=5),
              R("c", 200, uniq(20, 30), 30, 6, priority=1), R("d", 300, uniq(30, 30), 30, 6, priority=0),
              R("e", 400, uniq(40, 30), 30, 6, priority=1), R("z", 400, uniq(50, 30), 30, 6, priority=1),
              R("f", 400, uniq(60, 30), 30, 6, priority=1)]))
    add(case("c20_priority_preempt", "victim = max (priority, arrival) over the whole running "
             "list, including requests already scheduled in this step",
             cfg(nb=17, mml=200, mbt=256, policy="priority"),
             [R("low", 0, uniq(1, 47), 47, 60, priority=9), R("mid", 0, uniq(20, 47), 47, 60, priority=5),
              R("hi", 0, uniq(40, 47), 47, 60, priority=1), R("hi2", 30_000, uniq(60, 60), 60, 40, priority=0)]))
    add(case("c21_priority_phantom_blocks", "a victim already scheduled this step leaves its "
             "just-registered (never computed) blocks in the prefix cache",
             cfg(nb=17, mml=224, mbt=64, policy="priority", scheduler_reserve_full_isl=False),
             [R("low", 0, uniq(1, 200), 200, 10, priority=9),
              R("hi", 1_000, uniq(40, 31), 31, 40, priority=1),
              R("hi2", 1_500, uniq(60, 31), 31, 40, priority=0),
              R("low2", 2_000, uniq(1, 200), 200, 10, priority=8)]))
    add(case("c22_priority_ties", "equal priority and arrival: heap order by id, victim is the "
             "first maximal element of the running list",
             cfg(nb=13, mml=160, mbt=128, policy="priority"),
             [R("c", 0, uniq(1, 47), 47, 50), R("a", 0, uniq(20, 47), 47, 50),
              R("b", 0, uniq(40, 47), 47, 50), R("d", 0, uniq(60, 20), 20, 30)]))
    add(case("c23_long_prefill_threshold", "per-request chunk cap",
             cfg(mbt=256, nb=200, mml=2048, long_prefill_token_threshold=48),
             [R("a", 0, uniq(1, 600), 600, 5), R("b", 0, uniq(50, 500), 500, 5),
              R("c", 0, uniq(100, 30), 30, 25), R("d", 40_000, uniq(150, 200), 200, 5)]))
    add(case("c24_long_prefill_threshold_lone", "the cap is lifted when one request exists",
             cfg(mbt=256, nb=200, mml=2048, long_prefill_token_threshold=48),
             [R("a", 0, uniq(1, 900), 900, 5), R("b", 40_000, uniq(50, 500), 500, 5)]))
    add(case("c25_long_prefill_adaptive", "cap floored at budget // (running+waiting)",
             cfg(mbt=256, nb=200, mml=2048, long_prefill_token_threshold=32,
                 long_prefill_token_threshold_adaptive=True),
             [R("a", 0, uniq(1, 600), 600, 5), R("b", 0, uniq(50, 500), 500, 5),
              R("c", 0, uniq(100, 300), 300, 25), R("d", 10_000, uniq(150, 200), 200, 5),
              R("e", 10_000, uniq(200, 200), 200, 5)]))
    big = [R("a", 0, uniq(1, 200), 200, 60), R("b", 0, uniq(20, 220), 220, 60),
           R("c", 0, uniq(40, 100), 100, 20), R("d", 0, uniq(60, 10), 10, 20)]
    add(case("c26_reserve_full_isl_on", "admission needs blocks for the whole prompt",
             cfg(nb=25, mml=288, mbt=64), big))
    add(case("c27_reserve_full_isl_off", "admission needs blocks for the first chunk only",
             cfg(nb=25, mml=288, mbt=64, scheduler_reserve_full_isl=False), big))
    add(case("c28_watermark", "10% of blocks kept free when admitting next to running requests",
             cfg(nb=41, mml=288, mbt=256, watermark=0.1),
             [R(f"r{i}", i * 3_000, uniq(10 * i + 1, 130), 130, 25) for i in range(8)]))
    add(case("c29_multi_turn", "next turn = previous prompt + previous output + new text",
             cfg(nb=128, mml=1024, mbt=256),
             [R("t1", 0, uniq(1, 90), 90, 41),
              {"id": "t2", "arrival_us": 400_000, "output_len": 30,
               "segments": [{"p": "t1"}, {"o": "t1", "n": 41}, {"h": [50], "n": 20}]},
              {"id": "t3", "arrival_us": 900_000, "output_len": 30,
               "segments": [{"p": "t2"}, {"o": "t2", "n": 30}, {"h": [60], "n": 7}]},
              {"id": "branch", "arrival_us": 900_000, "output_len": 5,
               "segments": [{"p": "t1"}, {"o": "t1", "n": 25}, {"h": [70], "n": 30}]}]))
    add(case("c30_multi_turn_closed_loop", "arrivals chained to the finish of the previous turn",
             cfg(nb=40, mml=512, mbt=128, mns=4),
             [x for u in range(4) for x in (
                 R(f"u{u}t1", u * 700, [900] + uniq(100 * u + 1, 40), 72, 17 + u),
                 {"id": f"u{u}t2", "after": f"u{u}t1", "delay_us": 3_000 * (u + 1), "output_len": 21,
                  "segments": [{"p": f"u{u}t1"}, {"o": f"u{u}t1", "n": 17 + u}, {"h": [100 * u + 50], "n": 25}]},
                 {"id": f"u{u}t3", "after": f"u{u}t2", "delay_us": 0, "output_len": 9,
                  "segments": [{"p": f"u{u}t2"}, {"o": f"u{u}t2", "n": 21}, {"h": [100 * u + 60], "n": 5}]})]))
    add(case("c31_eviction_lru", "sequential distinct prompts in a small pool, then resends: "
             "oldest chains lose their tails first",
             cfg(nb=14, mml=160, mbt=256),
             [R("a", 0, uniq(1, 100), 100, 2), R("b", 100_000, uniq(20, 100), 100, 2),
              R("c", 200_000, uniq(40, 60), 60, 2), R("a2", 300_000, uniq(1, 100), 100, 2),
              R("b2", 400_000, uniq(20, 100), 100, 2), R("c2", 500_000, uniq(40, 60), 60, 2)]))
    add(case("c32_hit_on_free_blocks", "hits on unreferenced blocks still consume free blocks at "
             "admission; hits on referenced ones do not",
             cfg(nb=17, mml=240, mbt=256),
             [R("a", 0, uniq(1, 120), 120, 2), R("x", 50_000, uniq(20, 100), 100, 40),
              R("a2", 60_000, uniq(1, 120), 120, 30), R("a3", 61_000, uniq(1, 120), 120, 30),
              R("y", 62_000, uniq(40, 40), 40, 5)]))
    add(case("c33_duplicate_blocks", "identical outputs generated concurrently: one hash, several "
             "blocks; the first inserted one serves hits, evicting one keeps the others",
             cfg(nb=25, mml=200, mbt=256),
             [R("a", 0, [1], 30, 40, out_seed=77), R("b", 0, [1], 30, 44, out_seed=77),
              R("c", 0, [1], 30, 20, out_seed=77),
              {"id": "d", "arrival_us": 400_000, "output_len": 4,
               "segments": [{"p": "a"}, {"o": "a", "n": 40}]},
              R("e", 500_000, uniq(20, 180), 180, 4), R("e2", 500_000, uniq(30, 100), 100, 4),
              {"id": "f", "arrival_us": 600_000, "output_len": 4,
               "segments": [{"p": "a"}, {"o": "a", "n": 40}]}]))
    add(case("c34_model_len", "prompt >= max_model_len rejected; max_tokens clipped to "
             "max_model_len - prompt_len",
             cfg(nb=64, mml=128, mbt=128),
             [R("ok", 0, uniq(1, 127), 127, 50), R("eq", 0, uniq(10, 128), 128, 5),
              R("over", 0, uniq(20, 200), 200, 5), R("clip", 0, uniq(30, 100), 100, 50),
              R("after", 1_000, uniq(40, 20), 20, 5)]))
    add(case("c35_output_one", "max_tokens=1: finishes with its prefill step",
             cfg(mbt=64), [R(f"r{i}", i * 2_000, uniq(5 * i + 1, 20 + 9 * i), 20 + 9 * i, 1)
                           for i in range(8)]))
    add(case("c36_burst", "40 requests at once",
             cfg(nb=96, mml=256, mbt=256, mns=12),
             [R(f"r{i:02d}", 0, [1, 2] + uniq(100 + 10 * i, 5 + 3 * i), 64 + 5 + 3 * i, 3 + i % 7)
              for i in range(40)]))
    add(case("c37_idle_gaps", "engine drains, clock jumps to the next arrival",
             cfg(), [R(f"r{i}", t, [1, 10 + i], 50, 3) for i, t in
                     enumerate([0, 1, 200_000, 200_000, 1_000_000, 1_000_001, 5_000_000])]))
    add(case("c38_cache_salt", "salt enters the first block's hash and hence the chain",
             cfg(), [R("a", 0, [1, 2], 60, 3, salt="x"), R("b", 50_000, [1, 2], 60, 3),
                     R("c", 100_000, [1, 2], 60, 3, salt="x"), R("d", 150_000, [1, 2], 60, 3, salt="y"),
                     R("e", 200_000, [1, 2], 60, 3)]))
    add(case("c39_skip_reading", "request that must not read the cache (prompt logprobs) still "
             "writes it",
             cfg(), [R("a", 0, [1, 2], 60, 3), R("b", 50_000, [1, 2], 60, 3, skip_read=True),
                     R("c", 100_000, [5, 6], 60, 3, skip_read=True), R("d", 150_000, [5, 6], 60, 3)]))
    add(case("c40_aborts", "client aborts: while waiting, mid-prefill, mid-decode, at a step edge, "
             "after finish, while idle",
             cfg(nb=40, mml=512, mbt=64, mns=3),
             [R("a", 0, uniq(1, 50), 50, 30, abort_us=60_000), R("b", 0, uniq(20, 300), 300, 30, abort_us=22_000),
              R("c", 0, uniq(40, 50), 50, 6, abort_us=10_000_000), R("d", 0, uniq(60, 50), 50, 30, abort_us=9_000),
              R("e", 1_000, [1, 2], 60, 5), R("f", 70_000, [1, 2], 60, 50, abort_us=70_001),
              R("g", 71_000, [1, 2], 60, 5, abort_us=71_000), R("h", 300_000, [1, 2], 60, 5)]))
    add(case("c41_block_size_1", "block_size 1: everything is a full block",
             cfg(nb=200, mml=64, mbt=64, bs=1),
             [R("a", 0, [1], 20, 10), R("b", 30_000, [1], 20, 10), R("c", 30_000, [1], 25, 10),
              R("d", 31_000, [2, 3], 50, 12), R("e", 32_000, [2, 3], 50, 12), R("f", 33_000, [4, 5], 40, 12),
              R("g", 34_000, [6, 7], 45, 12)]))
    add(case("c42_block_size_128", "large blocks",
             cfg(nb=20, mml=1024, mbt=512, bs=128),
             [R("a", 0, uniq(1, 400), 400, 20), R("b", 0, uniq(1, 400), 400, 20),
              R("c", 50_000, uniq(1, 512), 512, 140), R("d", 60_000, uniq(50, 600), 600, 20),
              R("e", 70_000, uniq(100, 500), 500, 20)]))
    add(case("c43_unhashed_lifo", "unhashed (partial) blocks are reused first, LIFO, from the "
             "queue head",
             cfg(nb=33, mml=256, mbt=256),
             [R("a", 0, uniq(1, 20), 20, 3), R("b", 0, uniq(10, 40), 40, 3), R("c", 0, uniq(20, 70), 70, 3),
              R("d", 60_000, uniq(30, 100), 100, 4), R("e", 120_000, uniq(40, 200), 200, 4)]))
    add(case("c44_same_step_finish_order", "several requests finish in one step: freed in schedule "
             "order, each tail first",
             cfg(nb=34, mml=256, mbt=256),
             [R("a", 0, uniq(1, 50), 50, 6), R("b", 0, uniq(10, 50), 50, 6), R("c", 0, uniq(20, 50), 50, 6),
              R("d", 60_000, uniq(30, 240), 240, 2), R("e", 60_000, uniq(40, 200), 200, 2),
              R("c2", 200_000, uniq(20, 50), 50, 2), R("b2", 200_000, uniq(10, 50), 50, 2),
              R("a2", 200_000, uniq(1, 50), 50, 2)]))
    add(case("c45_head_of_line", "FCFS: a head that cannot get KV blocks small requests behind it",
             cfg(nb=21, mml=300, mbt=320),
             [R("a", 0, uniq(1, 150), 150, 30), R("b", 1_000, uniq(20, 250), 250, 5),
              R("c", 1_100, uniq(40, 10), 10, 5), R("d", 1_200, uniq(60, 10), 10, 5)]))
    add(case("c46_hash_block_unaligned", "hash ids of 20 tokens over 16-token blocks",
             cfg(), [R("a", 0, [1, 2, 3], 60, 4), R("b", 50_000, [1, 2, 4], 60, 4),
                     R("c", 100_000, [1, 5, 3], 60, 4), R("d", 150_000, [1, 2, 3, 6], 80, 4)],
             hash_block=20))
    add(case("c47_resume_partial_evict", "preempted request loses part of its cached chain before "
             "it resumes",
             cfg(nb=14, mml=176, mbt=48),
             [R("a", 0, uniq(1, 70), 70, 90), R("b", 0, uniq(20, 70), 70, 60),
              R("c", 100_000, uniq(40, 20), 20, 20), R("d", 110_000, uniq(60, 20), 20, 20)]))
    add(case("c48_watermark_lone", "the watermark does not apply while nothing is running",
             cfg(nb=33, mml=512, mbt=512, watermark=0.2),
             [R("a", 0, uniq(1, 500), 500, 5), R("b", 1_000, uniq(50, 400), 400, 5),
              R("c", 2_000, uniq(100, 30), 30, 5)]))
    add(case("c49_priority_budget_restored", "evicting a request already scheduled this step gives "
             "its tokens back to the budget",
             cfg(nb=24, mml=192, mbt=64, mns=6, policy="priority", scheduler_reserve_full_isl=False,
                 long_prefill_token_threshold=40),
             [R("p0", 18_000, uniq(1, 150), 150, 60, priority=2), R("p1", 0, uniq(21, 180), 180, 5, priority=4),
              R("p2", 30_000, uniq(41, 150), 150, 20, priority=0)]))
    add(case("c59_priority_victim_newest", "equal priorities: the latest arrival is the victim",
             cfg(nb=13, mml=160, mbt=128, policy="priority"),
             [R("a", 0, uniq(1, 60), 60, 60, priority=3), R("b", 100, uniq(20, 60), 60, 60, priority=3),
              R("c", 200, uniq(40, 45), 45, 40, priority=3), R("d", 300, uniq(60, 20), 20, 40, priority=1)]))
    add(case("c60_priority_phantom_resume", "a victim that had already been scheduled in the step "
             "keeps the prefix-cache entries of its dropped chunk: it loses 48 computed tokens and "
             "resumes at 80",
             cfg(nb=22, mml=192, mbt=96, mns=6, policy="priority", scheduler_reserve_full_isl=False,
                 long_prefill_token_threshold=48),
             [R("p0", 30_000, uniq(1, 150), 150, 3, priority=1), R("p1", 18_000, uniq(21, 150), 150, 3, priority=1),
              R("p2", 30_000, uniq(41, 100), 100, 3, priority=1)]))
    # ---- asynchronous engine loop (the 0.32.0 default on CUDA) ------------------
    add(case("c50_async_basic", "as c08 with async scheduling",
             cfg(mbt=64, nb=128, mml=1024, async_scheduling=True),
             [R("a", 0, uniq(1, 40), 40, 30), R("b", 5_000, uniq(50, 400), 400, 10),
              R("c", 6_000, uniq(100, 300), 300, 10), R("d", 7_000, uniq(150, 10), 10, 10)]))
    add(case("c51_async_single", "as c01 with async scheduling",
             cfg(async_scheduling=True), [R("a", 0, uniq(1, 70), 70, 12), R("b", 90_000, uniq(1, 70), 70, 1)]))
    add(case("c52_async_preempt", "as c13 with async scheduling: stale in-flight output",
             cfg(nb=13, mml=160, mbt=128, async_scheduling=True),
             [R("a", 0, uniq(1, 60), 60, 60), R("b", 0, uniq(20, 60), 60, 60),
              R("c", 0, uniq(40, 50), 50, 40)]))
    add(case("c53_async_multi_turn", "as c30 with async scheduling",
             dict(C[29]["config"], async_scheduling=True), C[29]["requests"]))
    add(case("c54_async_model_len", "as c34 with async scheduling",
             cfg(nb=64, mml=128, mbt=128, async_scheduling=True), C[33]["requests"]))
    add(case("c55_async_aborts", "as c40 with async scheduling",
             cfg(nb=40, mml=512, mbt=64, mns=3, async_scheduling=True),
             next(c for c in C if c["name"] == "c40_aborts")["requests"]))
    add(case("c56_async_priority", "as c20 with async scheduling",
             cfg(nb=17, mml=200, mbt=256, policy="priority", async_scheduling=True),
             next(c for c in C if c["name"] == "c20_priority_preempt")["requests"]))
    add(case("c57_async_max_num_seqs", "as c11 with async scheduling: a request whose last token is "
             "in flight still holds its slot",
             cfg(mns=3, async_scheduling=True),
             next(c for c in C if c["name"] == "c11_max_num_seqs")["requests"]))
    add(case("c58_async_block_edges", "async: generated blocks are registered when the token arrives, "
             "not when it is scheduled",
             cfg(nb=64, mml=512, mbt=128, async_scheduling=True),
             [R("a", 0, [1], 30, 35, out_seed=5)]
             + [{"id": f"n{k}", "arrival_us": 5_000 * k + 1_000, "output_len": 2,
                 "segments": [{"p": "a"}, {"o": "a", "n": 35}]} for k in range(1, 40, 3)]))
    return C


# --------------------------------------------------------------------------
# randomized cases
# --------------------------------------------------------------------------
def clamp(x, lo, hi):
    return max(lo, min(hi, int(x)))


def fuzz_case(seed: int, n: int | None = None, async_: bool | None = None, name=None):
    g = random.Random(f"oracle-fuzz-{GEN_VERSION}-{seed}")
    n = n or g.choice([100, 120, 150, 200, 250, 300, 400, 500])
    bs = g.choice([16] * 7 + [8, 32, 64])
    mml = g.choice([256, 512, 1024, 2048, 4096])
    need = -(-mml // bs)
    # pressure: how many max-length requests fit
    nb = 1 + clamp(need * g.choice([1.0, 1.3, 2, 3, 5, 8]), need, 10_000)
    chunked = g.random() > 0.1
    mns = g.choice([2, 4, 8, 16, 32, 64, 128])
    mbt = g.choice([64, 128, 256, 512, 1024, 2048])
    if not chunked:
        mbt = max(mbt, mml)
    mbt = max(mbt, mns)
    c = cfg(nb=nb, mml=mml, mbt=mbt, mns=mns, bs=bs)
    c["enable_chunked_prefill"] = chunked
    c["enable_prefix_caching"] = g.random() > 0.12
    if g.random() < 0.3:
        c["policy"] = "priority"
    if g.random() < 0.25:
        c["long_prefill_token_threshold"] = g.choice([16, 40, 64, 200])
        c["long_prefill_token_threshold_adaptive"] = g.random() < 0.4
    if g.random() < 0.2:
        c["watermark"] = g.choice([0.01, 0.05, 0.1])
    if g.random() < 0.25:
        c["scheduler_reserve_full_isl"] = False
    if g.random() < 0.15:
        c["max_num_active_seqs"] = max(1, mns // 2)
    if async_ is None:
        async_ = False
    if async_:
        c["async_scheduling"] = True
    step = dict(
        a_ns=g.choice([500_000, 3_000_000, 8_000_000]),
        b_ns=g.choice([5_000, 30_000, 110_000]),
        c_ns=g.choice([0, 10_000, 60_000]),
        d_ns=g.choice([0, 3, 50]),
        empty_us=1000,
    )
    hb = g.choice([bs, 32, 64, 20, 100])
    # shared prefixes
    nsys = g.randint(1, 6)
    sys_len = [clamp(g.lognormvariate(0, 0.8) * mml / 12, 1, mml // 3) for _ in range(nsys)]
    next_id = [1000]

    def fresh(k):
        ids = list(range(next_id[0], next_id[0] + -(-k // hb)))
        next_id[0] += len(ids) + 1
        return ids

    sys_ids = [fresh(k) for k in sys_len]
    share = g.choice([0.0, 0.4, 0.8, 0.95])
    turns = g.choice([0.0, 0.2, 0.5])
    repeat = g.choice([0.0, 0.1, 0.3])
    mean_p = g.choice([0.05, 0.12, 0.3]) * mml
    mean_o = g.choice([0.02, 0.05, 0.15]) * mml
    # arrival process: mean gap relative to a rough service time
    service_us = (step["a_ns"] + step["b_ns"] * mean_p) / 1000 + mean_o * step["a_ns"] / 1000 / max(1, min(mns, nb * bs / (mean_p + mean_o)))
    load = g.choice([0.3, 0.8, 1.2, 3.0, 50.0])
    gap = service_us / load
    t = 0
    reqs, plens, heads = [], [], []
    for i in range(n):
        u = g.random()
        if u < 0.03:
            t += int(gap * 40)  # idle gap
        elif u < 0.25:
            pass  # burst
        else:
            t += int(g.expovariate(1.0) * gap)
        olen = clamp(1 + g.expovariate(1.0) * mean_o, 1, mml)
        r = {"id": f"q{i}", "output_len": olen}
        if heads and g.random() < turns:
            p = g.choice(heads[-12:])
            po = min(reqs[p]["output_len"], max(0, mml - plens[p]))
            k = po if g.random() < 0.8 else g.randint(0, po)
            ext = clamp(1 + g.expovariate(1.0) * mean_p / 3, 1, mml)
            segs = [{"p": f"q{p}"}]
            if k:
                segs.append({"o": f"q{p}", "n": k})
            segs.append({"h": fresh(ext), "n": ext})
            plen = plens[p] + k + ext
            if plen >= mml and g.random() > 0.02:  # start over instead
                r["hash_ids"], r["prompt_len"] = fresh(ext), ext
                plen = ext
                r["arrival_us"] = t
            else:
                r["segments"] = segs
                if g.random() < 0.6:
                    r["after"] = f"q{p}"
                    r["delay_us"] = int(g.expovariate(1.0) * gap * 5)
                else:
                    r["arrival_us"] = t
        else:
            r["arrival_us"] = t
            if heads and g.random() < repeat:
                q = g.choice(heads[-20:])
                src = reqs[q]
                if "hash_ids" in src:
                    r["hash_ids"], r["prompt_len"] = src["hash_ids"], src["prompt_len"]
                    if g.random() < 0.5:
                        r["out_seed"] = src.get("out_seed", q)
                else:
                    r["segments"] = src["segments"]
                plen = plens[q]
            else:
                own = clamp(g.lognormvariate(0, 1.0) * mean_p, 1, mml - 2)
                if g.random() < 0.2:  # block-aligned total
                    own = max(bs, own // bs * bs)
                if g.random() < share:
                    s = g.randrange(nsys)
                    segs = [{"h": sys_ids[s], "n": sys_len[s]}, {"h": fresh(own), "n": own}]
                    plen = sys_len[s] + own
                    if plen >= mml and g.random() > 0.05:
                        own = max(1, mml - 1 - sys_len[s] - g.randint(0, 20))
                        segs[1] = {"h": fresh(own), "n": own}
                        plen = sys_len[s] + own
                    r["segments"] = segs
                else:
                    r["hash_ids"], r["prompt_len"] = fresh(own), own
                    plen = own
        if c.get("policy") == "priority":
            r["priority"] = g.choice([0, 0, 1, 2, 3])
        if g.random() < 0.03:
            r["salt"] = g.choice(["s1", "s2"])
        if g.random() < 0.02:
            r["skip_read"] = True
        if g.random() < 0.03 and "arrival_us" in r:
            r["abort_us"] = r["arrival_us"] + int(g.expovariate(1.0) * gap * 4)
        reqs.append(r)
        plens.append(plen)
        if plen < mml:
            heads.append(i)
    blocks = n <= 150
    return case(name or f"fuzz_{seed}", f"fuzz seed {seed} gen {GEN_VERSION}", c, reqs,
                hash_block=hb, step=step, blocks=blocks)


def mooncake_case(seed: int, n: int, name=None, kv_scale=1.0, kind="conversation",
                  async_=False):
    """Mooncake-style trace: 512-token hash ids, sessions that grow turn by turn,
    a hot common system prefix, heavy-tailed lengths, Poisson sessions."""
    g = random.Random(f"oracle-mooncake-{GEN_VERSION}-{seed}")
    mml = 32_768
    bs = 16
    nb = int(9_000 * kv_scale)
    assert nb - 1 >= mml // bs
    c = cfg(nb=nb, mml=mml, mbt=2048 if kind == "conversation" else 8192,
            mns=256 if kind == "conversation" else 1024, bs=bs)
    if async_:
        c["async_scheduling"] = True
    step = dict(a_ns=7_000_000, b_ns=30_000 if kind == "conversation" else 25_000,
                c_ns=15_000, d_ns=30, empty_us=1000)
    hb = 512
    nxt = [100]

    def fresh(k):
        r = list(range(nxt[0], nxt[0] + k))
        nxt[0] += k
        return r

    hot = [fresh(k) for k in (1, 2, 4, 6)]
    hotw = [0.55, 0.2, 0.15, 0.1]
    docs = [fresh(g.randint(4, 24)) for _ in range(60)]  # reused documents
    reqs, t = [], 0.0
    sess = []  # [ids, len, turns_left, next_t]
    mean_gap = 560_000 if kind == "conversation" else 300_000
    while len(reqs) < n:
        t += g.expovariate(1.0) * mean_gap
        k = g.choices(range(4), hotw)[0]
        ids = list(hot[k])
        if g.random() < (0.25 if kind == "conversation" else 0.7):
            d = docs[min(len(docs) - 1, int(g.paretovariate(0.9)) - 1)]
            ids += d
        own = clamp(g.lognormvariate(0, 1.1) * 2200, 40, 20_000)
        turns = 1 + min(9, int(g.expovariate(1.0) * (2.0 if kind == "conversation" else 0.6)))
        tt = t
        for _ in range(turns):
            total = len(ids) * hb + own
            if total >= mml - 600:
                break
            full, rem = divmod(total, hb)
            new = fresh(full - len(ids) + (1 if rem else 0))
            out = clamp(g.lognormvariate(5.0, 0.8), 2, 2000)
            reqs.append((int(tt), ids + new, total, out))
            # the next turn shares whole 512-token ids only, like the trace
            ids = ids + new[: full - len(ids)]
            own = rem + out + clamp(g.lognormvariate(0, 1.0) * 250, 10, 4000)
            tt += 2_000_000 + g.expovariate(1.0) * 25_000_000
    reqs.sort(key=lambda r: r[0])
    reqs = reqs[:n]
    t0 = reqs[0][0]
    out = [R(f"m{i}", r[0] - t0, r[1], r[2], r[3]) for i, r in enumerate(reqs)]
    return case(name or f"mooncake_{kind}_{seed}", f"mooncake-like {kind} seed {seed}", c, out,
                hash_block=hb, step=step, blocks=False)


def bench_case(n, mns, plen, olen, name):
    """No KV pressure: steady decode batches of mns requests (speed baseline)."""
    nb = mns * (-(-(plen + olen) // 16) + 1) + 2000
    c = cfg(nb=nb, mml=8192, mbt=8192, mns=mns)
    reqs = [R(f"b{i}", 0, uniq(1 + 100 * i, plen, 512), plen, olen - i % 7) for i in range(n)]
    return case(name, "speed baseline", c, reqs, hash_block=512, blocks=False)


# --------------------------------------------------------------------------
def write(c, outdir):
    os.makedirs(outdir, exist_ok=True)
    head = {k: v for k, v in c.items() if k != "requests"}
    sep = (",", ":")
    data = json.dumps(head, separators=sep)[:-1] + ',\n"requests":[\n' + ",\n".join(
        json.dumps(r, separators=sep) for r in c["requests"]) + "\n]}\n"
    path = os.path.join(outdir, c["name"] + ".json")
    for p in (path, path + ".gz"):
        if os.path.exists(p):
            os.remove(p)
    if len(data) > 1_000_000:
        with open(path + ".gz", "wb") as raw, gzip.GzipFile(
            filename="", fileobj=raw, mode="wb", mtime=0) as f:
            f.write(data.encode())
    else:
        with open(path, "w") as f:
            f.write(data)


def suite(outdir):
    for c in feature_cases():
        write(c, outdir)
    for s in range(1, 17):
        write(fuzz_case(s, name=f"r{s:02d}_fuzz"), outdir)
    for s in range(17, 21):
        write(fuzz_case(s, async_=True, name=f"r{s:02d}_fuzz_async"), outdir)
    write(mooncake_case(1, 2000, "m1_conversation_2000", kv_scale=1.0), outdir)
    write(mooncake_case(2, 2000, "m2_toolagent_2000", kv_scale=2.0, kind="toolagent"), outdir)
    write(mooncake_case(3, 500, "m3_conversation_async_500", kv_scale=0.5, async_=True), outdir)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("cmd", choices=["suite", "fuzz", "mooncake", "bench"])
    ap.add_argument("-o", "--out", required=True)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--n", type=int, default=1, help="number of cases / requests")
    ap.add_argument("--size", type=int, default=None, help="requests per fuzz case")
    ap.add_argument("--async", dest="async_", action="store_true")
    ap.add_argument("--kind", default="conversation")
    ap.add_argument("--kv-scale", type=float, default=1.0)
    a = ap.parse_args()
    if a.cmd == "suite":
        suite(a.out)
    elif a.cmd == "bench":
        for mns in (1, 16, 64, 256, 1024):
            write(bench_case(max(8, 2 * mns), mns, 500, 200, f"bench_running{mns:04d}"), a.out)
    elif a.cmd == "fuzz":
        for s in range(a.seed, a.seed + a.n):
            write(fuzz_case(s, a.size, a.async_, f"fuzz_{s}" + ("_async" if a.async_ else "")), a.out)
    else:
        write(mooncake_case(a.seed, a.n, kv_scale=a.kv_scale, kind=a.kind, async_=a.async_), a.out)


if __name__ == "__main__":
    main()
