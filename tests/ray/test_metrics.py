"""The metrics of a stage reach Ray's Prometheus endpoint while it runs, under the names that the docs explain."""

import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from alpagasus_ray.config import Price, Score
from alpagasus_ray.inference.counts import METRICS
from alpagasus_ray.inference.metrics import CAP, IN_FLIGHT, LEFT, SPENT, WINDOW
from alpagasus_ray.stages.score import score
from alpagasus_ray.training.curve import GAUGES
from loopback import JudgeStarter
from toy_runs import ROOT, api_judge, toy_run

NAMES = list(METRICS) + [name for name, _ in (IN_FLIGHT, WINDOW, LEFT, SPENT, CAP)]
LINE = re.compile(r"^ray_(alpagasus_\w+)\{(.*)\} ([\d.e+-]+)$", re.MULTILINE)


def _scraped_with(metric: str, own: str) -> dict[tuple[str, str], float]:
    """The same once this one is there: what ended processes gave away comes a moment later on a busy machine."""
    deadline = time.monotonic() + 40
    while (metric, own) not in (found := _scrape()) and time.monotonic() < deadline:
        time.sleep(1)
    return found


def _scrape() -> dict[tuple[str, str], float]:
    """The largest value that each metric and tag has had, over all processes."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as response:
        text = response.read().decode()
    found: dict[tuple[str, str], float] = {}
    for name, labels, value in LINE.findall(text):
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        own = " ".join(tags[key] for key in ("stage", "outcome", "kind", "certainty", "reason", "status") if key in tags)
        found[name, own] = max(found.get((name, own), 0.0), float(value))
    return found


def test_metrics_count_what_the_run_did(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 400)
    server = judge("--latency", "0.1", "--fault", "429", "--fault-every", "50")
    asked = api_judge(server.base_url, price=Price(input=1, output=2))
    score(Score(name="metered", judge=asked, concurrency=16, max_cost_usd=1), run)
    found = _scraped_with("alpagasus_requests_total", "ratings/metered answered")
    counted = {
        (name.removeprefix("alpagasus_"), tags.removeprefix("ratings/metered").strip()): n for (name, tags), n in found.items()
    }
    refused = len(server.taken()) - len(server.billed())
    assert refused > 0
    assert counted["requests_total", "answered"] == counted["rows_total", "scored"] == 400
    assert counted["requests_total", "refused"] == counted["retries_total", "http 429"] == refused
    assert counted["tokens_total", "in"] == 400 * 300
    assert counted["dollars_total", "billed"] == pytest.approx(400 * (300 * 1 + 12 * 2) / 1e6)
    assert counted["concurrency", ""] >= 1
    assert counted["limiter_wait_seconds_total", ""] > 0
    assert _told_by_the_driver("metered") == [0, 1, pytest.approx(counted["dollars_total", "billed"])]


def _told_by_the_driver(name: str) -> list[float | None]:
    """Rows left, cap and spending; a process that lives on gives its numbers away every ten seconds."""
    deadline = time.monotonic() + 40
    while True:
        found = _scrape()
        told = [found.get((metric, f"ratings/{name}")) for metric, _ in (LEFT, CAP, SPENT)]
        if told[0] == 0 or time.monotonic() > deadline:
            return told
        time.sleep(1)


def test_rows_without_a_result_are_counted_by_reason(tmp_path: Path, judge: JudgeStarter) -> None:
    run = toy_run(tmp_path, 40)
    server = judge("--fault", "400", "--fault-every", "10")
    score(Score(name="failing", judge=api_judge(server.base_url), concurrency=4, max_failed=1), run)
    failed = ("alpagasus_failures_total", "ratings/failing http 400")
    assert _scraped_with(*failed)[failed] == 4


def test_every_metric_is_explained_in_the_docs() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    assert [name for name in (*NAMES, *(f"alpagasus_train_{name}" for name in GAUGES)) if f"`{name}`" not in text] == []
