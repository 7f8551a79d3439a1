"""Load for `lodestar serve` in front of engines that fail, and what must be true at the end. See scripts/soak.sh."""

import argparse
import asyncio
import collections
import csv
import json
import pathlib
import random
import re
import statistics
import subprocess
import sys
import time

from faults import FaultyEngine

MODEL = "llama-3.1-8b"
TOKEN = "soak-admin-token-0123"
# Kinds of requests and how frequent they are.
KINDS = {"stream": 40, "resumed": 20, "whole": 20, "cancelled": 10, "long": 10}
# A request that has no outcome by then is lost.
LOST_S = 120
# All must have ended so long after the last one.
SETTLE_S = 60
# What RSS may grow by after the first third.
GROWTH = 0.10
GROWTH_MIB = 16
# Outcomes that a client may see although somebody was well: the answer had begun, or the client left.
AFTER_FIRST_BYTE = {"finished", "error event", "broken off", "garbled", "cancelled"}


async def fetch(port, path, method="GET", body=b"", headers=""):
    """Status, and an iterator over the pieces of the body as they come."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (
        f"{method} {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        f"content-type: application/json\r\n{headers}\r\n"
    )
    writer.write(head.encode() + body)
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except BaseException:
        # Who hangs up does so at once.
        writer.transport.abort()
        raise
    status = int(head.split(" ", 2)[1])
    length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)

    async def pieces():
        if length:
            yield await reader.readexactly(int(length[1]))
            return
        if "chunked" not in head.lower():
            raise ValueError("an answer of unknown length")
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            yield await reader.readexactly(size)
            await reader.readexactly(2)

    return status, pieces(), writer


async def page(port, path):
    status, pieces, writer = await fetch(port, path, headers=f"authorization: Bearer {TOKEN}\r\n")
    text = b"".join([piece async for piece in pieces]).decode()
    writer.close()
    if status != 200:
        raise ValueError(f"{path}: {status} {text}")
    return text


def samples(text):
    """Sums of a page of metrics by name and by name with labels."""
    sums = collections.Counter()
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            sums[name] += float(value)
            if "{" in name:
                sums[name.split("{")[0]] += float(value)
    return sums


class Load:
    """Sends requests when they are due, whatever has been answered."""

    def __init__(self, port, seed):
        self.port = port
        self.random = random.Random(seed)
        self.outcomes = collections.Counter()
        self.complaints = {}
        self.sent = 0

    def body(self, kind):
        tokens = self.random.randrange(1, 120)
        words = self.random.randrange(4000, 8000) if kind == "long" else self.random.randrange(5, 800)
        # Some prompts begin alike.
        group = random.Random(self.random.randrange(20))
        prompt = [group.randrange(30_000) for _ in range(words // 2)]
        prompt += [self.random.randrange(30_000) for _ in range(words // 2 + 1)]
        if self.random.random() < 0.3:
            prompt = " ".join(map(str, prompt[:2000]))
        fields = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        if self.random.random() < 0.3:
            fields["user"] = f"user-{self.random.randrange(50)}"
        if kind != "whole":
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        return fields

    async def request(self, kind):
        fields = self.body(kind)
        patience = self.random.uniform(0, 0.5) if kind == "cancelled" else LOST_S
        try:
            outcome, complaint = await asyncio.wait_for(self.exchange(kind, fields), patience)
        except TimeoutError:
            outcome, complaint = ("cancelled" if kind == "cancelled" else "lost"), ""
        except (OSError, EOFError) as error:
            outcome, complaint = "refused", repr(error)
        self.outcomes[kind, outcome] += 1
        self.complaints.setdefault((kind, outcome), complaint)

    async def exchange(self, kind, fields):
        headers = "x-lodestar-resume: 1\r\n" if kind == "resumed" else ""
        body, writer = json.dumps(fields).encode(), None
        try:
            status, pieces, writer = await fetch(self.port, "/v1/completions", "POST", body, headers)
            if status != 200:
                text = b"".join([piece async for piece in pieces]).decode("utf-8", "replace")
                return f"status {status}", text
            try:
                text = b"".join([piece async for piece in pieces])
            except (OSError, EOFError) as error:
                return "broken off", repr(error)
        finally:
            if writer is not None:
                writer.transport.abort()
        return self.judge(fields, text)

    def judge(self, fields, text):
        """A whole answer must be one."""
        if "stream" not in fields:
            try:
                used = json.loads(text)["usage"]["completion_tokens"]
            except ValueError as error:
                # Noise of the right length passes, since the proxy changes no byte.
                return "garbled", repr(error)
            return ("finished", "") if used == fields["max_tokens"] else ("wrong", f"{used} tokens")
        events = [event[len(b"data: ") :] for event in text.split(b"\n\n") if event]
        if not events or events[-1] != b"[DONE]":
            return "wrong", f"ends with {text[-100:]!r}"
        try:
            events = [json.loads(event) for event in events[:-1]]
        except ValueError as error:
            # The network has made noise of an event and nobody else; then there is an error after it.
            return ("error event" if b'"error"' in text else "wrong"), repr(error)
        if "error" in events[-1]:
            # Before the first token it could have been served elsewhere.
            has_begun = any(event.get("choices") for event in events)
            return "error event" if has_begun else "error before the first token", events[-1]["error"]["message"]
        made = sum(len(event["choices"]) for event in events)
        used = events[-1]["usage"]["completion_tokens"]
        if not made == used == fields["max_tokens"]:
            return "wrong", f"{made} events, {used} used, {fields['max_tokens']} asked for"
        return "finished", ""

    async def run(self, rate, until):
        tasks = set()
        while time.monotonic() < until:
            await asyncio.sleep(self.random.expovariate(rate))
            (kind,) = self.random.choices(list(KINDS), KINDS.values())
            self.sent += 1
            task = asyncio.create_task(self.request(kind))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)


def rss_mib(pid):
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


async def watch(serve, port, out, rows):
    """A row each second, until it is cancelled."""
    began = time.monotonic()
    with open(out / "soak.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["seconds", "rss_mib", "instances", "under_way", "waiting", "attempts"])
        while True:
            try:
                now = samples(await page(port, "/metrics"))
            except (OSError, EOFError) as error:
                print(f"/metrics: {error!r}")
                now = collections.Counter()
            under_way = now["lodestar_prefill_requests"] + now["lodestar_decode_requests"]
            numbers = [now["lodestar_instances"], under_way, now["lodestar_waiting_requests"]]
            numbers.append(now["lodestar_attempts_total"])
            row = [time.monotonic() - began, rss_mib(serve.pid), *numbers]
            rows.append(row)
            writer.writerow([f"{number:.6g}" for number in row])
            file.flush()
            await asyncio.sleep(1)


async def settled(port, engines):
    """What is still owed when nobody asks for anything any more."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        now = samples(await page(port, "/metrics"))
        names = ["prefill_requests", "decode_requests", "context_tokens", "waiting_requests"]
        owed = {name: now[f"lodestar_{name}"] for name in names}
        instances = json.loads(await page(port, "/lodestar/admin/instances"))["instances"]
        owed["requests_under_way"] = sum(one["requests_under_way"] for one in instances)
        pages = [samples(await page(int(engine.rsplit(":", 1)[1]), "/metrics")) for engine in engines]
        busy = ["vllm:num_requests_running", "vllm:num_requests_waiting"]
        owed["at engines"] = sum(page[name] for page in pages for name in busy)
        owed = {name: amount for name, amount in owed.items() if amount}
        if not owed or time.monotonic() > deadline:
            return owed, now
        await asyncio.sleep(0.5)


def growth(rows):
    """RSS after the first third and at the end, as medians of a tenth of the time."""
    tenth, third = max(len(rows) // 10, 1), len(rows) // 3
    middle = lambda part: statistics.median(row[1] for row in part)
    return middle(rows[third : third + tenth]), middle(rows[-tenth:])


async def start(options, urls, out):
    listed = ", ".join(f'{{ url = "{url}" }}' for url in urls)
    (out / "admin-token").write_text(TOKEN)
    (out / "learned.json").unlink(missing_ok=True)
    (out / "serve.toml").write_text(
        f'listen = "127.0.0.1:0"\ninstances = [{listed}]\nadmin.token_file = "admin-token"\n'
        'router = { policy = { name = "lodestar" }, checkpoint = "learned.json" }\n'
        "limits = { idle_s = 5, stall_s = 10 }\n"
    )
    log = open(out / "serve.log", "w")
    command = [options.lodestar, "serve", "--config", out / "serve.toml"]
    serve = subprocess.Popen(command, stderr=log)
    for _ in range(300):
        said = (out / "serve.log").read_text()
        if found := re.search(r"listening on \S+:(\d+)", said):
            return serve, int(found[1])
        await asyncio.sleep(0.1)
    serve.kill()
    sys.exit(f"error: serve does not listen; see {out}/serve.log")


def verdict(load, faulty, rows, owed, last, code):
    """Prints what was seen, and answers what is wrong."""
    print(f"{'request':<12}{'outcome':<14}{'count':>8}   first complaint")
    for (kind, outcome), count in sorted(load.outcomes.items()):
        complaint = load.complaints[kind, outcome]
        print(f"{kind:<12}{outcome:<14}{count:>8}   {complaint[:90]}")
    counts = sum((collections.Counter(one.counts) for one in faulty), collections.Counter())
    print("faults:", ", ".join(f"{count} {name}" for name, count in counts.items()))
    attempts = {name: last[f'lodestar_attempts_total{{outcome="{name}"}}'] for name in ("finished", "failed", "aborted")}
    print("attempts:", ", ".join(f"{count:.0f} {name}" for name, count in attempts.items()))
    early, late = growth(rows)
    highest = max(row[1] for row in rows)
    print(f"RSS: {early:.1f} MiB after a third, {late:.1f} MiB at the end, {highest:.1f} MiB at most")
    wrong = []
    answered = sum(load.outcomes.values())
    if answered != load.sent:
        wrong.append(f"{load.sent} requests were sent and {answered} have an outcome")
    for (kind, outcome), count in sorted(load.outcomes.items()):
        if outcome not in AFTER_FIRST_BYTE:
            wrong.append(f"{count} of `{kind}`: {outcome}; an instance was well all the time")
    if owed:
        wrong.append(f"still owed after {SETTLE_S} s: {owed}")
    if sum(attempts.values()) != last["lodestar_decisions_total"]:
        wrong.append(f"{last['lodestar_decisions_total']:.0f} decisions, {attempts} attempts")
    if late > early + max(GROWTH * early, GROWTH_MIB):
        wrong.append(f"RSS has grown by {late - early:.1f} MiB")
    if code != 0:
        wrong.append(f"serve ended with {code}")
    return wrong


async def soak(options):
    out = pathlib.Path(options.out)
    faulty = [FaultyEngine(engine, options.seed + n) for n, engine in enumerate(options.engines[1:])]
    for one in faulty:
        await one.listen()
    urls = [f"http://{options.engines[0]}"] + [f"http://127.0.0.1:{one.port}" for one in faulty]
    serve, port = await start(options, urls, out)
    try:
        async with asyncio.timeout(30):
            while samples(await page(port, "/metrics"))["lodestar_instances"] < len(urls):
                await asyncio.sleep(0.1)
        rows, load = [], Load(port, options.seed)
        watching = asyncio.create_task(watch(serve, port, out, rows))
        troubles = [asyncio.create_task(one.misfortunes()) for one in faulty]
        await load.run(options.rate, time.monotonic() + 60 * options.minutes)
        for one in faulty:
            one.is_calm = True
            one.thawed.set()
        owed, last = await settled(port, options.engines)
        for task in troubles:
            if task.done() and task.exception():
                raise task.exception()
        for task in [watching, *troubles]:
            task.cancel()
        serve.terminate()
        code = await asyncio.to_thread(serve.wait, 30)
    finally:
        serve.kill()
    wrong = verdict(load, faulty, rows, owed, last, code)
    print("\n".join(f"WRONG: {one}" for one in wrong) or f"ok: {load.sent} requests; {out}/soak.csv has a row each second")
    return 1 if wrong else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lodestar", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("engines", nargs="+")
    sys.exit(asyncio.run(soak(parser.parse_args())))


main()
