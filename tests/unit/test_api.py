"""The Python interface: records in, records with scores out; paid for once; no Ray for small inputs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import alpagasus_ray as ag
from alpagasus_ray.api import scorers
from alpagasus_ray.api.rating import cache, cached, carry_out, settings
from alpagasus_ray.api.rows import as_lines, given
from alpagasus_ray.errors import BudgetReached, SettingsChanged, UsageError
from loopback import JudgeStarter

ROWS = [
    {"instruction": f"Name {n} fruits.", "input": "", "output": ", ".join(["apple"] * n), "topic": "odd" if n % 2 else "even"}
    for n in range(1, 21)
]


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALPAGASUS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def rate(judge: JudgeStarter) -> Callable[..., ag.Rated]:
    """Rates by a judge on loopback; `rate.server` is that judge."""
    server = judge("--latency", "0.05")

    def call(rows: Any = ROWS, **given: Any) -> ag.Rated:
        return ag.rate(rows, "toy", base_url=server.base_url, **given)

    call.server = server  # type: ignore[attr-defined]
    return call


def test_records_come_back_in_their_order_with_all_their_columns_and_a_score(rate: Callable[..., ag.Rated]) -> None:
    rated = rate()
    assert [{key: row[key] for key in ROWS[0]} for row in rated.to_list()] == ROWS
    assert all(score is not None and 0 <= score <= 5 for score in rated.scores)
    assert sum(rated.histogram().values()) == len(rated) == len(ROWS)
    assert rated.unscored == {}
    table = rated.to_pandas()
    assert list(table["topic"]) == [row["topic"] for row in ROWS]


def test_a_server_that_is_not_there_is_told_at_once_and_not_missed_where_all_replies_are_in_the_cache(
    rate: Callable[..., ag.Rated],
) -> None:
    rate()
    rate.server.close()  # type: ignore[attr-defined]
    assert rate(ROWS[:5]).unscored == {}
    with pytest.raises(UsageError, match=r"127\.0\.0\.1.* cannot be reached: Connection refused"):
        rate([*ROWS[:5], {"instruction": "Name nothing.", "output": ""}])


def test_the_same_rows_are_paid_for_once_by_the_same_judge(rate: Callable[..., ag.Rated]) -> None:
    first = rate()
    again = rate(list(ROWS))
    server = rate.server  # type: ignore[attr-defined]
    assert len(server.taken()) == len(ROWS)
    assert again.scores == first.scores
    rate(rubric="helpfulness")
    assert len(server.taken()) == 2 * len(ROWS)


def test_a_record_without_a_text_has_a_reason_and_no_score(rate: Callable[..., ag.Rated]) -> None:
    rated = rate([*ROWS[:3], {"instruction": "", "input": "", "output": ""}, *ROWS[3:]])
    assert [number for number, score in enumerate(rated.scores) if score is None] == [3]
    [(reason, count)] = rated.unscored.items()
    assert (reason.partition(":")[0], count) == ("no example", 1)
    assert rated.to_list()[4]["output"] == ROWS[3]["output"]


def test_the_best_are_picked_by_number_threshold_or_share_and_per_column(rate: Callable[..., ag.Rated], tmp_path: Path) -> None:
    rated = rate()
    scores = sorted((score for score in rated.scores if score is not None), reverse=True)
    best = rated.pick(top=5)
    assert sorted(best.scores, reverse=True) == scores[:5]
    assert len(rated.pick(share=0.25)) == 5
    assert len(rated.pick(threshold=scores[7])) == sum(score >= scores[7] for score in scores)
    assert sorted(row["topic"] for row in rated.pick(top=3, per="topic").to_list()) == ["even"] * 3 + ["odd"] * 3
    lines = best.to_jsonl(tmp_path / "best.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == best.to_list()
    assert rated.pick(top=5).records == best.records, "the same draw each time"
    wrongs = ({}, {"top": 1, "share": 0.5}, {"top": len(ROWS) + 1}, {"top": -1}, {"share": 1.5}, {"top": 1, "per": "colour"})
    for wrong in wrongs:
        with pytest.raises(UsageError):
            rated.pick(**wrong)  # type: ignore[arg-type]


def test_a_cap_stops_and_the_same_call_goes_on_when_it_is_raised(rate: Callable[..., ag.Rated]) -> None:
    price = {"input": 1000.0, "output": 1000.0}
    with pytest.raises(BudgetReached):
        rate(max_cost_usd=2.0, price=price, concurrency=1)
    server = rate.server  # type: ignore[attr-defined]
    paid = len(server.taken())
    assert 0 < paid < len(ROWS)
    rated = rate(max_cost_usd=1000.0, price=price, concurrency=1)
    assert rated.unscored == {}
    assert len(server.taken()) == len(ROWS)
    assert rated.cost_usd > 0


def _place(rows: Any = ROWS[:2], **knobs: Any) -> tuple[str, str]:
    place = cached(given(rows, {}), settings("toy", {}, knobs), "/cache")
    return place.run.storage.root, place.name


def test_a_place_is_named_by_what_decides_the_ratings_and_by_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _place()
    how = {"mode": "batch", "batch": {"poll_s": 1}, "timeout_s": 5, "max_attempts": 2, "price": {"input": 1, "output": 1}}
    assert _place(**how) == first, "how the work is done does not part a call from the one that it goes on with"
    assert _place(rubric="accuracy", headers={}, query={}, temperature=0.0) == first, "so does a knob at its default"
    who = [
        {"base_url": "http://127.0.0.1:9/v1"},
        {"headers": {"x-provider": "PROVIDER"}},
        {"headers": {"x-provider": "OTHER"}},
        {"query": {"provider": "a"}},
        {"rubric": "helpfulness"},
        {"temperature": 1.0},
    ]
    assert len({_place(**knobs) for knobs in ({}, *who)}) == len(who) + 1

    mine = tmp_path / "mine.yaml"
    mine.write_text("{name: mine, dimension: brevity, system: Be strict., user: '{{ instruction }} {{ input }} {{ output }}'}")
    before = _place(rubric=str(mine))
    mine.write_text(mine.read_text().replace("strict", "kind"))
    assert _place(rubric=str(mine)) != before

    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    before = _place(rows)
    monkeypatch.chdir(tmp_path)
    assert _place("rows.jsonl") == before
    rows.write_text(json.dumps(ROWS[3]) + "\n")
    assert _place(rows) != before


def test_replies_that_a_gateway_gave_by_other_headers_are_not_lent(
    rate: Callable[..., ag.Rated], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = rate.server  # type: ignore[attr-defined]
    monkeypatch.setenv("PROVIDER", "a")
    for calls, knobs in enumerate([{}, {"headers": {"x-provider": "PROVIDER"}}, {"query": {"provider": "b"}}], start=1):
        rate(ROWS[:3], **knobs)
        rate(ROWS[:2], **knobs)
        assert len(server.taken()) == 3 * calls


def test_knobs_that_need_a_run_are_refused_with_the_call_that_takes_them(tmp_path: Path) -> None:
    for key, value in (("cascade", {"calls": 0.5}), ("combine", {"ratings": ["a", "b"]})):
        with pytest.raises(UsageError, match=rf"{key} = .*ag\.Run\('runs/mine'\)\.score\({key}=…\)"):
            ag.rate(ROWS, "toy", **{key: value})


def test_other_rows_in_the_same_run_are_refused_and_leave_the_first_as_they_were(tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = ag.rate(ROWS, run=run, kind="rules")
    with pytest.raises(SettingsChanged, match=r"holds other examples than these rows.*\.score\(…\)\.rated"):
        ag.rate(ROWS[:3], run=run, kind="rules")
    assert ag.rate(ROWS, run=run, kind="rules").scores == first.scores


def _as_pandas() -> Any:
    import pandas as pd

    return pd.DataFrame([*ROWS[:3], {**ROWS[3], "output": None}])


def _as_hugging_face() -> Any:
    import datasets

    return datasets.Dataset.from_list(ROWS[:4])


CONTAINERS: dict[str, Callable[[], Any]] = {
    "a list": lambda: ROWS[:4],
    "a generator": lambda: (row for row in ROWS[:4]),
    "pandas": _as_pandas,
    "Arrow": lambda: pa.Table.from_pylist(ROWS[:4]),
    "Hugging Face": _as_hugging_face,
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_rows_come_in_whatever_holds_them(container: str) -> None:
    rated = ag.rate(CONTAINERS[container](), kind="rules")
    first = [{key: row[key] for key in ROWS[0]} for row in rated.to_list()][:3]
    assert first == ROWS[:3]
    assert rated.scores[:3] == ag.rate(ROWS[:3], kind="rules").scores
    assert len(rated) == 4
    nothing = container == "pandas"
    assert (rated.scores[3] is None) == nothing, "NaN is nothing, and no text"


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_the_records_of_a_file_come_back_with_all_their_columns(kind: str, tmp_path: Path) -> None:
    file = tmp_path / f"rows.{kind}"
    lines = [json.dumps(row) for row in ROWS]
    file.write_text("\n".join(lines) if kind == "jsonl" else f"[{','.join(lines)}]")
    rated = ag.rate(file, kind="rules")
    assert [{key: row[key] for key in ROWS[0]} for row in rated.to_list()] == ROWS


def test_a_row_is_paid_for_once_whatever_rows_it_comes_with(rate: Callable[..., ag.Rated]) -> None:
    server, price = rate.server, {"input": 1000.0, "output": 1000.0}  # type: ignore[attr-defined]
    first = rate(ROWS[:5], price=price)
    assert first.cost_usd
    more = rate([*ROWS[3:8], ROWS[3]], price=price)
    assert len(server.taken()) == 8
    assert more.scores[:2] == first.scores[3:5]
    assert more.cost_usd == pytest.approx(3 * first.cost_usd / 5)
    before = rate(ROWS[:8], price=price, max_cost_usd=0.01)
    assert before.cost_usd == 0.0, "what is there already is no spending"
    assert len(server.taken()) == 8


def test_what_was_bought_before_a_cap_stopped_the_call_is_not_bought_again_with_other_rows(
    rate: Callable[..., ag.Rated],
) -> None:
    price = {"input": 1000.0, "output": 1000.0}
    with pytest.raises(BudgetReached):
        rate(max_cost_usd=2.0, price=price, concurrency=1)
    server = rate.server  # type: ignore[attr-defined]
    paid = len(server.taken())
    rate([*ROWS, {"instruction": "Another.", "output": "One."}], price=price)
    assert paid > 0
    assert len(server.taken()) == len(ROWS) + 1


def test_rows_that_failed_are_asked_again_by_the_same_call_and_no_others_are(judge: JudgeStarter) -> None:
    server = judge("--fault", "500", "--fault-every", "4")

    def call() -> ag.Rated:
        return ag.rate(ROWS, "toy", base_url=server.base_url, max_attempts=1, concurrency=1)

    rated = call()
    left = [sum(rated.unscored.values())]
    while rated.unscored:
        rated = call()
        left.append(sum(rated.unscored.values()))
    assert left == sorted(set(left), reverse=True), "fewer each time"
    assert call().scores == rated.scores
    more = ag.rate([*ROWS[2:9], ROWS[0]], "toy", base_url=server.base_url)
    assert more.scores == [*rated.scores[2:9], rated.scores[0]]
    assert len(server.taken()) == len(ROWS) + sum(left), "what a later call has bought is lent as well"


def test_what_is_written_as_json_says_what_the_records_say(tmp_path: Path) -> None:
    vector, nested = np.arange(3), np.array([np.array([{"n": np.int64(1)}]), None], dtype=object)
    extras = {
        "vector": vector,
        "grid": np.eye(2, dtype=np.float32),
        "nested": {"deep": nested},
        "nan": float("nan"),
        "share": np.float32(0.5),
        "flag": np.bool_(True),
        "nans": np.array([1.0, np.nan]),
        "day": np.datetime64("2024-01-02"),
    }
    best = ag.rate([{**ROWS[0], **extras}], kind="rules").pick(top=1)
    assert best.records[0]["vector"] is vector, "as it came"
    [line] = best.to_jsonl(tmp_path / "best.jsonl").read_text().splitlines()
    read = json.loads(line, parse_constant=pytest.fail)
    assert {key: read[key] for key in extras} == {
        "vector": [0, 1, 2],
        "grid": [[1.0, 0.0], [0.0, 1.0]],
        "nested": {"deep": [[{"n": 1}], None]},
        "nan": None,
        "share": 0.5,
        "flag": True,
        "nans": [1.0, None],
        "day": "2024-01-02",
    }
    picture = ag.rate([{**ROWS[0], "picture": {"bytes": b"PNG"}}], kind="rules").pick(top=1)
    with pytest.raises(UsageError, match=r"record 0, 'picture'\['bytes'\] = b'PNG': JSON has no word for a bytes; convert"):
        picture.to_jsonl(tmp_path / "pictures.jsonl")
    assert not (tmp_path / "pictures.jsonl").exists()


def test_conversations_that_a_table_holds_as_arrays_are_rated(tmp_path: Path) -> None:
    import pandas as pd

    turns = [{"role": "user", "content": "Name a fruit."}, {"role": "assistant", "content": "An apple."}]
    pd.DataFrame([{"messages": turns}] * 2).to_parquet(tmp_path / "rows.parquet")
    table = pd.read_parquet(tmp_path / "rows.parquet")
    assert isinstance(table["messages"][0], np.ndarray)
    wanted = ag.rate([{"messages": turns}], kind="rules").scores[0]
    assert ag.rate(table, kind="rules").scores == [wanted] * 2
    assert ag.rate(table.to_dict(orient="records"), kind="rules").scores == [wanted] * 2
    rater = ag.Rater(kind="rules", folder=tmp_path / "kept")
    for batch in (table, {"messages": table["messages"].to_numpy()}):
        assert list(rater(batch)["score"]) == [wanted] * 2


class Shuffled:
    """Rows as a Ray dataset gives them: the same ones in any order."""

    __module__ = "ray.data"

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.iter_rows = lambda: iter(rows)


def test_rows_that_a_cluster_gives_in_another_order_are_the_same_rows() -> None:
    asked, rows = settings(None, {}, {"kind": "rules"}), [*ROWS, ROWS[3]]
    one, other = given(Shuffled(rows), {}), given(Shuffled(rows[::-1]), {})
    place = cached(one, asked, cache())
    assert place == cached(other, asked, cache())
    assert place != cached(given(Shuffled(ROWS), {}), asked, cache())
    first = carry_out(one, asked, place, spread=False)
    again = carry_out(other, asked, place, spread=False)
    assert (first.records, again.records) == (rows, rows[::-1])
    assert first.scores == again.scores[::-1] == ag.rate(rows, kind="rules").scores


def test_objects_in_records_name_the_same_rows_each_time() -> None:
    class Picture:
        def __init__(self, pixels: bytes) -> None:
            self.tobytes = lambda: pixels

    class Opaque:
        pass

    def line(pixels: bytes) -> str:
        return as_lines([{"instruction": "What is it?", "picture": Picture(pixels), "other": Opaque()}])

    assert line(b"cat") == line(b"cat")
    assert line(b"cat") != line(b"dog")


def test_columns_that_the_records_have_themselves_are_kept() -> None:
    rows = [{**row, "score": "mine", "id": 7} for row in ROWS[:3]]
    rated = ag.rate(rows, kind="rules")
    assert [(row["score"], row["id"]) for row in rated.to_list()] == [("mine", 7)] * 3
    assert [row["alpagasus_score"] for row in rated.to_list()] == rated.scores
    assert [row["score"] for row in rated.pick(top=1).to_list()] == ["mine"]


@pytest.mark.parametrize(
    ("rows", "columns", "said"),
    [
        ([], {}, "the list holds no rows"),
        (5, {}, "a int holds no rows; give a list of dictionaries"),
        ({"train": ROWS}, {}, "a dict of train is no list of rows"),
        (["text"], {}, "row 0 is a str, not a dictionary"),
        ([{"q": "a", "a": "b"}], {}, "no known layout has the columns q, a; .*columns={'instruction'"),
        (ROWS, {"output": "outptu"}, "columns\\['output'\\] = 'outptu': .* did you mean 'output'"),
        (ROWS, {"instructoin": "input"}, "'instructoin' is no field of an example; did you mean 'instruction'"),
    ],
)
def test_rows_that_no_example_can_be_made_of_are_told_with_the_fix(rows: Any, columns: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ag.rate(rows, kind="rules", columns=columns)


def test_none_for_a_knob_that_has_no_such_value_is_as_if_it_were_not_given() -> None:
    asked = settings("toy", {}, {"base_url": None, "max_attempts": None, "temperature": None}).score.judge
    assert asked.base_url == settings("toy", {}, {}).score.judge.base_url
    assert asked.temperature is None, "which leaves it out of requests"


def test_a_file_whose_columns_are_unknown_is_told_with_the_fix_in_python(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"q": "a", "a": "b"}\n')
    with pytest.raises(UsageError, match=r"no known layout has the fields q, a; .*columns={'instruction'"):
        ag.rate(tmp_path / "rows.jsonl", kind="rules")


def test_a_knob_that_is_none_is_told_with_the_nearest_and_a_wrong_value_with_its_key() -> None:
    with pytest.raises(UsageError, match=r"concurency = 3: .*did you mean 'concurrency'"):
        ag.rate(ROWS, "toy", concurency=3)
    with pytest.raises(UsageError, match=r"temprature = 0: .*did you mean 'temperature'"):
        ag.rate(ROWS, "toy", temprature=0)
    with pytest.raises(UsageError, match=r"`score\.judge\.temperature` = 'hot'"):
        ag.rate(ROWS, "toy", temperature="hot")


@pytest.fixture
def _no_scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scorers, "_known", {})


@pytest.mark.usefixtures("_no_scorers")
def test_a_scorer_of_ones_own_is_what_pick_goes_by() -> None:
    @ag.scorer("brevity")
    def brevity(record: Any) -> float | None:
        return None if record["topic"] == "odd" else -len(record["output"])

    best = ag.rate(ROWS, kind="rules").pick(top=2, by="brevity")
    assert [(len(row["output"].split()), row["brevity"]) for row in best.to_list()] == [(2, -12.0), (4, -26.0)]
    with pytest.raises(UsageError, match="10 records have a score"):
        ag.rate(ROWS, kind="rules").pick(top=11, by="brevity")


@pytest.mark.usefixtures("_no_scorers")
def test_a_scorer_that_fails_is_told_with_its_row_and_an_unknown_one_with_the_nearest() -> None:
    @ag.scorer("halves")
    def halves(record: Any) -> float:
        return 1 / (len(record["output"]) - 12)

    rated = ag.rate(ROWS, kind="rules")
    with pytest.raises(UsageError, match="scorer 'halves', row 1: ZeroDivisionError"):
        rated.pick(top=1, by="halves")
    with pytest.raises(UsageError, match="did you mean 'halves'"):
        rated.pick(top=1, by="halve")
    with pytest.raises(UsageError, match="other than score"):
        ag.scorer("score")


def test_results_show_themselves_in_a_notebook_as_tables_and_pictures_with_their_texts_escaped() -> None:
    rated = ag.rate([*ROWS, {"instruction": "<script>", "output": ""}], kind="rules")
    shown = rated._repr_html_()
    assert "<svg" in shown
    assert "<table>" in shown
    assert "and 11 more" in shown
    assert "<script>" not in rated.pick(share=1.0)._repr_html_() + shown
    assert "<svg" in rated.histogram()._repr_html_()


def test_a_rater_takes_each_kind_of_batch_and_says_why_a_row_has_no_score(tmp_path: Path) -> None:
    import pandas as pd

    rater = ag.Rater(kind="rules", folder=tmp_path)
    rows = [*ROWS[:2], {"instruction": "", "input": "", "output": "x", "topic": "none"}]
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    for batch in (arrays, pd.DataFrame(rows), pa.Table.from_pylist(rows)):
        done = rater(batch)
        assert type(done) is type(batch)
        scores, reasons = (list(map(_plain, done[name])) for name in ("score", "reason"))
        assert [score is None or np.isnan(score) for score in scores] == [False, False, True]
        assert reasons[:2] == [None, None]
        assert reasons[2].startswith("no example")
    alone = rater({name: values[2:] for name, values in arrays.items()})
    assert np.isnan(alone["score"]).all(), "a batch of nothing but such rows ends no pipeline"
    named = ag.Rater(kind="rules", folder=tmp_path, columns={"instruction": "q", "output": "a"})
    assert not named(pd.DataFrame([{"q": "Name a fruit.", "a": "An apple."}]))["score"].isna().any()


def _plain(value: object) -> object:
    return value.as_py() if hasattr(value, "as_py") else value


def test_a_rater_refuses_what_it_cannot_keep_for_all_rows() -> None:
    with pytest.raises(UsageError, match=r"ag\.rate\(ds, max_cost_usd=…\) can"):
        ag.Rater(judge="toy", max_cost_usd=5)
    with pytest.raises(UsageError, match="did you mean 'concurrency'"):
        ag.Rater(judge="toy", concurency=5)


def test_rating_a_few_rows_loads_neither_ray_nor_the_jobs_and_importing_the_package_nothing() -> None:
    code = f"""
import sys
import alpagasus_ray as ag
assert not [name for name in ("ray", "pydantic", "pyarrow", "numpy") if name in sys.modules]
rated = ag.rate({ROWS[:3]!r}, kind="rules")
print(len(rated), rated.unscored, [name for name in ("ray", "torch", "openai", "alpagasus_ray.cli") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[-2] == "3 {} []"
