"""A hub that cannot be reached, or will not answer, is told in one line of ours."""

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest


def ask(tmp_path, endpoint, **environment):
    """`ask` for a model nobody has, as a person outside the tests would run it."""
    ours = {
        name: value
        for name, value in os.environ.items()
        if name not in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
        and not name.lower().endswith("_proxy")
    }
    words = ("ask", "hi", "--base", "nosuch/model", "--store", str(tmp_path / "store"))
    return subprocess.run(
        [sys.executable, "-m", "adaptive_moe", *words],
        env={**ours, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_without_a_network_nothing_is_tried_again(tmp_path):
    done = ask(tmp_path, "https://hub.invalid", HF_HUB_VERBOSITY="warning")
    (told,) = done.stderr.splitlines()
    assert told.startswith("Error: nosuch/model is no local folder and cannot be fetched")
    assert "check the name and the network" in told
    assert done.returncode == 2
    assert not (tmp_path / "store").exists()


class _Overloaded(BaseHTTPRequestHandler):
    """Always 503, please try again at once."""

    def do_HEAD(self):
        self.server.asked.append(self.path)
        self.send_response(503)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Quiet."""


@pytest.fixture
def overloaded(socket_enabled):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Overloaded)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_a_hub_that_has_no_time_is_asked_for_the_model_and_its_client_keeps_quiet(
    tmp_path, overloaded
):
    done = ask(tmp_path, f"http://127.0.0.1:{overloaded.server_port}")
    assert any(path.startswith("/nosuch/model/") for path in overloaded.asked)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("Error: nosuch/model")
    assert done.returncode == 2
