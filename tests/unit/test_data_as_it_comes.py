"""Records as people have them: what is marked, preferred, called or not a number, and the way back out."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from alpagasus_ray.config import Arm, Finetune, Ingest, Pick
from alpagasus_ray.data import prompt_sets, thoughts
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.store.run import Manifest, Run
from alpagasus_ray.training.encode import Encoded, Encoder
from report_runs import rate
from toy_runs import ratings

FULL = Arm(name="full", policy="full")


def _made(source: Path | str, folder: Path, **settings: Any) -> tuple[Run, Manifest, list[dict[str, Any]]]:
    run = Run.open(str(folder / "run"))
    manifest = ingest(Ingest(source=str(source), **{"max_rejected": 1, **settings}), run)
    return run, manifest, [row for table in run.examples().tables(manifest) for row in table.to_pylist()]


def _lines(folder: Path, *records: Any) -> Path:
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return folder / "rows.jsonl"


def _turns(*texts: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)], **more}


GOOD = (
    "conversations/alpaca_system_prompt conversations/role_content_under_conversations conversations/singular "
    "conversations/system_field preference/columns preference/llamafactory_dpo_multi preference/trl_conversational "
    "turn_weight/axolotl_train_flag turn_weight/openai_weight tool_calls/later_turn nan/lines"
).split()


@pytest.mark.parametrize("name", GOOD)
def test_the_answer_that_is_meant_is_the_output_in_every_layout(tmp_path: Path, shared: Path, name: str) -> None:
    _, manifest, rows = _made(shared / "cases" / "sources" / f"{name}.jsonl", tmp_path)
    assert manifest.counts["rejected"] == 0
    assert [row["output"] for row in rows[:5]] == ["Lima.", "5", "Glad", "Large", "Green"]


@pytest.mark.parametrize("name", ["pandas_json/columns.json", "pandas_json/split.json", "nan/floats.parquet"])
def test_tables_give_the_same_examples_and_what_is_no_number_is_no_input(tmp_path: Path, shared: Path, name: str) -> None:
    _, _, rows = _made(shared / "cases" / "sources" / name, tmp_path)
    assert [(row["input"], row["output"]) for row in rows[:3]] == [("", "Lima."), ("", "5"), ("", "Glad")]


@pytest.mark.parametrize("name", ["conversations/alpaca_system_prompt", "conversations/system_field"])
def test_a_system_text_beside_the_turns_is_the_system_turn(tmp_path: Path, shared: Path, name: str) -> None:
    _, _, rows = _made(shared / "cases" / "sources" / f"{name}.jsonl", tmp_path)
    assert {row["system"] for row in rows} == {"You answer in French."}


def test_an_answer_that_calls_a_tool_is_rejected_by_that_reason_and_the_others_come_in(tmp_path: Path, shared: Path) -> None:
    _, manifest, rows = _made(shared / "cases/sources/tool_calls/empty_content.jsonl", tmp_path)
    assert manifest.details["reasons"] == {"`tool_calls`: the answer is a call of a tool": 10}
    assert all(row["output"] for row in rows)


def test_pictures_are_a_reason_to_reject(tmp_path: Path) -> None:
    source = _lines(tmp_path, _turns("a", "b", images=["x.jpg"]), _turns("a", "b", images=[]))
    _, manifest, rows = _made(source, tmp_path)
    assert (len(rows), manifest.details["reasons"]) == (1, {"`images`: not all of it is text": 1})


def test_what_is_not_used_is_told_once_with_its_count(tmp_path: Path) -> None:
    records = [_turns("a", "b", "c", "d", id=n, lang="en", **({"source_url": "u"} if n else {})) for n in range(3)]
    _, manifest, _ = _made(_lines(tmp_path, *records), tmp_path)
    assert manifest.details["not_used"] == {"lang": 3, "source_url": 2}
    assert manifest.details["notes"] == [
        "kept with the records, not shown to the judge: lang (3), source_url (2)",
        "3 of 6 exchanges left out by ingest.turns=first",
    ]


def test_thinking_is_kept_and_told_or_dropped(tmp_path: Path, shared: Path) -> None:
    source = shared / "cases/sources/reasoning/output_think.jsonl"
    _, manifest, rows = _made(source, tmp_path / "kept")
    assert rows[0]["output"].startswith("<think>")
    assert manifest.details["notes"] == ["20 answers with thinking, which is kept; ingest.reasoning=drop takes it off"]
    assert _made(source, tmp_path / "dropped", reasoning="drop")[2][0]["output"] == "Lima."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<think>\nhm\n</think>\n\nLima.", "Lima."),
        (" [THINK]hm[/THINK] Lima.", "Lima."),
        ("<scratchpad>hm</scratchpad>Lima.", "Lima."),
        ("◁think▷hm◁/think▷Lima.", "Lima."),
        ("hm, so\n</think>\n\nLima.", "Lima."),
        ("<think>a `</think>` is quoted</think>Lima.", "Lima."),
        ("Lima. <think>is a mark</think>", None),
        ("Close it by </think> and go on.", None),
        ("`<think>` opens it.\n</think>\nLima.", "Lima."),
        ("<think>without an end", None),
    ],
)
def test_an_answer_loses_the_thinking_that_it_begins_with_and_keeps_marks_that_it_speaks_of(
    text: str, said: str | None
) -> None:
    assert thoughts.without(text) == (text if said is None else said)


def test_a_conversation_is_one_example_of_its_last_answer_and_says_which_others_are_learned(tmp_path: Path) -> None:
    record = _turns("a", "b", "c", "d", "e", "f")
    record["messages"][3]["weight"] = 0
    _, _, (row,) = _made(_lines(tmp_path, record), tmp_path, turns="conversation")
    assert (row["instruction"], row["output"], row["learn"]) == ("e", "f", [True, False])


@pytest.mark.parametrize("settings", [{}, {"turns": "conversation"}])
def test_sharegpt_records_come_out_as_the_same_objects(tmp_path: Path, shared: Path, settings: dict[str, Any]) -> None:
    source = shared / "sources" / "sharegpt.json"
    run, _, _ = _made(source, tmp_path, **settings)
    pick_subset(Pick(arms=(FULL,)), run)
    came = json.loads(run.subset("full").storage.read("subset.sharegpt.json"))
    assert came == json.loads(source.read_text(encoding="utf-8"))


def test_every_kind_of_file_comes_out_as_it_went_in(tmp_path: Path) -> None:
    rows = [{"id": str(n), "instruction": f"a{n}", "output": "b", "note": "ü,\n"} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with (tmp_path / "rows.csv").open("w", newline="") as stream:
        csv.DictWriter(stream, list(rows[0])).writerows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    for kind in ("parquet", "csv"):
        run, _, _ = _made(tmp_path / f"rows.{kind}", tmp_path / kind)
        pick_subset(Pick(arms=(FULL,)), run)
        path = Path(run.subset("full").storage.path(f"subset.alpaca.{kind}"))
        came = pq.read_table(path).to_pylist() if kind == "parquet" else list(csv.DictReader(path.open(newline="")))
        assert came == rows


KEPT = Arm(name="kept", policy="threshold", threshold=4.0)
SCORED = (4.5, 1.0, None, 5.0, 3.5, 4.0)


@pytest.mark.parametrize(
    "layout", ["alpaca.json", "alpaca.jsonl", "alpaca.csv", "alpaca.parquet", "messages.jsonl", "sharegpt.json"]
)
def test_chosen_records_come_out_with_their_ratings_beside_them_and_are_else_the_sources_own(
    tmp_path: Path, layout: str
) -> None:
    records = [_record(layout, number) for number in range(len(SCORED))]
    run, _, rows = _made(_written(tmp_path, layout, records), tmp_path)
    rate(run, SCORED)
    pick_subset(Pick(arms=(KEPT,), max_unscored=1.0), run)
    rated = {row["example_id"]: row["score"] for row in ratings(run).to_pylist()}
    scores = [rated[row["example_id"]] for row in rows]
    chosen = [(record, score) for record, score in zip(records, scores, strict=True) if score is not None and score >= 4.0]
    came = _read(Path(run.subset("kept").storage.path(f"subset.{layout}")))
    assert [(float(one.pop("score")), one) for one in came] == [(score, record) for record, score in chosen]
    assert len(came) == 3


def test_a_record_of_several_examples_comes_out_once_with_the_rating_of_each_that_was_chosen(tmp_path: Path) -> None:
    records = [_turns("a", f"b{n}", "c", f"d{n}", id=n) for n in range(3)]
    run, _, rows = _made(_lines(tmp_path, *records), tmp_path, turns="all")
    rate(run, [5.0, 1.0, 4.0, 4.5, 2.0, 3.0])
    pick_subset(Pick(arms=(KEPT,)), run)
    rated = {row["example_id"]: row["score"] for row in ratings(run).to_pylist()}
    came = _read(Path(run.subset("kept").storage.path("subset.messages.jsonl")))
    chosen = [[row["example_id"] for row in rows if row["row"] == n and rated[row["example_id"]] >= 4.0] for n in range(3)]
    beside = [[{"example_id": name, "score": rated[name]} for name in names] for names in chosen]
    assert [len(names) for names in chosen] == [1, 2, 0]
    assert came == [{**record, "chosen": told} for record, told in zip(records, beside, strict=True) if told]


def _record(layout: str, number: int) -> dict[str, Any]:
    if layout.startswith("messages"):
        return _turns(f"ask {number}", "ü,\n", id=number, lang="en")
    if layout.startswith("sharegpt"):
        return {
            "id": f"r{number}",
            "conversations": [{"from": "human", "value": f"ask {number}"}, {"from": "gpt", "value": "ü"}],
        }
    return {"id": f"r{number}", "instruction": f"ask {number}", "input": "", "output": "ü,\n", "note": "kept"}


def _written(folder: Path, layout: str, records: list[dict[str, Any]]) -> Path:
    kind = layout.rpartition(".")[2]
    path = folder / f"rows.{kind}"
    if kind == "jsonl":
        return _lines(folder, *records)
    if kind == "json":
        path.write_text(json.dumps(records))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        with path.open("w", newline="") as stream:
            table = csv.DictWriter(stream, list(records[0]))
            table.writeheader()
            table.writerows(records)
    return path


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()  # type: ignore[no-any-return]
    if path.suffix == ".csv":
        return list(csv.DictReader(path.open(newline="")))
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)  # type: ignore[no-any-return]


def test_a_number_comes_out_as_it_was_written(tmp_path: Path) -> None:
    line = '{"instruction": "a", "output": 1.50, "id": 1e5}'
    (tmp_path / "rows.jsonl").write_text(line + "\n")
    run, _, (row,) = _made(tmp_path / "rows.jsonl", tmp_path)
    pick_subset(Pick(arms=(FULL,)), run)
    assert row["output"] == "1.50"
    assert run.subset("full").storage.read("subset.alpaca.jsonl").decode() == line + "\n"


@pytest.mark.parametrize(("duplicates", "kept"), [("drop", 2), ("keep", 3)])
def test_exact_duplicates_take_no_part_in_an_arm_unless_they_are_to_be_kept(tmp_path: Path, duplicates: Any, kept: int) -> None:
    row = {"instruction": "a", "input": "", "output": "b"}
    run, _, _ = _made(_lines(tmp_path, row, row, {**row, "output": "c"}), tmp_path)
    arms = (Arm(name="longest", policy="longest", k=kept),)
    (manifest,) = pick_subset(Pick(arms=arms, duplicates=duplicates), run)
    assert (manifest.rows, manifest.details["duplicates"]) == (kept, 3 - kept)


def test_arena_hard_keeps_its_ids_and_categories_and_mt_bench_says_what_is_not_asked(shared: Path) -> None:
    folder = shared / "cases" / "sources" / "test_sets"
    arena = prompt_sets.load("arena", str(folder / "arena_hard_v2.jsonl"))
    assert [(prompt.prompt_id, prompt.category) for prompt in arena[:2]] == [
        ("ab00cd", "creative_writing"),
        ("ab01cd", "hard_prompt"),
    ]
    assert prompt_sets.turns_left_out("mt", str(folder / "mt_bench.jsonl")) == 4
    assert {prompt.reference for prompt in prompt_sets.load("mt", str(folder / "mt_bench.jsonl"))} == {"r1"}


@pytest.mark.parametrize("template", ["alpaca", "chat"])
def test_every_answer_of_a_conversation_that_may_be_learned_carries_the_loss(shared: Path, template: Any) -> None:
    encoder = Encoder(Finetune(model=str(shared / "tiny_llama"), template=template))
    history = [{"instruction": "Ask one", "output": "First."}, {"instruction": "Ask two", "output": "Second."}]
    row = {"instruction": "Ask three", "input": "", "output": "Third.", "system": None, "history": history}
    (plain,) = encoder.encode([row])
    (found,) = encoder.encode([{**row, "learn": [True, False]}])
    assert isinstance(found, Encoded)
    assert isinstance(plain, Encoded)
    ((start, stop),) = found.masked
    learned = encoder.tokenizer.decode(found.ids[found.prompt_tokens : start] + found.ids[stop:], skip_special_tokens=True)
    assert "First." in learned
    assert "Third." in learned
    assert "Second." not in learned
    assert "Ask" not in learned
    assert found.label_tokens == len(found.ids) - found.prompt_tokens - (stop - start)
    assert found.ids[-10:] == plain.ids[-10:]
