"""A real vLLM server with a real, tiny model, started once for all tests here."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

START_LIMIT_S = 240


@pytest.fixture(autouse=True)
def _ray(local_ray: None) -> None:
    """All tests here run on the one local Ray."""


@pytest.fixture(scope="session")
def vllm_server(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an OpenAI-compatible server by vLLM; the model's context is 2,048 tokens."""
    pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(shared / "tiny_llama")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "2048"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as stream:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        _wait(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def _wait(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(START_LIMIT_S):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"the vLLM server did not start in {START_LIMIT_S} s:\n{log.read_text()[-3000:]}")
