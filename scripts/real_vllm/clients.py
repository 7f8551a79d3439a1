"""What a client does, with `openai`'s Python client or, where there is none, with one of our own; and a load of many requests."""

import collections
import http.client
import itertools
import json
import math
import random
import threading
import time

from servers import ask


class OpenAi:
    """The `openai` package."""

    def __init__(self, address, model):
        import openai

        self.model, self.name = model, f"openai {openai.__version__}"
        self.client = openai.OpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0, timeout=120)

    def models(self):
        return [one.id for one in self.client.models.list()]

    def chat(self, messages, tokens):
        answer = self.client.chat.completions.create(
            model=self.model, messages=messages, max_tokens=tokens, extra_body={"ignore_eos": True}
        )
        return answer.choices[0].message.content, answer.usage.completion_tokens

    def streamed_chat(self, messages, tokens):
        """Events with text; hangs up when it is closed."""
        stream = self.client.chat.completions.create(
            model=self.model, messages=messages, max_tokens=tokens, stream=True, extra_body={"ignore_eos": True}
        )
        with stream:
            for event in stream:
                if event.choices and event.choices[0].delta.content:
                    yield event.choices[0].delta.content

    def completion(self, prompt, tokens):
        answer = self.client.completions.create(model=self.model, prompt=prompt, max_tokens=tokens, extra_body={"ignore_eos": True})
        return answer.choices[0].text, answer.usage.completion_tokens


class Plain:
    """The same with Python's own library."""

    name = "python3"

    def __init__(self, address, model):
        self.address, self.model = address, model

    def models(self):
        _, body = ask(self.address, "GET", "/v1/models")
        return [one["id"] for one in json.loads(body)["data"]]

    def post(self, path, fields):
        status, body = ask(self.address, "POST", path, {"model": self.model, "ignore_eos": True, **fields})
        if status != 200:
            raise ValueError(f"{path}: {status} {body[:200]!r}")
        return json.loads(body)

    def chat(self, messages, tokens):
        answer = self.post("/v1/chat/completions", {"messages": messages, "max_tokens": tokens})
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    def streamed_chat(self, messages, tokens):
        fields = {"model": self.model, "messages": messages, "max_tokens": tokens, "stream": True, "ignore_eos": True}
        for event in events(self.address, "/v1/chat/completions", fields):
            if event["choices"] and (text := event["choices"][0]["delta"].get("content")):
                yield text

    def completion(self, prompt, tokens):
        answer = self.post("/v1/completions", {"prompt": prompt, "max_tokens": tokens})
        return answer["choices"][0]["text"], answer["usage"]["completion_tokens"]


class Refused(Exception):
    """An answer that is none."""


def events(address, path, fields, headers=None):
    """The events of a stream, each as JSON; hangs up when it is closed."""
    connection = http.client.HTTPConnection(address, timeout=120)
    try:
        connection.request("POST", path, json.dumps(fields), {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        if response.status != 200:
            raise Refused(f"{response.status} {response.read()[:200]!r}")
        for line in response:
            if line == b"data: [DONE]\n":
                return
            if line.startswith(b"data: "):
                yield json.loads(line[len(b"data: ") :])
        raise Refused("a stream without an end")
    finally:
        connection.close()


class Load:
    """Completions that are sent when they are due, whatever has been answered. `outcomes` counts (kind, what became of it)."""

    KINDS = ("stream", "resumable stream", "whole")

    def __init__(self, address, model, seed):
        self.address, self.model = address, model
        self.random = random.Random(seed)
        self.outcomes = collections.Counter()
        self.complaints = {}
        self.ttfts_s = []
        self.lock = threading.Lock()
        self.threads = []
        self.stopped = threading.Event()

    def stream(self, kind, fields):
        headers = {"x-lodestar-resume": "1"} if kind == "resumable stream" else {}
        fields = {**fields, "stream": True, "stream_options": {"include_usage": True}}
        began, tokens, used = time.monotonic(), 0, None
        try:
            for event in events(self.address, "/v1/completions", fields, headers):
                if "error" in event:
                    return "error event" if tokens else "error before the first token", str(event["error"])
                if event["choices"] and tokens == 0:
                    with self.lock:
                        self.ttfts_s.append(time.monotonic() - began)
                tokens += len(event["choices"])
                used = event.get("usage") or used
        except Refused as error:
            return "broken off" if tokens else "refused", str(error)
        done = used and used["completion_tokens"] == fields["max_tokens"]
        return ("finished", "") if done else ("wrong", f"{used} of {fields['max_tokens']} tokens")

    def whole(self, fields):
        status, body = ask(self.address, "POST", "/v1/completions", fields)
        if status != 200:
            return "refused", f"{status} {body[:200]!r}"
        used = json.loads(body)["usage"]["completion_tokens"]
        return ("finished", "") if used == fields["max_tokens"] else ("wrong", f"{used} tokens")

    def request(self, kind, prompt, tokens):
        fields = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True}
        try:
            outcome, complaint = self.whole(fields) if kind == "whole" else self.stream(kind, fields)
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome, complaint = "broken", repr(error)
        with self.lock:
            self.outcomes[kind, outcome] += 1
            self.complaints.setdefault((kind, outcome), complaint)

    def send(self, rate, requests):
        """Sends (kind, prompt, tokens) at this mean rate, until they or `stop` end it, and waits for the answers."""
        for request in requests:
            if self.stopped.wait(self.random.expovariate(rate)):
                break
            thread = threading.Thread(target=self.request, args=request, daemon=True)
            thread.start()
            self.threads.append(thread)
        for thread in self.threads:
            thread.join(150)

    def ids(self, count):
        """Token ids that every model here has."""
        return [self.random.randrange(100, 8000) for _ in range(count)]

    def mixed(self):
        """All kinds for ever, long enough to be met in the middle."""
        for kind in itertools.cycle(self.KINDS):
            yield kind, self.ids(self.random.randrange(50, 300)), 300

    def prefixes(self, prefixes, requests):
        """Streams whose prompts begin in one of few ways, as `vllm bench serve` has them."""
        beginnings = [self.ids(1024) for _ in range(prefixes)]
        order = [beginnings[index % prefixes] for index in range(requests)]
        self.random.shuffle(order)
        return (("stream", beginning + self.ids(64), 16) for beginning in order)

    def count(self, outcome):
        return sum(self.outcomes[kind, outcome] for kind in self.KINDS)

    def ttft_ms(self):
        """Mean and 99th percentile."""
        ordered = sorted(self.ttfts_s)
        return 1e3 * sum(ordered) / len(ordered), 1e3 * ordered[math.ceil(0.99 * len(ordered)) - 1]
