"""A real Prometheus looks at a real run: every panel of the dashboard has something to show, and no alert is raised."""

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

from alpagasus_ray.config import Arm, Judge, Pick, Price, Score, Vllm
from alpagasus_ray.stages.finetune import finetune
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from loopback import JudgeStarter
from ray_head import free_ports
from servers import wait_until_it_answers
from toy_runs import ROOT, api_judge, toy_run
from trainings import tiny

pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (make install)")

FILES = ROOT / "cluster/prometheus"
ON_GPUS_ONLY = {"GPUs in use"}
READY_S, TOLD_S = 30, 30
ON_CPU = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 1}
FAULTS = [{"kind": "400", "every": 40}, {"kind": "429", "every": 25}]


class Prometheus(NamedTuple):
    """A server that is running."""

    url: str
    started: float

    def ask(self, path: str, **parameters: Any) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}", timeout=10) as response:
            return json.load(response)["data"]

    def never_seen(self, expressions: list[str]) -> list[str]:
        """Those of the expressions that have had no number; processes tell their last ones when they end, or after a while."""
        deadline = time.monotonic() + TOLD_S
        while (dark := [one for one in expressions if not self.seen(one)]) and time.monotonic() < deadline:
            time.sleep(1)
        return dark

    def seen(self, expression: str) -> bool:
        """Whether an expression has had a number since the start."""
        found = self.ask("/api/v1/query_range", query=expression, start=self.started, end=time.time(), step=2)["result"]
        return any(value != "NaN" for series in found for _, value in series["values"])


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Prometheus]:
    binary = shutil.which("prometheus")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is not installed; in CI it has to be")
        pytest.skip("prometheus is not installed")
    (node,) = ray.nodes()
    nodes = tmp_path / "nodes.json"
    nodes.write_text(json.dumps([{"targets": [f"127.0.0.1:{node['MetricsExportPort']}"]}]))
    settings = (FILES / "prometheus.yml").read_text().replace("/tmp/ray/prom_metrics_service_discovery.json", str(nodes))
    (tmp_path / "prometheus.yml").write_text(settings.replace("interval: 10s", "interval: 1s"))
    shutil.copy(FILES / "alerts.yml", tmp_path)
    address = f"127.0.0.1:{free_ports(1)[0]}"
    command = [binary, f"--config.file={tmp_path / 'prometheus.yml'}", f"--storage.tsdb.path={tmp_path / 'series'}"]
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_it_answers(f"http://{address}/-/ready", server, tmp_path / "log", READY_S)
        yield Prometheus(f"http://{address}", time.time())
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_panel_shows_something_of_a_run_and_no_alert_is_raised(
    prometheus: Prometheus, judge: JudgeStarter, shared: Path, tmp_path: Path
) -> None:
    run = toy_run(tmp_path, 240)
    server = judge("--latency", "0.5", "--faults", json.dumps(FAULTS))
    asked = api_judge(server.base_url, price=Price(input=1, output=2))
    score(Score(judge=asked, concurrency=4, max_cost_usd=1, max_failed=1), run)
    pick_subset(Pick(arms=(Arm(name="full", policy="full"),)), run)
    config = tiny(shared, steps=30, peak_tflops=0.1, checkpoint={"every_steps": 10})
    finetune(config, run, ["full"])
    local = Judge(kind="vllm", model=str(shared / "tiny_llama"), vllm=Vllm(**ON_CPU), max_tokens=48)
    score(Score(name="local", judge=local), run)
    panels = json.loads((ROOT / "cluster/grafana/alpagasus.json").read_text())["panels"]
    asked_for = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", ())]
    due = [expression for title, expression in asked_for if title not in ON_GPUS_ONLY]
    assert prometheus.never_seen(due) == []
    assert [alert for alert in prometheus.ask("/api/v1/alerts")["alerts"] if alert["state"] == "firing"] == []
    assert len(prometheus.ask("/api/v1/rules")["groups"][0]["rules"]) == 6
