"""A real vLLM server with a real, tiny model, started once for all tests here."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_head import free_ports
from servers import wait_until_it_answers

START_LIMIT_S = 240


@pytest.fixture(autouse=True)
def _ray(local_ray: None) -> None:
    """All tests here run on the one local Ray."""


@pytest.fixture(scope="session")
def vllm_server(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of an OpenAI-compatible server by vLLM; the model's context is 2,048 tokens."""
    pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
    [port] = free_ports(1)
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(shared / "tiny_llama")]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "2048"]
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("w") as stream:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        server = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT, env=environment)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/health", server, log, START_LIMIT_S)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)
