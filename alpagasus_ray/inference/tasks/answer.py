"""What answers are: how a prompt is asked and its reply kept, what identifies them, what their manifest says.

Knows nothing of how requests are sent, nor of calls that go on where others were.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from alpagasus_ray.config import PLAIN, Answerer, Generate
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.data.schema import ANSWERS, PROMPTS
from alpagasus_ray.engines.base import ANY_FORM, LENGTH, Engine, Message, Reply, ReplyForm, Request
from alpagasus_ray.engines.identity import body, checkpoint_print, identity_of, request_key, weights_print, with_template
from alpagasus_ray.engines.imported import files_of, found_files
from alpagasus_ray.engines.kinds import open_engines
from alpagasus_ray.engines.longer import noting, with_longer
from alpagasus_ray.engines.weights import at_hand
from alpagasus_ray.errors import UsageError
from alpagasus_ray.inference.stage import Rows, Target
from alpagasus_ray.judging.cleaning import Visible, nothing_to_read, visible
from alpagasus_ray.store.reply import Outcome, row_columns, stored_reply
from alpagasus_ray.store.run import CHECKPOINT, Begun, FileEntry, Manifest, Run, StageDir
from alpagasus_ray.store.storage import Storage

ANSWERED, EMPTY, TRUNCATED, REFUSED, FAILED = "answered", "empty", "truncated", "refused", "failed"
STATUSES = (ANSWERED, EMPTY, TRUNCATED, REFUSED, FAILED)
UNANSWERED = (EMPTY, TRUNCATED, REFUSED, FAILED)
"""Statuses of what is no whole answer."""
GOOD = frozenset({ANSWERED, TRUNCATED})
"""Statuses of answers that can be judged."""
CONFIG = "config.json"
ANSWERS_JSON = "answers.json"


@dataclass(frozen=True)
class AnswerTask:
    """What is done with each prompt: ask a model and keep what it says."""

    model: Answerer
    test_sets: tuple[str, ...]
    checkpoint: StageDir | None = None
    """That of this run's arm, where the model is one."""
    weights: Storage | None = None
    """Where its files lie."""
    keeps_thoughts: bool = False
    """Whether what the model thought stays part of its answer."""
    longest: int | None = None
    """Longest answer to the prompts that are asked again because theirs was cut."""

    def open_engines(self) -> list[Engine]:
        model = with_longer(at_hand(self.model, self.weights), self.longest)
        engines = open_engines(model, shortest=self._messages("?", ""), test_sets=self.test_sets)
        return noting(engines, self.longest)

    @property
    def schema(self) -> pa.Schema:
        return ANSWERS

    @property
    def form(self) -> ReplyForm:
        return ANY_FORM

    @cached_property
    def _body(self) -> dict[str, Any]:
        return body(_anywhere(self.model), ANY_FORM) | {"prompt": self.model.prompt}

    def request(self, row: Mapping[str, Any]) -> Request:
        blank = not (row["instruction"].strip() or row["input"].strip())
        messages = [] if blank else self._messages(row["instruction"], row["input"])
        if not self.model.is_model:
            return Request(row["prompt_id"], messages, row)
        return Request(request_key(self._body, messages), messages, row)

    def _messages(self, instruction: str, input_text: str) -> list[Message]:
        if self.model.prompt == "alpaca":
            return [{"role": "user", "content": alpaca_prompt(instruction, input_text)}]
        return [{"role": "user", "content": "\n\n".join(part for part in (instruction, input_text) if part)}]

    def result(self, row: Mapping[str, Any], request: Request, outcome: Outcome) -> dict[str, Any]:
        return {
            **{name: row[name] for name in PROMPTS.names},
            "request_hash": request.key,
            **row_columns(outcome),
            **self.reading(outcome.reply, outcome.error),
        }

    def reading(self, reply: Reply | None, error: str | None) -> dict[str, Any]:
        """The columns that are read off a reply; `error` says why there is none."""
        if reply is None:
            return {"status": FAILED, "reply": None, "raw": None, "error": error}
        seen = Visible(reply.text) if self.keeps_thoughts else visible(reply.text)
        # without thoughts, unless the recipe keeps them: a judge of answers would rate how long a model thinks
        text = seen.text.strip()
        raw = {"raw": None if text == reply.text.strip() else reply.text}
        nothing = nothing_to_read(seen, reply.finish_reason, reply.reasoning)
        if nothing is None:
            return {"status": TRUNCATED if reply.finish_reason == LENGTH else ANSWERED, "reply": text, "error": None, **raw}
        if nothing.status == FAILED:  # its text is kept, and is no answer
            return {"status": FAILED, "reply": None, "raw": reply.text, "error": nothing.error}
        return {"status": nothing.status, "reply": text, "error": nothing.error, **raw}

    def read_again(self, rows: Rows, _: Callable[[], Rows]) -> Rows:
        """Answers with their replies read anew."""
        return [row | self.reading(stored_reply(row), row["error"]) for row in rows]

    @property
    def settings(self) -> dict[str, Any]:
        """The identity of a model's answers; a checkpoint of the run is known by its arm, wherever the run lies."""
        # what is as usual is no part of it, so that older runs go on
        thoughts = {"thoughts": "keep"} if self.keeps_thoughts else {}
        prompt = {"prompt": self.model.prompt} if self.model.is_model else {}
        return {"model": identity_of(_anywhere(self.model)), **prompt, **thoughts}

    def inputs(self, test_set: str) -> dict[str, str]:
        """What answers to one test set are made from besides its prompts: the checkpoint, or files of answers."""
        model = self.model
        if self.checkpoint is not None:
            trained = self.checkpoint.manifest()
            inputs = {self.checkpoint.name: trained.content_hash() if trained else "a checkpoint without a manifest"}
            if trained and CHECKPOINT in trained.details:  # nobody here guards those files
                inputs |= checkpoint_print(CHECKPOINT, trained.details[CHECKPOINT])
        else:
            inputs = weights_print(model)
        if model.answers is not None:
            for location in files_of(model.answers, [test_set]).values():
                inputs |= {file.name: file.fingerprint() for file in found_files(location)}
        return inputs

    def manifest(self, target: Target, files: list[FileEntry], begun: Begun) -> Manifest:
        """Answers are counted by status and group; they are written as one JSON file as well."""
        stage = target.home
        details = _groups(stage, files)
        manifest = stage.build(begun, files, STATUSES, libraries=self.model.traits.libraries, details=details)
        exported = json.dumps(list(_exported(self.model.name, stage, files)), indent=2, ensure_ascii=False).encode()
        written = stage.storage.write(ANSWERS_JSON, exported)
        listed = [*files, FileEntry(name=ANSWERS_JSON, rows=manifest.rows, **written._asdict())]
        return manifest.model_copy(update={"files": listed})


def resolved(model: Answerer, config: Generate, run: Run) -> Answerer:
    """The model with what the stage says for all of them; that of an arm with the place of its checkpoint."""
    common = {
        "max_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": config.seed,
    }
    # what a model says for itself holds, also a null that is written
    changes: dict[str, Any] = {key: value for key, value in common.items() if key not in model.model_fields_set}
    if model.in_job and model.max_tokens is None:
        changes["max_tokens"] = config.max_new_tokens
    if model.in_job and model.prompt == "alpaca" and model.vllm.chat_template is None:
        changes["vllm"] = model.vllm.model_copy(update={"chat_template": PLAIN})
    if model.arm is not None:
        changes["model"] = arm_checkpoint(model.where, model.name, model.arm, run)
    return with_template(model.model_copy(update=changes))


def _anywhere(model: Answerer) -> Answerer:
    """The model with a name that holds wherever the run lies."""
    return model if model.arm is None else model.model_copy(update={"model": f"models/{model.arm}"})


def _groups(stage: StageDir, files: list[FileEntry]) -> dict[str, Any]:
    """Prompts by finish reason, category, skill and difficulty, and the mean length of the answers."""
    names = ["finish_reason", "category", "skill", "difficulty", "reply"]
    table = pa.concat_tables(stage.table(entry.name, entry.sha256, names) for entry in files)
    counted = {name: Counter(str(value) for value in table[name].to_pylist() if value is not None) for name in names[:-1]}
    # characters, for not every script has blanks between its words
    mean = pc.mean(pc.utf8_length(table["reply"].filter(_says(table["reply"])))).as_py()
    length = {"value": mean, "unit": "characters"}
    return {**{name: dict(found.most_common()) for name, found in counted.items()}, "mean_answer_length": length}


def _says(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which answers have words: an empty one has no length that means anything."""
    return pc.not_equal(pc.utf8_trim_whitespace(texts), "")


def _exported(model: str, stage: StageDir, files: Sequence[FileEntry]) -> Iterator[dict[str, Any]]:
    """The answers as AlpacaEval's outputs, with what else a test set says of a prompt."""
    for entry in files:
        for row in stage.table(entry.name, entry.sha256).to_pylist():
            kept = {key: row[key] for key in ("prompt_id", "category", "skill", "difficulty") if row[key] is not None}
            yield {
                "dataset": row["test_set"],
                **kept,
                "instruction": row["instruction"],
                "input": row["input"],
                "output": row["reply"],
                "generator": model,
            }


def arm_checkpoint(where: str, name: str, arm: str, run: Run) -> str:
    """The directory of an arm's finished checkpoint; a `UsageError` names the model of the recipe that lacks it."""
    weights = run.weights(arm)
    if not weights.exists(CONFIG):
        raise UsageError(
            f"{where}: {name!r} is the arm {arm!r}, and {weights.root} holds no checkpoint; finetune it first, or name a "
            "checkpoint by `path`"
        )
    return weights.root
