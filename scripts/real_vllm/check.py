"""`lodestar serve` in front of three engines, and what must be true of it. See scripts/real_vllm.sh."""

import argparse
import contextlib
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

import screenshot
from clients import Load, OpenAi, Plain
from servers import Engine, Mock, Router, Vllm, page, samples, until

# For what takes as long as it takes on a machine with other work.
PATIENCE_S = 300
BUSY = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Check:
    """The servers, and what has been found out about them."""

    def __init__(self, options, mode, router, engines, work):
        self.options, self.mode, self.router, self.engines, self.work = options, mode, router, engines, work
        self.found = []

    def that(self, what, holds, numbers=""):
        self.found.append((what, bool(holds), numbers))
        print(f"{'PASS' if holds else 'FAIL'}  {what:<60} {numbers}", flush=True)

    def sum(self, *names):
        return sum(samples(engine.address)[name] for engine in self.engines for name in names)

    def idle(self):
        until("engines are idle", lambda: self.sum(*BUSY) == 0, PATIENCE_S)

    def clients(self):
        """Answers and streams, one that is cancelled, models."""
        client = (Plain if self.mode.is_mock else OpenAi)(self.router.address, self.mode.model)
        print(f"\nA client ({client.name})")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How are you?"}]
        models = client.models()
        self.that("models are listed", models == [self.mode.model], ", ".join(models))
        text, tokens = client.chat(messages, 20)
        self.that("chat", text and tokens == 20, f"{tokens} tokens")
        pieces = list(client.streamed_chat(messages, 20))
        self.that("chat, streamed", len(pieces) > 1, f"{len(pieces)} events with text")
        text, tokens = client.completion("Once upon a time", 20)
        self.that("completion", text and tokens == 20, f"{tokens} tokens")

        self.idle()
        made, asked = self.sum("vllm:generation_tokens_total"), 3000
        stream = client.streamed_chat(messages, asked)
        for _ in range(3):
            next(stream)
        stream.close()
        self.idle()
        made = self.sum("vllm:generation_tokens_total") - made
        self.that("a stream that is cancelled ends at its engine", made < asked, f"{made:.0f} of {asked} tokens made")

    def kv_events(self):
        """What an engine has cached behind the router's back is known there."""
        print("\nKV events")
        rng, block = random.Random(1), self.mode.block_tokens
        for index, engine in enumerate(self.engines):
            prompt = [rng.randrange(100, 8000) for _ in range(10 * block + 5)]
            self.cached_behind(index, engine, "/v1/completions", {"prompt": prompt})
        words = [f"word {rng.randrange(10**6)}" for _ in range(100)]
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " ".join(words)}]
        self.cached_behind(0, self.engines[0], "/v1/chat/completions", {"messages": messages})

    def cached_behind(self, index, engine, path, prompt):
        before = samples(self.router.address)["lodestar_kv_events_total"]
        fields = {"model": self.mode.model, "max_tokens": 1, **prompt}
        tokens = json.loads(page(engine.address, path, "POST", fields))["usage"]["prompt_tokens"]
        told = lambda: samples(self.router.address)["lodestar_kv_events_total"] - before
        until(f"KV events of engine {index}", told, PATIENCE_S)
        page(self.router.address, path, "POST", fields)
        latest = max(self.router.overview()["decisions"], key=lambda decision: decision["request"])
        expected = {one["instance"].rstrip("/"): one["predicted_cached_tokens"] for one in latest["candidates"]}
        block = self.mode.block_tokens
        wanted = {one.url: (tokens - 1) // block * block * (one is engine) for one in self.engines}
        name = f"the router knows what engine {index} alone has cached of a {'chat' if 'messages' in prompt else 'prompt'}"
        self.that(name, expected == wanted, f"{expected.get(engine.url)} of {tokens} tokens")

    def hit_ratio(self, measure):
        """Of the engines' prefix caches while something is measured, and what it answers."""
        names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")
        self.idle()
        before = [self.sum(name) for name in names]
        result = measure()
        self.idle()
        hits, queries = (self.sum(name) - was for name, was in zip(names, before))
        return hits / queries, result

    def policies(self):
        """The same load of prompts with few beginnings, twice."""
        mode = self.mode
        how = "a client of our own" if mode.is_mock else "vllm bench serve"
        print(f"\nPrompts that begin alike ({how}: {mode.requests} requests, {mode.prefixes} prefixes of 1024 tokens, {mode.rate}/s)")
        ratios = {}
        for seed, policy in enumerate(("round-robin", "lodestar")):
            page(self.router.address, "/lodestar/admin/policy", "PUT", {"name": policy})
            measure = self.own_load if mode.is_mock else self.vllm_bench
            ratios[policy], (finished, mean_ms, p99_ms) = self.hit_ratio(lambda: measure(policy, seed))
            numbers = f"hit ratio {ratios[policy]:.3f}, TTFT mean {mean_ms:.0f} ms, P99 {p99_ms:.0f} ms"
            self.that(f"{policy}: all requests are answered", finished == mode.requests, numbers)
        self.that("lodestar finds more in caches than round-robin", ratios["lodestar"] > ratios["round-robin"])

    def own_load(self, _, seed):
        load = Load(self.router.address, self.mode.model, seed)
        load.send(self.mode.rate, load.prefixes(self.mode.prefixes, self.mode.requests))
        return load.count("finished"), *load.ttft_ms()

    def vllm_bench(self, policy, seed):
        """Every seed draws other prompts, which no cache has."""
        result = f"bench-{policy}.json"
        command = [
            f"{pathlib.Path(sys.executable).parent}/vllm", "bench", "serve", "--backend", "openai", "--endpoint", "/v1/completions",
            "--base-url", f"http://{self.router.address}", "--model", self.mode.model,
            "--tokenizer", f"{self.options.out}/model", "--dataset-name", "prefix_repetition",
            "--prefix-repetition-prefix-len", "1024", "--prefix-repetition-suffix-len", "64",
            "--prefix-repetition-num-prefixes", self.mode.prefixes, "--prefix-repetition-output-len", "16",
            "--num-prompts", self.mode.requests, "--request-rate", self.mode.rate, "--ignore-eos", "--seed", seed,
            "--disable-tqdm", "--save-result", "--result-dir", self.options.out, "--result-filename", result,
        ]  # fmt: skip
        with open(f"{self.options.out}/bench-{policy}.log", "w") as log:
            environment = self.mode.environment(self.work)
            subprocess.run(list(map(str, command)), stdout=log, stderr=log, env=environment, timeout=4 * PATIENCE_S, check=True)
        result = json.loads(pathlib.Path(self.options.out, result).read_text())
        return result["completed"], result["mean_ttft_ms"], result["p99_ttft_ms"]

    def gaps(self):
        now = samples(self.router.address)
        numbers = f"{now['lodestar_kv_events_total']:.0f} events, {now['lodestar_kv_resets_total']:.0f} gaps"
        self.that("no KV event was lost", now["lodestar_kv_resets_total"] == 0, numbers)

    def cut_off(self):
        """Attempts that did not end well. A stream that goes on elsewhere counts as aborted where it was."""
        now = samples(self.router.address)
        return now["lodestar_attempts_total:failed"] + now["lodestar_attempts_total:aborted"]

    def kill(self):
        """One engine dies under load and comes back."""
        print("\nAn engine that is killed under load")
        load = Load(self.router.address, self.mode.model, 3)
        sender = threading.Thread(target=load.send, args=(self.mode.kill_rate, load.mixed()), daemon=True)
        before, began = self.cut_off(), time.monotonic()
        tell = lambda what: print(f"  {time.monotonic() - began:6.1f} s  {what}", flush=True)
        tell("the load begins")
        sender.start()
        try:
            self.die_and_return(tell)
            is_back = True
        except TimeoutError as error:
            tell(f"gave up: {error}")
            is_back = False
        load.stopped.set()
        sender.join()
        tell("the load has ended")
        cut_off = self.cut_off() - before
        self.that("the instance leaves, comes back and serves", is_back)
        self.that("requests were at the engine when it died", cut_off > 0, f"{cut_off:.0f} attempts were cut off")
        self.judge(load)
        if screenshot.take(self.router.address, f"{self.options.out}/dashboard.png", self.work):
            print(f"  the dashboard: {self.options.out}/dashboard.png")
        else:
            print("  SKIPPED: a picture of the dashboard; no chromium on the path, or it made none")

    def die_and_return(self, tell):
        time.sleep(3)
        state = lambda engine: self.router.instance(engine)
        busy = lambda: next((engine for engine in self.engines if state(engine)["requests_under_way"] >= 2), None)
        victim = until("an engine has work", busy, PATIENCE_S)
        victim.kill()
        tell(f"kill -9 of {victim.name}, which had at least 2 requests")
        until("it has left the fleet", lambda: state(victim)["state"] == "not-ready", PATIENCE_S)
        tell("it has left the fleet")
        victim.start()
        tell("it is started again")
        until("it is healthy", victim.is_healthy, 2 * PATIENCE_S)
        tell("it answers /health")
        until("it is back in the fleet", lambda: state(victim)["state"] == "ready", PATIENCE_S)
        tell("it is back in the fleet")
        until("it serves", lambda: samples(victim.address)["vllm:generation_tokens_total"], PATIENCE_S)
        tell("it makes tokens")

    def judge(self, load):
        """Only a stream that had begun, and may not go on elsewhere, may end with an error."""
        for (kind, outcome), count in sorted(load.outcomes.items()):
            print(f"  {count:>5}  {kind}: {outcome}  {load.complaints[kind, outcome][:120]}")
        sent, finished = len(load.threads), load.count("finished")
        interrupted = sum(load.outcomes[kind, "error event"] for kind in ("stream", "resumable stream"))
        lost = sent - finished - interrupted
        numbers = f"{sent} sent, {finished} finished, {interrupted} streams ended with an error event, {lost} lost"
        self.that("no request that could be tried again has failed", sent > 0 and lost == 0, numbers)
        outcomes = {outcome: count for (kind, outcome), count in load.outcomes.items() if kind == "resumable stream"}
        numbers = f"{outcomes.get('finished', 0)} of {sum(outcomes.values())} finished"
        self.that("streams that may go on elsewhere do", set(outcomes) == {"finished"}, numbers)

    def decisions(self):
        """The log, decided again offline."""
        print("\nThe log of decisions")
        self.idle()
        code = self.router.stop()
        self.that("lodestar serve ends as it should", code == 0, f"exit code {code}")
        (log,) = pathlib.Path(self.options.out, "decisions").glob("decisions-*.jsonl")
        result = subprocess.run([self.options.lodestar, "evaluate", log], capture_output=True, text=True, timeout=2 * PATIENCE_S)
        said = re.search(r"(\d+) of (\d+) decisions are equal", result.stdout)
        good = result.returncode == 0 and said and said[1] == said[2] != "0"
        self.that("all decisions are repeated offline", good, said[0] if said else (result.stdout + result.stderr).strip()[:200])

    def run(self):
        for step in (self.clients, self.kv_events, self.policies, self.gaps, self.kill, self.decisions):
            try:
                step()
            except Exception as error:  # One step that ends early must not hide what the others find.
                self.that(f"{step.__name__} runs to its end", False, f"{error!r}")
        return all(holds for _, holds, _ in self.found)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["real", "mock"], required=True)
    parser.add_argument("--lodestar", required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(129))
    options.out = str(pathlib.Path(options.out).resolve())
    options.lodestar = str(pathlib.Path(options.lodestar).resolve())
    shutil.rmtree(f"{options.out}/decisions", ignore_errors=True)
    for log in pathlib.Path(options.out).glob("*.log"):
        log.unlink()
    mode = Mock if options.mode == "mock" else Vllm
    with contextlib.ExitStack() as running:
        work = running.enter_context(tempfile.TemporaryDirectory(prefix="lodestar-"))
        tokens = mode.prepare(options)
        print(f"Three {'mock engines' if mode.is_mock else 'vLLM servers'} and lodestar serve; logs in {options.out}", flush=True)
        engines = []
        for index in range(3):
            engines.append(Engine(index, mode, options, work))
            running.callback(engines[-1].stop)
            # One after the other: each needs the whole machine to start.
            until(f"engine {index} is healthy", engines[-1].is_healthy, 2 * PATIENCE_S)
        router = Router(mode, options, engines, tokens)
        running.callback(router.stop)
        ready = lambda: all(one["state"] == "ready" for one in router.overview()["instances"])
        until("all engines are in the fleet", ready, PATIENCE_S)
        check = Check(options, mode, router, engines, work)
        good = check.run()
        print(f"\n{sum(holds for _, holds, _ in check.found)} of {len(check.found)} checks passed")
        print("\n".join(f"FAIL  {what}  {numbers}" for what, holds, numbers in check.found if not holds))
    sys.exit(not good)


main()
