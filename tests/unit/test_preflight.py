"""Whether nodes can work together: what is compared, and what a node that comes later finds out by itself."""

from pathlib import Path

import pytest
import tenacity

import alpagasus_ray
from alpagasus_ray.raycluster import preflight, worker_process
from alpagasus_ray.raycluster.nodes import Facts, Silent
from alpagasus_ray.store.run import Run, versions
from alpagasus_ray.store.storage import Storage
from toy_runs import toy_run

HERE = versions() | {"alpagasus-ray": alpagasus_ray.__version__}


def node(**changes: str) -> Facts:
    return Facts("10.0.0.7", {"CPU": 8}, {}, False, HERE | changes, "/app/alpagasus_ray", None, None, ())


def test_nodes_that_are_alike_are_well() -> None:
    assert preflight.same_versions([node(), node()]).status == "ok"


def test_another_ray_or_package_is_a_problem_and_another_library_a_warning() -> None:
    for name, status in (("ray", "problem"), ("alpagasus-ray", "problem"), ("pyarrow", "warning")):
        check = preflight.same_versions([node(), node(**{name: "0.1"})])
        assert (check.status, f"{name} is 0.1 on 10.0.0.7" in check.detail) == (status, True)
        assert "requirements.lock" in check.fix


def test_a_node_that_cannot_load_the_package_is_a_problem_with_its_words() -> None:
    check = preflight.answers([node(), Silent("10.0.0.8", "ModuleNotFoundError: No module named 'openai'")])
    assert check.status == "problem"
    assert "1 of 2 nodes cannot run this package, 10.0.0.8 first: ModuleNotFoundError: No module named 'openai'" in check.detail
    assert "--working-dir" in check.fix


def test_a_node_that_sees_the_run_and_has_the_package_takes_part(tmp_path: Path) -> None:
    assert worker_process.unfit(toy_run(tmp_path, 2).examples(), alpagasus_ray.__version__) is None


def test_a_node_that_does_not_see_the_run_says_where_it_should_be(tmp_path: Path) -> None:
    told = worker_process.unfit(Run.open(str(tmp_path / "elsewhere")).examples(), alpagasus_ray.__version__)
    assert told is not None
    assert "does not see" in told
    assert "all nodes share" in told


def test_storage_that_refuses_is_told_and_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Storage, __: str) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Storage, "exists", refuse)
    monkeypatch.setattr(worker_process._sees.retry, "wait", tenacity.wait_none())
    told = worker_process.unfit(Run.open(str(tmp_path)).examples(), alpagasus_ray.__version__)
    assert told is not None
    assert "cannot read" in told
    assert "Permission denied" in told


def test_a_node_with_another_version_of_the_package_does_not_take_part(tmp_path: Path) -> None:
    told = worker_process.unfit(toy_run(tmp_path, 2).examples(), "99.0")
    assert told is not None
    assert "the driver's is 99.0" in told
