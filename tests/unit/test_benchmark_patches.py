"""What the benchmarks put clocks on is there in the package: nothing else tells before somebody measures."""

import pytest

from toy_runs import ROOT


@pytest.fixture(autouse=True)
def _benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_parts_of_an_update_are_there() -> None:
    from loop_alone import Watch, _parts

    for patch in _parts(Watch()):
        with patch:
            pass


def test_the_parts_of_a_worker_are_there() -> None:
    from client_alone import PARTS

    assert not [(owner, name) for _, owner, names in PARTS for name in names if not hasattr(owner, name)]


def test_progress_is_watched_as_a_stage_tells_it(capsys: pytest.CaptureFixture[str]) -> None:
    from alpagasus_ray.progress import Progress
    from bench_vllm import watched

    with watched() as clock, Progress("score", 4) as progress:
        progress.show(2, 0, ("a detail",), ())
        progress.show(4)
    assert [done for _, done in clock.marks] == [2, 4]
