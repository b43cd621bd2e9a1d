"""Questions and scores by lm-eval: each of the benchmarks that come with the package on a few documents, right and wrong
replies."""

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed (make install)")

from alpagasus_ray.benchmarking import documents, harness, task_files
from alpagasus_ray.benchmarking.harness import Harness, Question, Scored
from alpagasus_ray.config import Bench
from alpagasus_ray.errors import UsageError


def ready(folder: Path, name: str, test: list[dict[str, Any]], solved: list[dict[str, Any]] = [], **task: Any) -> Harness:  # noqa: B006
    (folder / name).mkdir(parents=True)
    for split, rows in (("test", test), ("shots", solved)):
        if rows:
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (benchmark,) = task_files.resolved(Bench.model_validate({"tasks": [{"name": name, **task}]}).tasks, str(folder))
    return Harness(benchmark, documents.load(benchmark))


def scored(one: Harness, reply: Callable[[Question], str], *, chat: bool = False) -> list[Scored]:
    return one.scored({question: reply(question) for question in one.questions(chat=chat)}, chat=chat)[0]


def letters(count: int, subject: str = "letters") -> list[dict[str, Any]]:
    return [{"question": f"Which is {n}? ", "subject": subject, "choices": list("wxyz"), "answer": n % 4} for n in range(count)]


def test_mmlu_asks_with_shots_of_the_same_subject_and_takes_the_likeliest_letter(tmp_path: Path) -> None:
    mmlu = ready(tmp_path, "mmlu", letters(4) + letters(4, "big_numbers"), letters(3) + letters(3, "big_numbers"), shots=2)
    questions = mmlu.questions(chat=False)
    assert len(questions) == 8, "the four letters of a question are one request"
    assert questions[0].continuations == (" A", " B", " C", " D")
    assert questions[4].context == (
        "The following are multiple choice questions (with answers) about big numbers.\n\n"
        "Which is 0?\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\nWhich is 1?\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "Which is 0?\nA. w\nB. x\nC. y\nD. z\nAnswer:"
    )
    told = scored(mmlu, lambda _: json.dumps([[-2.0, False], [-1.0, True], [-3.0, False], [-9.0, False]]))
    assert [one.score for one in told] == [0.0, 1.0, 0.0, 0.0] * 2
    assert [(told[5].document_id, told[5].subset, told[5].prediction)] == [("big_numbers/00005", "big_numbers", "1")]


def test_bbh_has_the_worked_shots_of_lm_eval_and_reads_what_follows_the_answer_is(tmp_path: Path) -> None:
    rows = [{"input": "not True is", "target": "False", "task": "boolean_expressions"}] * 1
    rows += [{"input": "( [ ]", "target": ")", "task": "dyck_languages"}]
    bbh = ready(tmp_path, "bbh", rows)
    first, _ = bbh.questions(chat=False)
    assert first.context.count("Let's think step by step.") == 4
    assert json.loads(first.options)["stop"] == ["</s>", "\n\n", "\nQ:"]
    replies = {"boolean": "not True is False. So the answer is False.", "dyck": "We close it. So the answer is )."}
    right = scored(bbh, lambda q: next(text for name, text in replies.items() if q.document_id.startswith(name)))
    assert [one.score for one in right] == [1.0, 1.0]
    assert [one.score for one in scored(bbh, lambda _: "False.")] == [0.0, 0.0]


def test_drop_gives_part_of_the_score_for_part_of_the_words_and_knows_which_questions_share_a_passage(tmp_path: Path) -> None:
    none = {"number": "", "date": {"day": "", "month": "", "year": ""}}
    answer = {**none, "spans": ["the Saint Lawrence river"]}
    also = {"number": [""], "date": [none["date"]], "spans": [["Saint Lawrence"]]}
    row = {"section_id": "p1", "query_id": "q1", "passage": "It flows.", "question": "What?", "answer": answer}
    drop = ready(tmp_path, "drop", [{**row, "validated_answers": also}], shots=0)
    assert [one.score for one in scored(drop, lambda _: " Saint Lawrence")] == [1.0]
    (half,) = scored(drop, lambda _: " Saint John")
    assert half.score is not None
    assert 0 < half.score < 1
    assert half.document["section_id"] == "p1"


def test_gsm8k_takes_the_marked_number_and_keeps_the_last_one_beside_it(tmp_path: Path) -> None:
    rows = [{"question": "How many?", "answer": "2 + 998 = 1000\n#### 1,000"}]
    gsm = ready(tmp_path, "gsm8k", rows, rows * 8)
    (right,) = scored(gsm, lambda _: " It is #### 1000")
    (loose,) = scored(gsm, lambda _: " That makes $1,000.")
    assert (right.score, loose.score) == (1.0, 0.0)
    assert loose.measures == {"exact_match, marked": 0.0, "exact_match, last_number": 1.0}


def test_chat_models_get_the_shots_as_earlier_turns_and_the_same_scores(tmp_path: Path) -> None:
    mmlu = ready(tmp_path, "mmlu", letters(4), letters(3), shots=1)
    asked = json.loads(mmlu.questions(chat=True)[0].context)
    assert [(one["role"], one["content"][:5]) for one in asked] == [
        ("system", "The f"),
        ("user", "Which"),
        ("assistant", "A"),
        ("user", "Which"),
    ]
    told = scored(mmlu, lambda _: json.dumps([[-1.0, True], *[[-2.0, False]] * 3]), chat=True)
    assert [one.score for one in told] == [1.0, 0.0, 0.0, 0.0]


def test_lm_eval_starts_no_process_and_ends_no_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def never(*_: Any, **__: Any) -> None:
        pytest.fail("lm-eval's own machinery was used")

    for of, name in ((ray, "shutdown"), (ray, "init"), (multiprocessing, "Pool")):
        monkeypatch.setattr(of, name, never)
    mmlu = ready(tmp_path, "mmlu", letters(4), shots=0)
    assert len(scored(mmlu, lambda _: json.dumps([[0.0, True]] * 4))) == 4


def test_a_reply_that_is_not_there_is_an_error_and_never_a_score(tmp_path: Path) -> None:
    mmlu = ready(tmp_path, "mmlu", letters(4), shots=0)
    with pytest.raises(KeyError):
        mmlu.scored({}, chat=False)


@pytest.mark.parametrize(
    ("given", "made"),
    [
        ({}, {"max_tokens": 256, "stop": [], "temperature": 0.0}),
        ({"until": "\n", "do_sample": False, "temperature": 0.0}, {"max_tokens": 256, "stop": ["\n"], "temperature": 0.0}),
        (
            {"until": ["a"], "do_sample": True, "top_p": 0.9},
            {"max_tokens": 256, "stop": ["a"], "temperature": 1.0, "top_p": 0.9},
        ),
        ({"temperature": 0.6, "max_gen_toks": 9}, {"max_tokens": 9, "stop": [], "temperature": 0.6}),
    ],
)
def test_how_a_task_generates_is_carried_out(given: dict[str, Any], made: dict[str, Any], tmp_path: Path) -> None:
    gsm = ready(tmp_path, "gsm8k", [{"question": "?", "answer": "#### 1"}], shots=0)
    assert harness.generation(gsm.benchmark, given) == made


def test_what_of_it_is_not_known_is_refused(tmp_path: Path) -> None:
    gsm = ready(tmp_path, "gsm8k", [{"question": "?", "answer": "#### 1"}], shots=0)
    with pytest.raises(UsageError, match="generation_kwargs has 'beams'"):
        harness.generation(gsm.benchmark, {"beams": 4})
