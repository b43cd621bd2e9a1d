"""What all tests share: real data where it is, a quiet environment, a judge on loopback."""

import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from loopback import JudgeStarter

# a shell starts what runs in the background with Ctrl-C ignored, and so would be all that the tests start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["VLLM_NO_USAGE_STATS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WRONG_KEY"] = "a-wrong-key"  # now: workers have the environment in which their Ray is started

# `make test-long` looks at more made-up cases of each property, and at other ones each time
for profile, examples in (("short", 30), ("long", 200)):
    hypothesis.settings.register_profile(profile, max_examples=examples, derandomize=profile == "short", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

ROOT = Path(__file__).parent.parent
BUCKET = "alpagasus-test"
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


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URI of a bucket in a real S3 server on loopback; the environment tells pyarrow, and Ray's workers, where it is."""
    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "toy",
        "AWS_SECRET_ACCESS_KEY": "toy",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    boto3.client("s3", region_name="us-east-1").create_bucket(Bucket=BUCKET)
    yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(scope="session")
def local_ray(bucket: str, request: pytest.FixtureRequest) -> Iterator[None]:
    """One local Ray for the whole session; started after the bucket, whose address its workers inherit."""
    import ray

    import forked_workers

    training = any("training" in item.path.name for item in request.session.items)
    with forked_workers.server(forked_workers.ANY + (forked_workers.TRAINING if training else [])):
        with forked_workers.asked_for_workers():
            ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        yield
        ray.shutdown()
