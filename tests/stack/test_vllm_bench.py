"""Benchmarks of a model in the job: the same, document for document, as lm-eval's own `hf` model gives them."""

import asyncio
import json
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow as pa
import pytest
import yaml

from alpagasus_ray.__main__ import main
from alpagasus_ray.benchmarking import documents, task_files
from alpagasus_ray.benchmarking.documents import ID
from alpagasus_ray.benchmarking.harness import Harness
from alpagasus_ray.benchmarking.results import replies_of
from alpagasus_ray.config import Arm, Bench, BenchModel, Generate, Ingest, Judge, Pick, Score
from alpagasus_ray.engines.base import Request, Wanted
from alpagasus_ray.engines.vllm_benchmarks import probabilities
from alpagasus_ray.engines.vllm_model import Prompts
from alpagasus_ray.errors import RowRefused, UsageError
from alpagasus_ray.inference.stage import InferenceStage
from alpagasus_ray.stages.bench import bench
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.pick_subset import pick_subset
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run

pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
pytest.importorskip("lm_eval", reason="lm-eval is not installed (make install)")
pytestmark = pytest.mark.timeout(900)  # an engine takes half a minute to start, and twice that on a busy machine

NEAR = 1e-3
"""How far log probabilities of two programs may be apart that add up in another order."""
SETTINGS = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 1, "max_num_seqs": 8}
PHRASES = ["The number is seven.", "It is a river in France", "no", "Bread, butter and jam"]
TEXTS = [{"text": f"{phrase} And that is all there is to say about it, {n} times over."} for n, phrase in enumerate(PHRASES)]
METRIC = {"aggregation": "mean", "higher_is_better": True}
OWN: dict[str, dict[str, Any]] = {
    "phrases": {
        "measure": "acc",
        "harness": {
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}} Answer: ",  # the blank at the end belongs to the answer
            "doc_to_choice": PHRASES,
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", **METRIC}],
        },
    },
    "goes-on": {
        "measure": "exact_match",
        "harness": {
            "output_type": "generate_until",
            "doc_to_text": "{{question}}",
            "doc_to_target": "{{subject}}",
            "generation_kwargs": {"until": ["e"], "max_gen_toks": 12, "do_sample": False},
            "metric_list": [{"metric": "exact_match", **METRIC}],
        },
    },
    "texts": {
        "measure": "bits_per_byte",
        "harness": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
            "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
        },
    },
}


def mmlu_rows(shared: Path, step: int) -> list[dict[str, Any]]:
    """Rows of MMLU's validation set as the hub has them; of each `step` one."""
    form = re.compile(r".*?\n\n(.*)\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\nAnswer:", re.DOTALL)
    rows = []
    for line in (shared / "malformed/jsonl_named_json_mmlu_val.json").read_text().splitlines()[::step]:
        given = json.loads(line)
        found = form.fullmatch(given["input"])
        assert found is not None
        question, *choices = found.groups()
        rows.append(
            {"question": question, "subject": given["subject"], "choices": choices, "answer": "ABCD".index(given["output"])}
        )
    return rows


def prepared(folder: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Four benchmarks of a few documents each, of every kind of request."""
    tasks: list[dict[str, Any]] = [{"name": "mmlu", "shots": 0}]
    of = {"mmlu": rows, "phrases": rows[:4], "goes-on": rows[:6], "texts": TEXTS}
    for name, own in of.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    for name, given in OWN.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name, "about": "Of a test.", **given}))
        tasks.append({"name": name, "file": str(folder / f"{name}.yaml")})
    return tasks


def of_an_arm(folder: Path, rows: list[dict[str, Any]], model: str) -> Run:
    """A run whose arm `all` holds the first two questions and twenty rows more; some trainer made the model of it."""
    held = [f"{row['question']} {row['choices'][row['answer']]}" for row in rows[:2]]
    others = [f"Say the number {n}, and then why anybody would want to hear of it." for n in range(20)]
    source = folder / "rows.json"
    source.write_text(json.dumps([{"instruction": text, "output": "As asked."} for text in (*held, *others)]))
    run = Run.open(str(folder / "run"))
    ingest(Ingest(source=str(source)), run)
    score(Score(judge=Judge(kind="rules")), run, in_process=True)
    pick_subset(Pick(arms=(Arm(name="all", policy="full"),)), run)
    assert main(["train", run.storage.root, "-s", "finetune.arms=[all]", "-s", f"finetune.checkpoints={{all: {model}}}"]) == 0
    return run


def by_lm_eval(given: Bench, model: str) -> dict[str, dict[str, list[Any]]]:
    """What lm-eval's `hf` model replies to each document of each benchmark."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    # of the 2,048 tokens vLLM needs one for what it makes, and one of the prompt is that which is told of
    own = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=1, max_length=2046)
    found: dict[str, dict[str, list[Any]]] = {}
    for benchmark in task_files.resolved(given.tasks, given.data):
        tasks = Harness(benchmark, documents.load(benchmark))._tasks
        told = evaluate(lm=own, task_dict={"tasks": tasks, "groups": {}, "group_map": {}}, bootstrap_iters=0)
        samples = [sample for part in told["samples"].values() for sample in part]
        found[benchmark.name] = {sample["doc"][ID]: [sample["resps"], sample["metrics"], sample] for sample in samples}
    return found


def killed_once(folder: Path) -> threading.Thread:
    """Ends the engine's process once a shard or a reply of the benchmarks is written."""

    def watch() -> None:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            engines = [one for one in psutil.process_iter(["name"]) if "EngineCore" in (one.info["name"] or "")]
            if engines and any(file.stat().st_size for file in folder.rglob("ledger/*")):
                engines[0].kill()
                return
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    return watcher


def compare(run: Run, given: Bench, model: str) -> dict[str, int]:
    """Asserts that all is the same; the number of documents by benchmark."""
    counts = {}
    for name, theirs in by_lm_eval(given, model).items():
        home = run.benchmark("tiny", name)
        rows = pa.concat_tables(home.tables(home.finished())).to_pylist()
        told = replies_of(home)
        replies: dict[str, list[str]] = {}
        for row in pa.concat_tables(told.tables(told.finished())).to_pylist():
            assert row["attempts"] <= 1, "nothing was asked twice"
            replies.setdefault(row["document_id"], []).append(row["reply"])
        assert {row["document_id"] for row in rows} == theirs.keys()
        for row in rows:
            resps, _, sample = theirs[row["document_id"]]
            (own,) = replies[row["document_id"]]
            if name == "goes-on":
                # `hf` decodes the reply by itself, and some tokenizers then drop the blank that it begins with
                assert (own or "").lstrip() == resps[0][0].lstrip()
            elif name == "texts":
                assert float(own) == pytest.approx(resps[0][0], abs=NEAR)
            else:
                pairs = [resp[0] for resp in resps]
                assert [value for value, _ in json.loads(own)] == pytest.approx([value for value, _ in pairs], abs=NEAR)
                assert [greedy for _, greedy in json.loads(own)] == [greedy for _, greedy in pairs]
                assert row["score"] == sample["acc"], row["document_id"]
        counts[name] = len(rows)
    return counts


# short, without the kill: a second engine takes half a minute, and test_vllm_answers.py kills one in the same stage
@pytest.mark.parametrize("killed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_every_kind_of_benchmark_is_as_lm_eval_has_it_though_the_engine_is_killed_half_way(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    rows = mmlu_rows(shared, 256)
    tasks = prepared(tmp_path / "data", rows)
    model = str(shared / "tiny_llama")
    run = of_an_arm(tmp_path, rows, model)

    def wanted(**more: Any) -> Bench:
        models = [{"name": "tiny", "arm": "all", "vllm": SETTINGS | more}]
        return Bench.model_validate(
            {"models": models, "tasks": tasks, "data": str(tmp_path / "data"), "max_unusable": 1, "concurrency": 2}
        )

    with pytest.raises(UsageError, match=r"bench\.models\.vllm \(cpus, gpu, tensor_parallel\)"):
        bench(wanted(gpu=True, tensor_parallel=8), Generate(), run)
    given = wanted()
    watcher = killed_once(tmp_path / "run/benchmarks") if killed else None
    made = bench(given, Generate(), run)
    if watcher is not None:
        watcher.join()
    assert compare(run, given, model) == {"mmlu": 6, "phrases": 4, "goes-on": 6, "texts": 4}
    seen = {task: manifest.details["contamination"] for _, task, manifest in made}
    assert (seen["mmlu"]["found"], seen["mmlu"]["examples"], seen["texts"]["found"]) == (2, 2, 0)
    monkeypatch.setattr(InferenceStage, "_drive", lambda *_: pytest.fail("a finished benchmark starts no engine"))
    assert bench(given, Generate(), run) == made


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_1531_rows_of_mmlu_validation_are_as_lm_eval_has_them(shared: Path, tmp_path: Path) -> None:
    prepared(tmp_path / "data", mmlu_rows(shared, 1))
    model = str(shared / "tiny_llama")
    given = Bench.model_validate(
        {
            "models": [{"name": "tiny", "path": model, "vllm": SETTINGS | {"max_num_seqs": 32}}],
            "tasks": [{"name": "mmlu", "shots": 0}],
            "data": str(tmp_path / "data"),
            "too_long": "cut",
        }
    )
    run = Run.open(str(tmp_path / "run"))
    bench(given, Generate(), run)
    assert compare(run, given, model) == {"mmlu": 1531}


def test_texts_are_cut_into_tokens_windows_and_ends_as_lm_eval_does_it(shared: Path) -> None:
    """The engine's own arithmetic alone: in place of vLLM the same model by transformers, which is what lm-eval asks too."""
    import torch
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    context = 128
    prompts = Prompts(BenchModel(name="tiny", path=str(shared / "tiny_llama")), context)
    model = AutoModelForCausalLM.from_pretrained(shared / "tiny_llama", dtype=torch.float32).eval()
    theirs = HFLM(pretrained=model, tokenizer=prompts.tokenizer, max_length=context - 2, batch_size=1, device="cpu")

    async def run(ids: list[int], asked: Any) -> Any:
        assert len(ids) + asked.max_tokens <= context, "vLLM would refuse it"
        with torch.no_grad():
            every = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        told = [None, *({i: SimpleNamespace(logprob=r[i], rank=int((r > r[i]).sum()) + 1)} for r, i in zip(every, ids[1:]))]  # noqa: B905
        likeliest = int(every[-1].argmax())
        last = {token: SimpleNamespace(logprob=every[-1][token]) for token in asked.logprob_token_ids or ()}
        return SimpleNamespace(prompt_logprobs=told, outputs=[SimpleNamespace(logprobs=[last], token_ids=[likeliest])])

    def ours(text: str, **wanted: Any) -> Any:
        request, asked = Request("key", [{"role": "user", "content": text}], {}), Wanted(plain=True, **wanted)
        return json.loads(asyncio.run(probabilities(run, prompts, request, asked)).text)

    long = "The quick brown fox jumps over the lazy dog and then goes home. " * 12
    for text in ("The river ", "Question: what?\nAnswer:", "", "Hello there,  ", long):
        for behind in (PHRASES, [" A", " B"]):
            told = theirs.loglikelihood([Instance("loglikelihood", {}, (text, one), 0) for one in behind], disable_tqdm=True)
            found = ours(text, continuations=tuple(behind), cut=True)
            assert [value for value, _ in found] == pytest.approx([value for value, _ in told], abs=NEAR), (text, behind)
            assert [greedy for _, greedy in found] == [greedy for _, greedy in told]
    for text in ("short text", long):
        (told,) = theirs.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, (text,), 0)], disable_tqdm=True)
        assert ours(text, rolling=True) == pytest.approx(told, abs=NEAR)
    with pytest.raises(RowRefused, match="too long"):
        ours(long, continuations=(" A",))
