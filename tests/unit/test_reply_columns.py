"""What a reply leaves in its row: one record says it for schemas, rows, ledgers and sums."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import alpagasus_ray
from alpagasus_ray.data.schema import ANSWERS, RATINGS, VERDICTS
from alpagasus_ray.engines.base import Reply
from alpagasus_ray.store.reply import BOUGHT, COLUMNS, USAGE, Outcome, row_columns

LAST = '    """The longest reply that was allowed, where that was more than the stage\'s own limit (`retry_max_tokens`)."""\n'
LINE = "    tokens_thought: Annotated[int | None, Column(pa.int32(), is_summed=True)] = None\n"
USES = """
import pyarrow as pa
from alpagasus_ray.config import Judge
from alpagasus_ray.data.schema import ANSWERS, RATINGS, VERDICTS
from alpagasus_ray.inference.ledger import Ledger, stored_in_output
from alpagasus_ray.judging import rubric
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.store.reply import Outcome, Reply, stored_reply
from alpagasus_ray.store.run import describe
from alpagasus_ray.store.storage import Storage

asked = {"example_id": "a:0", "content_hash": "c", "instruction": "Say 4.", "input": "", "output": "4."}
task = RatingTask(Judge(model="toy"), rubric.load("accuracy"))
request = task.request(asked)
given = Outcome(Reply("4", "stop", 10, 5, 0, 0.5, tokens_thought=7), None, 1, 1.0)
row = task.result(asked, request, given)
storage = Storage.open("run")
written = storage.write_table("part-00000.parquet", pa.Table.from_pylist([row], schema=RATINGS))
table = storage.read_table("part-00000.parquet")
ledger = Ledger(storage.at("ledger"))
ledger.add(request.key, "a:0", given)
ledger.flush()

assert all("tokens_thought" in schema.names for schema in (RATINGS, ANSWERS, VERDICTS))
assert table["tokens_thought"].to_pylist() == [7]
assert describe("part-00000.parquet", written, [row]).usage["tokens_thought"] == 7
assert ledger.load().replies[request.key].reply == given.reply
assert stored_in_output(table).replies[request.key].reply == stored_reply(row) == given.reply
older = stored_in_output(table.drop_columns(["tokens_thought"])).replies[request.key].reply
assert older.tokens_thought is None, "of a file that an older version has written"
assert given.shared().reply.tokens_thought == 0, "an equal row's reply is paid once"
"""


def test_a_new_field_of_a_reply_is_one_line_in_one_file(tmp_path: Path) -> None:
    package = tmp_path / "alpagasus_ray"
    shutil.copytree(Path(alpagasus_ray.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    record = package / "store/reply.py"
    text = record.read_text(encoding="utf-8")
    assert text.count(LAST) == 1
    record.write_text(text.replace(LAST, LAST + LINE), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", USES], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_column_of_a_reply_is_in_ratings_answers_and_verdicts_alike() -> None:
    for schema in (RATINGS, ANSWERS, VERDICTS):
        assert all(schema.field(name).type == column.type for name, column in COLUMNS.items())
        assert all(schema.field(name).nullable != column.is_required for name, column in COLUMNS.items())
    assert BOUGHT == ("tokens_in", "tokens_out", "tokens_cached", "cost_usd")
    assert (*BOUGHT, "attempts", "maybe_billed_twice") == USAGE


@pytest.mark.parametrize(("text", "kept"), [("4", None), (" \n", "Let me think.")])
def test_a_row_keeps_what_was_thought_where_the_reply_is_blank(text: str, kept: str | None) -> None:
    assert row_columns(Outcome(Reply(text, reasoning="Let me think."), None, 1, 1.0))["reasoning"] == kept


def test_a_row_without_a_reply_has_its_attempts_and_no_column_of_a_reply() -> None:
    row = row_columns(Outcome(None, "http 500", 3, None, 1))
    assert (row.pop("attempts"), row.pop("maybe_billed_twice")) == (3, 1)
    assert set(row.values()) == {None}
