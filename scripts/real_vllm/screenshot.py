"""A picture of the dashboard, by a Chromium without a screen."""

import http.server
import pathlib
import shutil
import subprocess
import threading

from servers import TOKEN, ask

PAGE = "/lodestar/dashboard"


def take(address, picture, work):
    """Whether there is a Chromium that could. A page asks for the token, so that somebody in between types it."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        return False

    class Between(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            status, body = ask(address, "GET", self.path, headers={"authorization": self.headers.get("authorization", "")})
            if self.path == PAGE:
                key = f'<script>sessionStorage.setItem("lodestar-token", "{TOKEN}")</script>'
                body = body.replace(b"<head>", b"<head>" + key.encode(), 1)
            self.send_response(status)
            self.send_header("content-type", "text/html; charset=utf-8" if self.path == PAGE else "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Between) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,2200",
            "--virtual-time-budget=5000", f"--user-data-dir={work}/chromium", f"--screenshot={picture}",
            f"http://127.0.0.1:{server.server_port}{PAGE}",
        ]  # fmt: skip
        try:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=120, check=False)
        except subprocess.TimeoutExpired:
            pass
        server.shutdown()
    return pathlib.Path(picture).exists()
