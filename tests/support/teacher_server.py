"""A service that speaks OpenAI's chat completions on 127.0.0.1, and does as a test tells it."""

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = tuple[int, dict[str, str], bytes]


def completion(text: str) -> Reply:
    """A reply as such services write it."""
    message = {"role": "assistant", "content": text}
    return 200, {}, json.dumps({"choices": [{"index": 0, "message": message}]}).encode()


def status(code: int, said: str = "", **headers: str) -> Reply:
    """A refusal; header names with _ for -."""
    return code, {name.replace("_", "-"): value for name, value in headers.items()}, said.encode()


class TeacherServer(ThreadingHTTPServer):
    """Gives the replies of `script` one after the other, then whatever `speak` makes of a prompt.

    `bodies` and `keys` are what was asked so far; `at_once` is how many requests were under way
    together at most.
    """

    daemon_threads = True

    def __init__(self, speak: Callable[[str], str] = lambda _: "", script: tuple[Reply, ...] = ()):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.speak, self.script = speak, list(script)
        self.bodies: list[dict] = []
        self.keys: list[str | None] = []
        self.under_way = self.at_once = 0
        self.lock = threading.Lock()
        self.slow = threading.Event()  # while it is set, nobody gets a reply
        self.go_on = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def close(self) -> None:
        self.go_on.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: TeacherServer

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.bodies.append({"path": self.path, **body})
            server.keys.append(self.headers.get("Authorization"))
            server.under_way += 1
            server.at_once = max(server.at_once, server.under_way)
            scripted = server.script.pop(0) if server.script else None
        if server.slow.is_set():
            server.go_on.wait(20)
        reply = scripted or completion(server.speak(body["messages"][-1]["content"]))
        with server.lock:
            server.under_way -= 1
        code, headers, content = reply
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Quiet."""

    def handle(self):
        with contextlib.suppress(OSError):  # whoever asked has left
            super().handle()
