"""The processes: engines, which may be killed and started again, and the router in front of them."""

import collections
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import time

TOKEN = "real-vllm-admin-token"


def ask(address, method, path, fields=None, headers=None, timeout_s=120):
    """Status and body of an answer."""
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        body = None if fields is None else json.dumps(fields)
        connection.request(method, path, body, {"content-type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def page(address, path, method="GET", fields=None):
    """The body of an answer that must be good, as text."""
    status, body = ask(address, method, path, fields, {"authorization": f"Bearer {TOKEN}"})
    if status != 200:
        raise ValueError(f"{method} {path}: {status} {body[:200]!r}")
    return body.decode()


def samples(address):
    """The page of metrics: sums by name, and by name with one label's value, as `attempts_total:failed`."""
    sums = collections.Counter()
    for line in page(address, "/metrics").splitlines():
        if line and not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            name, _, labels = name.partition("{")
            sums[name] += float(value)
            for label in re.findall(r'="([^"]*)"', labels):
                sums[f"{name}:{label}"] += float(value)
    return sums


def until(what, holds, timeout_s):
    """Waits for something; the limit is for what never comes, not for what is slow."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if result := holds():
                return result
        except (OSError, http.client.HTTPException):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not in {timeout_s} s")
        time.sleep(0.1)


def free_ports(count):
    """The first of neighbours that nobody uses, below those that systems give to outgoing connections: an engine that is
    started again has the same."""
    while True:
        first = random.randrange(20_000, 30_000)
        try:
            for port in range(first, first + count):
                with socket.socket() as probe:
                    probe.bind(("", port))
            return first
        except OSError:
            pass


class Server:
    """A process with a group of its own, since vLLM has children."""

    def __init__(self, name, command, log, environment=None):
        self.name, self.command, self.log, self.environment = name, command, log, environment
        self.process, self.shared = None, set()
        self.start()

    def start(self):
        self.is_over = False
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment,
                start_new_session=True,
            )

    def shared_memory(self):
        """Files that vLLM's processes share, which stay if nobody is left to delete them."""
        for maps in pathlib.Path("/proc").glob("[0-9]*/maps"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(maps.parent.name)) == self.process.pid:
                    self.shared.update(re.findall(r"/dev/shm/psm_\w+", maps.read_text()))

    def kill(self):
        """All that is left of it. The group's number may be somebody else's afterwards."""
        if self.is_over:
            return
        self.is_over = True
        self.shared_memory()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        while self.shared:
            pathlib.Path(self.shared.pop()).unlink(missing_ok=True)

    def stop(self):
        """Its exit code; whatever does not end in time is killed, children that are left too."""
        if self.is_over:
            return self.process.returncode
        self.shared_memory()
        try:
            self.process.send_signal(signal.SIGTERM)
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            code = None
        self.kill()
        return code

    def check_alive(self):
        if self.process.poll() is not None:
            tail = pathlib.Path(self.log).read_text(errors="replace")[-2000:]
            raise SystemExit(f"error: {self.name} ended with {self.process.returncode}; {self.log} ends with\n{tail}")
        return True


class Engine(Server):
    """Serves on three ports: HTTP, KV events, replays of these."""

    def __init__(self, index, mode, options, work):
        self.port = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.address}"
        events = f"tcp://127.0.0.1:{self.port + 1}"
        replay = f"tcp://127.0.0.1:{self.port + 2}"
        self.entry = f'{{ url = "{self.url}", kv_events = "{events}", kv_replay = "{replay}" }}'
        command = mode.command(options, work, self.port)
        super().__init__(f"engine {index}", command, f"{options.out}/engine-{index}.log", mode.environment(work))

    def is_healthy(self):
        self.check_alive()
        return ask(self.address, "GET", "/health", timeout_s=5)[0] == 200


class Vllm:
    """Real servers. Times say nothing of real models: this one is tiny, and the three share a few cores."""

    model, block_tokens, is_mock = "tiny", 32, False
    # Of the load with repeated prefixes: requests a second, prefixes, requests (as many of each prefix). A third of the prefixes
    # fits in a cache (32,736 tokens), and not all of them. And requests a second while an engine starts, which needs the cores too.
    rate, prefixes, requests = 6, 40, 320
    kill_rate = 2

    @staticmethod
    def command(options, work, port):
        events = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            # `*`, since vLLM would connect to an address and not listen there.
            "endpoint": f"tcp://*:{port + 1}",
            "replay_endpoint": f"tcp://*:{port + 2}",
        }
        # A CPU wants blocks of 32. With bfloat16 a prompt of one token ends the process on some CPUs.
        return [
            f"{pathlib.Path(sys.executable).parent}/vllm", "serve", f"{options.out}/model", "--served-model-name", Vllm.model,
            "--host", "127.0.0.1", "--port", str(port), "--load-format", "dummy", "--dtype", "float32", "--enforce-eager",
            "--block-size", str(Vllm.block_tokens), "--num-gpu-blocks-override", "1024", "--max-model-len", "4096",
            "--max-num-seqs", "64", "--enable-prefix-caching", "--enable-prompt-tokens-details",
            "--kv-events-config", json.dumps(events),
        ]  # fmt: skip

    @staticmethod
    def environment(work):
        return os.environ | {
            "TMPDIR": work,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            # One thread a server: three of them share the cores with the client.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_LOOPBACK_IP": "127.0.0.1",
        }

    @staticmethod
    def prepare(options):
        """Makes the model and answers how the router cuts prompts as it does."""
        from tiny_model import make

        make(f"{options.out}/model")
        return 'tokenizer = "model/tokenizer.json"\nchat_template = "model/tokenizer_config.json"\n'


class Mock:
    """What looks like it."""

    model, block_tokens, is_mock = "llama-3.1-8b", 16, True
    rate, prefixes, requests = 20, 40, 160
    kill_rate = 5

    @staticmethod
    def command(options, work, port):
        return [
            options.lodestar, "mock-engine", "--gpu", "a100", "--model", Mock.model, "--port", str(port),
            "--kv-events", str(port + 1), "--time-scale", "2",
        ]  # fmt: skip

    @staticmethod
    def environment(work):
        return None

    @staticmethod
    def prepare(options):
        """Mock engines have no tokenizer that could be read."""
        return "engine_tokenizer = true\n"


class Router(Server):
    """`lodestar serve`."""

    def __init__(self, mode, options, engines, tokens):
        out = pathlib.Path(options.out)
        listed = "".join(f"    {engine.entry},\n" for engine in engines)
        (out / "admin-token").write_text(TOKEN)
        (out / "serve.toml").write_text(
            f'listen = "127.0.0.1:0"\ninstances = [\n{listed}]\nadmin.token_file = "admin-token"\n\n[router]\n'
            f'policy = {{ name = "lodestar" }}\nblock_tokens = {mode.block_tokens}\n{tokens}log = "decisions"\n'
        )
        super().__init__("lodestar serve", [options.lodestar, "serve", "--config", out / "serve.toml"], out / "serve.log")
        said = lambda: self.check_alive() and re.search(r"listening on (\S+)", (out / "serve.log").read_text())
        self.address = until("`lodestar serve` listens", said, 60)[1]

    def overview(self):
        return json.loads(page(self.address, "/lodestar/admin/overview"))

    def instance(self, engine):
        return next(one for one in self.overview()["instances"] if one["url"].rstrip("/") == engine.url)
