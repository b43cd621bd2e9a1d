"""`cluster/local.sh`: one machine's head with token, dashboard and Prometheus, as its user has it, from start to stop."""

import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import browser
from alpagasus_ray.config import Ingest
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.store.run import Run
from loopback import JudgeStarter
from ray_head import RAY, ROOT, free_ports
from toy_runs import job, summary

PICTURE = os.environ.get("ALPAGASUS_PICTURE")
"""Where to leave a picture of the dashboard: `ALPAGASUS_PICTURE=docs/dashboard.png`."""
ID, WAIT_S = "alpaca-1", 90


@pytest.fixture(autouse=True)
def _ray() -> None:
    """In place of the local Ray that the other tests here run on."""


class Local(NamedTuple):
    """The head that the script has started, and how it is called."""

    environment: dict[str, str]
    told: str

    @property
    def dashboard(self) -> str:
        return f"http://127.0.0.1:{self.environment['DASHBOARD_PORT']}"

    @property
    def token(self) -> str:
        return Path(self.environment["HOME"], ".ray/auth_token").read_text().strip()

    def script(self, verb: str) -> str:
        command = ["bash", str(ROOT / "cluster/local.sh"), verb]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=200, check=True).stderr

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A `ray` command with the settings that the script tells."""
        token = str(Path(self.environment["HOME"], ".ray/auth_token"))
        known = {"RAY_ADDRESS": self.dashboard, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": token}
        return subprocess.run(
            [RAY, *arguments],
            env={**self.environment, **known},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
        )


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    names = ("GCS_PORT", "CLIENT_PORT", "AGENT_PORT", "DASHBOARD_PORT", "METRICS_PORT", "PROMETHEUS_PORT", "GRAFANA_PORT")
    ports = {name: str(port) for name, port in zip(names, free_ports(len(names)), strict=True)}
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = {**own, **ports, "HOME": str(tmp_path / "home"), "OPENAI_API_KEY": "sk-of-the-nodes"}
    (tmp_path / "home").mkdir()
    started = Local(environment, "")
    try:
        yield started._replace(told=started.script("start"))
    finally:
        started.script("stop")


@pytest.fixture
def run() -> Iterator[Run]:
    """A run at a short path, which the dashboard shows."""
    with tempfile.TemporaryDirectory(prefix="alpaca-") as folder:
        yield Run.open(f"{folder}/run")


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < deadline, f"{what} took more than {WAIT_S} s"
        time.sleep(0.5)
    return found


def scraped(local: Local) -> bool:
    """Whether Prometheus has heard of the run's rows; without Prometheus there is nobody to hear."""
    if "prometheus: not installed" in local.told:
        return not os.environ.get("CI")
    address = f"http://127.0.0.1:{local.environment['PROMETHEUS_PORT']}/api/v1/query?query=ray_alpagasus_rows_left"
    try:
        with urllib.request.urlopen(address, timeout=10) as response:
            return bool(json.load(response)["data"]["result"])
    except OSError:
        return False


def look(local: Local) -> str:
    """What the page of the newest job shows in a browser that has the token; without it the dashboard asks for one."""
    with browser.chromium() as opened:
        stranger = opened.new_page()
        stranger.goto(local.dashboard)
        stranger.get_by_text("token").first.wait_for()
        context = opened.new_context(viewport={"width": 1280, "height": 1000})
        page = context.new_page()
        said = context.request.post(f"{local.dashboard}/api/authenticate", headers={"Authorization": f"Bearer {local.token}"})
        assert said.status == 200
        page.goto(f"{local.dashboard}/#/jobs")
        page.locator("a[href^='#/jobs/']").first.click()
        page.get_by_text("of 52,002 rows").first.wait_for()
        if PICTURE:
            page.screenshot(path=PICTURE)
        text: str = page.inner_text("body")
        return text


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.skipif(browser.installed() is None and not os.environ.get("CI"), reason="no Chromium is installed")
def test_a_head_on_this_machine_from_start_to_stop(local: Local, judge: JudgeStarter, alpaca: str, run: Run) -> None:
    assert "made a token" in local.told
    assert local.token not in local.told
    assert "head: runs already" in local.script("start")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{local.dashboard}/api/jobs/", timeout=10)
    server = judge("--latency", "0.3", "--key", "sk-of-the-nodes")
    ingest(Ingest(source=alpaca, name="alpaca"), run)
    knobs = {"judge.model": "toy", "judge.base_url": server.base_url, "concurrency": 48}
    entry = ["python", "jobs/score.py", "--run", run.storage.root]
    entry += [part for key, value in knobs.items() for part in ("--set", f"score.{key}={value}")]
    submit = ("job", "submit", "--no-wait", "--submission-id", ID, "--working-dir", ".", "--", *entry)
    first = local.ray(*submit)
    assert first.returncode == 0, first.stderr
    again = local.ray(*submit)
    assert again.returncode != 0
    assert f"Job with submission_id {ID} already exists" in again.stdout + again.stderr
    until(lambda: "of 52,002 rows" in local.ray("job", "logs", ID).stdout, "the first word of progress")
    until(lambda: scraped(local), "the first look of Prometheus")
    if PICTURE:
        time.sleep(40)  # some more lines of progress
    shown = look(local)
    assert ID in shown
    assert "RUNNING" in shown
    known = summary(job("status", run.storage.root, "--json"))
    assert known["driver"] is not None
    assert [(stage["stage"], stage["state"]) for stage in known["stages"]][-1] == ("ratings/judge", "unfinished")
    assert local.ray("job", "stop", ID).returncode == 0
    assert "head: stopped" in local.script("stop")
    assert "head: does not run" in local.script("status")
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(local.dashboard, timeout=10)
