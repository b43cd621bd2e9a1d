"""One local Ray and one loopback object store for all tests here; jobs that run as processes start their own Ray."""

import logging
import os
from collections.abc import Iterator

import boto3
import pytest
import ray
from moto.server import ThreadedMotoServer

from alpagasus_ray.config import Ingest
from alpagasus_ray.datasets.run import Run
from alpagasus_ray.stages.ingest import ingest

BUCKET = "alpagasus-test"


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """URI of a bucket in a real S3 server on loopback; the environment tells pyarrow, and Ray's workers, where it is."""
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


@pytest.fixture(scope="session", autouse=True)
def _ray(bucket: str) -> Iterator[None]:
    # after the bucket, whose address the workers inherit
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def alpaca_run(alpaca: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that holds all Alpaca examples; tests add ratings and arms to it under names of their own."""
    run = Run.open(str(tmp_path_factory.mktemp("alpaca")))
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    return run
