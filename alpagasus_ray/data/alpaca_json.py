"""Examples as the JSON list that Alpaca's and most other training programs read."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from alpagasus_ray.store.storage import Storage, Written


def write_alpaca_json(storage: Storage, name: str, rows: Iterable[Mapping[str, Any]]) -> Written:
    """Rows as one Alpaca JSON list, to the letter as `json.dump(…, indent=4)` writes it, one row in memory at a time.

    `system` and `history` (pairs of instruction and output) stand only in rows that have them.
    """
    checksum, size, separator = hashlib.sha256(), 0, b"[\n"
    with storage.writing(name) as stream:
        for row in rows:
            piece = separator + json.dumps([_alpaca_row(row)], indent=4)[2:-2].encode()
            separator = b",\n"
            stream.write(piece)
            checksum.update(piece)
            size += len(piece)
        end = b"[]" if size == 0 else b"\n]"
        stream.write(end)
        checksum.update(end)
    return Written(size + len(end), checksum.hexdigest())


def _alpaca_row(row: Mapping[str, Any]) -> dict[str, Any]:
    exported: dict[str, Any] = {field: row[field] for field in ("instruction", "input", "output")}
    if row["system"]:
        exported["system"] = row["system"]
    if row["history"]:
        exported["history"] = [[turn["instruction"], turn["output"]] for turn in row["history"]]
    return exported
