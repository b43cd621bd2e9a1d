"""lm-eval at work: tasks of its own kind from documents, the requests that they make, and the scores of the replies.

With `harness_tasks.py` the only module that imports lm-eval, in functions. Nothing is asked here: `stored_replies` is a
language model for lm-eval that hands out what engines have answered, and what it does not have is an error. Nothing of
lm-eval's own models, workers and caches is used.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from alpagasus_ray import extras
from alpagasus_ray.benchmarking.documents import ID, SUBSET, Document, Documents
from alpagasus_ray.benchmarking.harness_tasks import check_needs, made_of, of_lm_eval, quiet
from alpagasus_ray.benchmarking.task_files import Benchmark
from alpagasus_ray.errors import UsageError

SEED = 1234
"""Draws shots where a task draws them; lm-eval's own default."""
SAMPLING = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "max_length"}
"""What of a task's settings for generation is carried out; another one is refused."""
MOST_TOKENS = 256
"""Longest reply where a task does not say, as in lm-eval."""


class Question(NamedTuple):
    """One request: a text to go on with, or texts whose probability behind it is wanted."""

    kind: str
    """`generate`, `score` or `rolling`."""
    context: str
    """A text; for chat models messages as JSON."""
    continuations: tuple[str, ...]
    options: str
    """Of `generate`: how, as JSON."""
    document_id: str


class Scored(NamedTuple):
    """What became of one document."""

    document_id: str
    subset: str
    score: float | None
    """None where the measure has no figure for one document."""
    measures: dict[str, Any]
    prediction: str
    target: str
    question: str
    """What is asked, without shots."""
    document: Document
    error: str | None = None
    """What went wrong with its program."""


class Harness:
    """A benchmark as lm-eval carries it out."""

    def __init__(self, benchmark: Benchmark, documents: Documents, shots: int | None = None) -> None:
        extras.require("bench", f"{benchmark.where}: a benchmark of models")
        check_needs(benchmark)
        self.benchmark, self.documents = benchmark, documents
        asked = benchmark.shots if shots is None else shots
        self._tasks = of_lm_eval(benchmark, asked) if benchmark.file.of_lm_eval else made_of(benchmark, documents, asked or 0)
        self.shots = max(task.config.num_fewshot or 0 for task in self._tasks.values())
        """Solved examples before each question."""
        self._questions: dict[bool, list[Question]] = {}

    @property
    def generates(self) -> bool:
        """Whether it only makes text."""
        return all(task.OUTPUT_TYPE == "generate_until" for task in self._tasks.values())

    def questions(self, *, chat: bool) -> list[Question]:
        """Every request, in the order of the documents; choices of one question together."""
        if chat not in self._questions:
            self._questions[chat] = self._made(chat=chat)
        return self._questions[chat]

    def _made(self, *, chat: bool) -> list[Question]:
        made: dict[tuple[str, str, str, str], list[str]] = {}
        for task in self._tasks.values():
            if chat and task.config.gen_prefix:
                raise UsageError(
                    f"{self.benchmark.where}: it begins the reply itself (gen_prefix), which cannot be asked by messages; "
                    "leave `chat` out, and take a model in the job"
                )
            task.set_fewshot_seed(SEED)
            with quiet():
                task.build_all_requests(
                    apply_chat_template=chat, fewshot_as_multiturn=chat, chat_template=_as_messages if chat else None
                )
            for instance in task.instances:
                question = _question(self.benchmark, instance, chat=chat)
                made.setdefault((question.document_id, question.kind, question.context, question.options), []).extend(
                    question.continuations
                )
        return [
            Question(kind, context, tuple(dict.fromkeys(continuations)), options, document)
            for (document, kind, context, options), continuations in made.items()
        ]

    def scored(self, replies: Mapping[Question, str], *, chat: bool) -> tuple[list[Scored], dict[str, Any]]:
        """Each document's result by the replies to its questions, and lm-eval's own figures of the whole."""
        from lm_eval.evaluator import evaluate

        for task in self._tasks.values():
            task.set_fewshot_seed(SEED)
        with quiet():
            result = evaluate(
                lm=stored_replies(replies),
                task_dict={"tasks": dict(self._tasks), "groups": {}, "group_map": {}},
                bootstrap_iters=0,  # its bootstrap starts processes of its own
                apply_chat_template=chat,
                fewshot_as_multiturn=chat,
            )
        assert result is not None, "there is one process"
        figures = {name: _plain(values) for name, values in result["results"].items()}
        return list(self._documents(result["samples"])), figures

    def _documents(self, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Scored]:
        for name, of_task in samples.items():
            task = self._tasks[name]
            wanted = self.benchmark.file.reply or next(iter(dict.fromkeys(sample["filter"] for sample in of_task)), "none")
            rows: dict[str, dict[str, Any]] = {}
            for sample in of_task:
                row = rows.setdefault(_id_of(name, sample), {"measures": {}})
                row["measures"] |= {_measure(metric, sample["filter"]): _plain(sample[metric]) for metric in sample["metrics"]}
                if sample["filter"] == wanted:
                    main = self.benchmark.file.measure or next(iter(sample["metrics"]), "")
                    row |= {"sample": sample, "score": self._score(sample, main)}
            for document_id, row in rows.items():
                if "sample" not in row:
                    raise UsageError(f"{self.benchmark.where}: `reply: {wanted}` is the name of no filter in its task file")
                seen = row["sample"]
                yield Scored(
                    document_id,
                    str(seen["doc"].get(SUBSET) or (name if len(self._tasks) > 1 else "")),
                    row["score"],
                    row["measures"],
                    _prediction(seen, task.OUTPUT_TYPE),
                    str(seen["target"]),
                    str(task.doc_to_text(seen["doc"])),
                    dict(seen["doc"]),
                )

    def _score(self, sample: Mapping[str, Any], measure: str) -> float | None:
        """The figure of one document; None where the measure has none, or a program has still to run."""
        if self.benchmark.file.code:
            return None
        if measure not in sample["metrics"]:
            raise UsageError(
                f"{self.benchmark.where}: `measure: {measure}` is none of what its task file measures: "
                f"{', '.join(sample['metrics'])}"
            )
        value = _plain(sample[measure])
        return float(value) if isinstance(value, bool | int | float) else None


# requests and replies


def _as_messages(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
    """A chat template for lm-eval that leaves the messages to the engine: each model has its own template."""
    assert add_generation_prompt, "tasks that begin the reply themselves are refused"
    return json.dumps([{"role": one["role"], "content": one["content"]} for one in messages], ensure_ascii=False)


def _question(benchmark: Benchmark, instance: Any, *, chat: bool) -> Question:
    if instance.repeats and instance.repeats > 1:
        raise UsageError(f"{benchmark.where}: it asks each question {instance.repeats} times over; only 1 is carried out")
    document = _name(instance)
    if instance.request_type == "generate_until":
        context, options = instance.args[0], generation(benchmark, instance.args[1])
        if chat and benchmark.file.code:
            options["stop"] = []  # a chat model writes around its program what ends the one of a base model
        return Question("generate", context, (), json.dumps(options, sort_keys=True), document)
    if instance.request_type == "loglikelihood":
        return Question("score", instance.args[0], (instance.args[1],), "", document)
    if instance.request_type == "loglikelihood_rolling":
        return Question("rolling", instance.args[0], (), "", document)
    raise UsageError(f"{benchmark.where}: its requests are of the kind {instance.request_type!r}, which is not carried out")


def generation(benchmark: Benchmark, given: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings for generation as requests have them: `max_tokens`, `stop`, `temperature`, `top_p`. A `UsageError`
    tells of one that cannot be carried out."""
    if unknown := sorted(set(given) - SAMPLING):
        raise UsageError(
            f"{benchmark.where}: generation_kwargs has {unknown[0]!r}, which is not carried out; there are "
            f"{', '.join(sorted(SAMPLING))}"
        )
    until = given.get("until") or []
    stop = [until] if isinstance(until, str) else list(until)
    drawn = given.get("do_sample", False) or (given.get("temperature") or 0) > 0
    sampling = (
        {"temperature": float(given.get("temperature", 1.0)), "top_p": given.get("top_p")} if drawn else {"temperature": 0.0}
    )
    made = {"max_tokens": int(given.get("max_gen_toks", MOST_TOKENS)), "stop": stop, **sampling}
    return {key: value for key, value in made.items() if value is not None}


def stored_replies(replies: Mapping[Question, str]) -> Any:
    """A language model, as lm-eval has them, that knows these replies and asks nobody."""
    from lm_eval.api.model import LM

    texts = {(q.document_id, q.context): text for q, text in replies.items() if q.kind == "generate"}
    rolling = {(q.document_id, q.context): float(text) for q, text in replies.items() if q.kind == "rolling"}
    scores = {
        (q.document_id, q.context, continuation): (float(one[0]), bool(one[1]))
        for q, text in replies.items()
        if q.kind == "score"
        for continuation, one in zip(q.continuations, json.loads(text), strict=True)
    }

    class StoredReplies(LM):  # type: ignore[misc]
        """Looks replies up."""

        tokenizer_name = "stored"

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return [scores[_name(one), one.args[0], one.args[1]] for one in requests]

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return [rolling[_name(one), one.args[0]] for one in requests]

        def generate_until(self, requests: list[Any]) -> list[str]:
            return [texts[_name(one), one.args[0]] for one in requests]

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return _as_messages(chat_history, add_generation_prompt)

    return StoredReplies()


def _name(instance: Any) -> str:
    return str(instance.doc.get(ID) or f"{instance.task_name}/{instance.doc_id}")


def _id_of(task: str, sample: Mapping[str, Any]) -> str:
    return str(sample["doc"].get(ID) or f"{task}/{sample['doc_id']}")


# results


def _measure(metric: str, used_filter: str) -> str:
    return metric if used_filter == "none" else f"{metric}, {used_filter}"


def _prediction(sample: Mapping[str, Any], output_type: str) -> str:
    if output_type == "generate_until":
        first = sample["filtered_resps"][0]
        return str(first[0] if isinstance(first, list) and first else first)
    if output_type == "multiple_choice":
        values = [one[0] for one in sample["filtered_resps"]]
        return str(values.index(max(values)))
    return json.dumps(_plain(sample["filtered_resps"]))


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items() if not callable(one)}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        return value.item()
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
