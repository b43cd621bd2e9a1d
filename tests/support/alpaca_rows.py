"""All of Alpaca and a judge's scores of it as columns, for tests that need neither files nor a run."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@cache
def alpaca_table(shared: Path) -> pa.Table:
    """The 52,002 rows in order, with ids."""
    files = sorted((shared / "alpaca52k").glob("*.json"), key=lambda file: int(file.name.split("-")[1]))
    rows = [row for file in files for row in json.loads(file.read_text())]
    table = pa.Table.from_pylist([{name: row[name] for name in ("instruction", "input", "output")} for row in rows])
    return table.append_column("example_id", pa.array([f"alpaca:{row:05d}" for row in range(len(rows))]))


@cache
def judge_scores(shared: Path) -> NDArray[np.float64]:
    """gpt-4o-mini's scores from 0 to 5 of the same rows."""
    file = shared / "ratings" / "alpaca52k_three_llm_scores.csv"
    return np.loadtxt(file, delimiter=",", skiprows=1, usecols=1)
