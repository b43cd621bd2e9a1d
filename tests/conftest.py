"""What all tests share: real data where it is, a quiet environment, a judge on loopback."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from loopback import JudgeStarter

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE", "OPENAI_BASE_URL", "RAY_ADDRESS", "ALPAGASUS_DEBUG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The real test data; its INDEX.md says what is there."""
    if not (SHARED / "INDEX.md").exists():
        if os.environ.get("CI"):
            pytest.fail(f"the test data is not at {SHARED}; in CI it has to be")
        pytest.skip(f"the real test data is not at {SHARED}")
    return SHARED


@pytest.fixture(scope="session")
def alpaca(shared: Path) -> str:
    """All 52,002 Alpaca rows, as a source."""
    return str(shared / "alpaca52k" / "*.json")


@pytest.fixture
def judge(tmp_path: Path) -> Iterator[JudgeStarter]:
    """Starts judge servers that end with the test: `judge("--latency", "0.2")`."""
    starter = JudgeStarter(tmp_path)
    yield starter
    for server in starter.servers:
        server.close()
