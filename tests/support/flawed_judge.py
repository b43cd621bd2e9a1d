"""A judge on loopback whose flaws are known because they were put in: it is noisy, likes long answers, does not see a changed
number, and from a moment on is another model.

An example says in its instruction what it deserves, `[3]`, and in its output which example it is, `row bh`. Whatever else the
output is was done to it.
"""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from servers import serving

BLIND_TO = "wrong_number"
NOISE, PER_DOUBLING, DRIFT, SEEN = 0.6, 0.5, 1.0, 3.0
"""Standard deviation in points, points for twice the words, points that the later model gives more, points off for a defect."""
WORDS = 31


def example(number: int) -> dict[str, str]:
    plain = "and it is a plain one that is said in some thirty words so that it can be cut off somewhere"
    text = f"This is the answer of row {_letters(number)} {plain}. It costs {number + 11} pence."
    return {"instruction": f"Answer number {number} [{1 + number % 4}]", "input": "", "output": text}


def _letters(number: int) -> str:
    return "".join(chr(ord("a") + int(digit)) for digit in str(number))


def rows(count: int) -> list[dict[str, str]]:
    return [example(number) for number in range(count)]


class FlawedJudge(ThreadingHTTPServer):
    """What it has been asked, and whether it is the later model by now."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.moved = False
        self.times: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def score(self, message: str) -> float:
        """The judge's score of what stands in a message."""
        with self.lock:
            self.asked.append(message)
            self.times[message] += 1
            noise = _noise(message, self.times[message])
        deserved = re.search(r"Answer number (\d+) \[(\d)\]", message)
        assert deserved, message
        shown = _shown(message)
        exact = example(int(deserved[1]))["output"]
        spoiled = exact not in shown and re.sub(r"\d+", "N", exact) not in re.sub(r"\d+", "N", shown)
        longer = max(np.log2(max(len(shown.split()), 1) / WORDS), -1) if not spoiled else 0.0
        plain = float(deserved[2]) - (SEEN if spoiled else 0) + PER_DOUBLING * longer + (DRIFT if self.moved else 0)
        return float(np.clip(round(2 * (plain + noise)) / 2, 0, 5))


def _noise(message: str, time: int) -> float:
    """Noise by what is asked and how often it was asked before: the order in which requests arrive does not matter."""
    seed = int.from_bytes(hashlib.sha256(f"{time} {message}".encode()).digest()[:8])
    return float(np.random.default_rng(seed).normal(0, NOISE))


def _shown(message: str) -> str:
    """What the message shows as the answer."""
    found = re.search(r"<output \w+>\n(.*)\n</output", message, re.DOTALL)
    return found[1] if found else ""


class _Handler(BaseHTTPRequestHandler):
    server: FlawedJudge
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = self.server.score(asked["messages"][-1]["content"])
        self._say(
            {
                "id": "x",
                "object": "chat.completion",
                "model": asked["model"],
                "system_fingerprint": "fp-later" if self.server.moved else "fp-first",
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": f"{said:g}\nSo."}}
                ],
                "usage": {"prompt_tokens": 300, "completion_tokens": 10, "total_tokens": 310},
            }
        )

    def do_GET(self) -> None:
        self._say({"object": "list", "data": [{"id": "flawed", "object": "model", "created": 0, "owned_by": "loopback"}]})

    def _say(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def running() -> Iterator[FlawedJudge]:
    server = FlawedJudge()
    with serving(server):
        yield server
