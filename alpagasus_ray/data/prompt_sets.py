"""From a test set file to prompts: what the fields of each published test set mean.

Policy: of a conversation only the first turn is asked, of Self-Instruct's instances only the first. The first record of a
file tells its layout, and which of id, category, skill and difficulty its records have: a later record without one of
them is an error, never a prompt that a table by category would miss. An input and a reference are each prompt's own
affair. A blank text, or null, is an empty one, and a prompt without an instruction stays a prompt. A number is text.

A test set is small and every prompt of it counts: what cannot be read ends in one error with its place. Knows nothing of
models, answers or runs; how files are read is `readers.py`.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, get_args

from alpagasus_ray.data import formats, prompt_fields, readers
from alpagasus_ray.data.formats import NoExample
from alpagasus_ray.data.readers import Record, SourceFile
from alpagasus_ray.errors import InputError, UsageError

FORMATS = Literal["auto", "vicuna", "koala", "arena_hard", "wizardlm", "self_instruct", "alpaca_eval", "jsonl"]

FIELDS = ("id", "instruction", "input", "category", "skill", "difficulty", "reference")
PER_PROMPT = {"input", "reference"}
"""Fields that some prompts of a file may lack."""
PLAIN = {field: (field,) for field in FIELDS}
LAYOUTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "vicuna": {
        "id": ("question_id",),
        "instruction": ("text", "turns[0]"),
        "category": ("category",),
        "reference": ("reference[0]",),
    },
    "koala": {"id": ("id",), "instruction": ("prompt",)},
    "arena_hard": {"id": ("uid",), "instruction": ("prompt",), "category": ("category",)},
    "wizardlm": {"id": ("idx",), "instruction": ("Instruction",), "skill": ("Skill",), "difficulty": ("Difficulty",)},
    "self_instruct": {
        "id": ("id",),
        "instruction": ("instruction",),
        "input": ("instances[0].input",),
        "reference": ("instances[0].output",),
    },
    "alpaca_eval": PLAIN | {"category": ("dataset", "category"), "reference": ("reference", "output")},
    "jsonl": PLAIN,
}
"""For each layout, the keys that a field may stand under, as `_flat` writes them; the first one there counts."""
SIGNS = (
    ("vicuna", {"question_id", "text"}),
    ("vicuna", {"turns[0]"}),
    ("wizardlm", {"Instruction"}),
    ("self_instruct", {"instruction", "instances"}),
    ("alpaca_eval", {"instruction", "output"}),
    ("jsonl", {"instruction"}),
    ("arena_hard", {"uid", "prompt"}),
    ("koala", {"prompt"}),
)
"""The keys that tell a layout; the first that are all there count."""


class Prompt(NamedTuple):
    """One prompt of a test set."""

    prompt_id: str
    """Unique in the test set: the file's own id, a number as `<name>-<number>`; where it has none, `<name>-<position>`."""
    instruction: str
    input: str
    """Empty where there is none."""
    category: str | None
    skill: str | None
    difficulty: int | None
    """As the test set counts it; WizardLM from 1 to 10."""
    reference: str | None
    """An answer that the file holds to be good."""
    source: str
    """`<file>#<position>`, the position as in `records.Record`."""


class Layout(NamedTuple):
    """Where the fields of one file stand."""

    keys: Mapping[str, tuple[str, ...]]
    needs: set[str]
    """Fields that every record must have; their values may be empty."""


def load(name: str, path: str, form: str = "auto", columns: Mapping[str, str] | None = None) -> list[Prompt]:
    """The prompts of the test set `name`, in the order of its files.

    `path` is a file, directory, glob or URI; `form` one of `FORMATS`, where `auto` goes by the first record of each file.
    `columns` (field -> key) says where another layout has its fields; one that it leaves out is looked for under its plain
    name, or where `form` names a layout, as that one has it. `turns[0]` or `instances[0].input` is a key too.

    Raises `UsageError` for a wrong setting or a path with nothing there, `InputError` for a file that is no such test set.
    """
    columns = columns or {}
    _check_settings(name, form, columns)
    found: dict[str, Prompt] = {}
    known: dict[str, Layout] = {}
    for file, record in _records(name, path):
        place = record.place
        try:
            fields = _flat(record)
            layout = known.get(file.path) or known.setdefault(file.path, _layout(fields, form, columns))
            prompt = _prompt(layout, fields, name, len(found) + 1)._replace(source=f"{record.file}#{record.position}")
        except NoExample as reason:
            raise InputError(file.path, place, f"{reason}; {_fix(name)}") from None
        earlier = found.setdefault(prompt.prompt_id, prompt)
        if earlier is not prompt:
            raise InputError(file.path, place, f"its id {prompt.prompt_id!r} is that of {earlier.source} too; {_fix(name)}")
    if not found:
        raise InputError(path, "", f"there is no record in it; {_fix(name)}")
    return list(found.values())


def turns_left_out(name: str, path: str) -> int:
    """How many turns behind the first, which alone is asked, the records have under `turns`."""
    lists = (record.data.get("turns") for _, record in _records(name, path) if record.data is not None)
    return sum(max(0, len(turns) - 1) for turns in lists if isinstance(turns, list))


def detect(fields: Mapping[str, Any]) -> str | None:
    """Name of the layout that a record with these fields (`_flat`) has, or None.

    A dataset for training has none: its inputs and turns stand under keys that are not read here. Alpaca's are.
    """
    if formats.detect(fields) not in (None, "alpaca") and not prompt_fields.is_text(fields.get("conversations")):
        return None
    signed = next((name for name, keys in SIGNS if keys <= fields.keys()), None)
    return signed or ("jsonl" if prompt_fields.is_prompt(fields) else None)


def _check_settings(name: str, form: str, columns: Mapping[str, str]) -> None:
    if form not in get_args(FORMATS):
        fix = f"take one of {', '.join(get_args(FORMATS))}, or name the fields by `columns`"
        raise UsageError(f"generate.test_sets, {name!r}: format is {form!r}, which is not known; {fix}")
    for field in columns:
        if field not in FIELDS:
            raise UsageError(f"generate.test_sets, {name!r}: columns has {field!r}, which is none of {', '.join(FIELDS)}")


def _fix(name: str) -> str:
    how = "`format` or `columns`, e.g. `columns: {instruction: question}`"
    return f"correct the file, or say how to read it in the entry {name!r} of `generate.test_sets` by {how}"


def _records(name: str, path: str) -> Iterator[tuple[SourceFile, Record]]:
    for file in readers.expand(path, f"generate.test_sets, {name!r}"):
        for record in readers.records(file):
            yield file, record


def _flat(record: Record) -> dict[str, Any]:
    """The fields of a record; beside a list stands its first entry, `turns[0]`, or where that is an object what it holds,
    `instances[0].input`."""
    if record.data is None:
        raise NoExample(record.problem)
    flat = dict(record.data)
    for key, value in record.data.items():
        if isinstance(value, list) and value:
            first = value[0]
            flat |= {f"{key}[0].{k}": v for k, v in first.items()} if isinstance(first, Mapping) else {f"{key}[0]": first}
    return flat


def _layout(fields: Mapping[str, Any], form: str, columns: Mapping[str, str]) -> Layout:
    """The layout of a file, from the fields of its first record."""
    if form == "auto":
        form = "jsonl" if columns else detect(fields) or ""
    if not form:
        raise NoExample(f"no known layout has the fields {', '.join(fields)}")
    spelled = {"instruction": prompt_fields.spelled(fields) or PLAIN["instruction"]} if form == "jsonl" else {}
    keys = {**LAYOUTS[form], **spelled, **{field: (key,) for field, key in columns.items()}}
    steady = {field for field in keys if field not in PER_PROMPT and _key(keys[field], fields)}
    instance = {"input"} if form == "self_instruct" else set()
    return Layout(keys, {"instruction", *columns, *steady, *instance})


def _key(keys: tuple[str, ...], fields: Mapping[str, Any]) -> str | None:
    return next((key for key in keys if key in fields), None)


def _prompt(layout: Layout, fields: Mapping[str, Any], name: str, number: int) -> Prompt:
    """The prompt of one record, the `number`-th of its test set, counted from 1; its source is filled in later."""
    found = {field: _text(layout, fields, field) for field in FIELDS}
    return Prompt(
        prompt_id=_prompt_id(found["id"], name, number),
        instruction=found["instruction"],
        input=found["input"],
        category=found["category"] or None,
        skill=found["skill"] or None,
        difficulty=_whole(found["difficulty"]) if found["difficulty"] else None,
        reference=found["reference"] or None,
        source="",
    )


def _text(layout: Layout, fields: Mapping[str, Any], field: str) -> str:
    """The text of a field, empty where it is blank, null or not there."""
    keys = layout.keys.get(field, ())
    key = _key(keys, fields)
    if key is None:
        if field in layout.needs:
            names = " or ".join(f"`{key}`" for key in keys)
            raise NoExample(f"no {names} for the {field} of the prompt; the fields are {', '.join(fields)}")
        return ""
    written = "" if fields[key] is None else formats.text(fields, key)
    return written if written.strip() else ""


def _prompt_id(own: str, name: str, number: int) -> str:
    """The id that the file gives; a number is told apart from those of other test sets by the name."""
    if not own:
        return f"{name}-{number:05d}"
    whole = own.removesuffix(".0")  # a column of whole numbers with a gap is one of floats in Parquet
    return f"{name}-{whole}" if whole.isdecimal() else own


def _whole(written: str) -> int:
    whole = written.strip().removesuffix(".0")
    if not whole.isdecimal():
        raise NoExample(f"the difficulty is {written!r}, not a whole number")
    return int(whole)
