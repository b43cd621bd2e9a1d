"""The files for Prometheus and Grafana are valid and speak of numbers that exist; each alert fires when it has to."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from alpagasus_ray.inference.counts import METRICS
from alpagasus_ray.inference.metrics import CAP, IN_FLIGHT, LEFT, SPENT, WINDOW
from alpagasus_ray.training.curve import GAUGES
from toy_runs import ROOT

ALERTS = ROOT / "cluster/prometheus/alerts.yml"
DASHBOARD = ROOT / "cluster/grafana/alpagasus.json"
SITUATIONS = ROOT / "tests/data/alerts.yml"
OURS = {f"ray_{name}" for name, *_ in (*METRICS.values(), IN_FLIGHT, WINDOW, LEFT, SPENT, CAP)} | {
    f"ray_alpagasus_train_{name}" for name in GAUGES
}


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed; in CI it has to be")
        pytest.skip("promtool is not installed (it comes with Prometheus)")
    return found


def check(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_prometheus_takes_the_configuration_and_the_rules(promtool: str) -> None:
    check(promtool, "check", "config", str(ROOT / "cluster/prometheus/prometheus.yml"))
    check(promtool, "check", "rules", str(ALERTS))


def test_each_alert_fires_in_its_situation_and_in_no_healthy_one(promtool: str, tmp_path: Path) -> None:
    situations = SITUATIONS.read_text().replace("ALERTS", str(ALERTS))
    (tmp_path / "situations.yml").write_text(situations)
    check(promtool, "test", "rules", str(tmp_path / "situations.yml"))
    named = set(re.findall(r"alert: (\w+)", ALERTS.read_text()))
    fired = {case.group(1) for case in re.finditer(r"alertname: (\w+)\s+exp_alerts", situations)}
    assert fired == named, "each has a situation in which it fires"


@pytest.mark.parametrize("text", [ALERTS.read_text(), *expressions()])
def test_only_numbers_that_exist_are_asked_for(text: str) -> None:
    assert set(re.findall(r"ray_alpagasus_\w+", text)) <= OURS


def test_every_number_of_a_stage_and_of_a_training_is_on_the_dashboard() -> None:
    shown = set(re.findall(r"ray_alpagasus_\w+", " ".join(expressions())))
    assert shown == OURS


def test_panels_have_places_of_their_own_and_names() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["title"] for panel in panels)
