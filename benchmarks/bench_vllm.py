"""Local engines, side by side: the score stage against bare vLLM and Ray's processor, replies with and without explanation,
the rubric first and last, answers against `transformers` one prompt at a time.

On a machine with a GPU `python benchmarks/run.py --only vllm,replies,answers,processor` takes a model with the layers of
Llama 3 8B and random weights in place of the small one; vLLM makes the weights itself, so nothing is fetched.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from alpagasus_ray.config import Answerer, Generate, Judge, Score, TestSet, Vllm
from alpagasus_ray.engines.base import Request
from alpagasus_ray.engines.score_grammar import pattern
from alpagasus_ray.judging import rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.progress import Progress
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.stages.ingest import ingest
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from measure import ROOT, Table

TINY = ROOT.parent / "shared/data/tiny_llama"
TEST_SETS = ROOT.parent / "shared/data/test_sets"
BARE = ROOT / "benchmarks/bare_vllm.py"
SETS = {"vicuna": "vicuna", "koala": "koala", "wizardlm": "wizardlm", "self_instruct": "sinstruct"}
LONGEST = 600
"""Characters of an example, so that its prompt and 256 tokens of reply fit the small model's context."""
TURNS = 3
SMALL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
LARGE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}


def has_gpu() -> bool:
    """Whether `nvidia-smi` finds one; torch is not asked, which would hold memory of it."""
    return (
        shutil.which("nvidia-smi") is not None
        and subprocess.run(["nvidia-smi", "-L"], capture_output=True, check=False).returncode == 0
    )


class Local:
    """The model that is measured: a Llama with random weights and the tokenizer of the tiny one."""

    def __init__(self, folder: Path) -> None:
        self.on_gpu = has_gpu()
        self.path = str(folder / "model")
        if not os.path.exists(self.path):
            shutil.copytree(TINY, self.path, copy_function=shutil.copyfile)
            os.chmod(self.path, 0o755)
            os.unlink(f"{self.path}/model.safetensors")
            config = json.loads((TINY / "config.json").read_text())
            shape = {**config, **(LARGE if self.on_gpu else SMALL), "max_position_embeddings": 16384}
            Path(self.path, "config.json").write_text(json.dumps(shape))
        self.rows = 4000 if self.on_gpu else 800
        common: dict[str, Any] = {"max_model_len": 16384, "extra": {"load_format": "dummy"}}
        gpu: dict[str, Any] = {"dtype": "bfloat16", "quantization": "fp8"}
        self.vllm = Vllm(**common, **(gpu if self.on_gpu else {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 2}))
        self.name = "the layers of Llama 3 8B, FP8, one GPU" if self.on_gpu else "7 million parameters, float32, 2 CPU cores"

    def arguments(self) -> dict[str, Any]:
        """The same for `vllm.LLM`."""
        kept = self.vllm.model_dump(include={"dtype", "quantization", "max_model_len", "enforce_eager", "max_num_seqs"})
        return {**kept, "generation_config": "vllm", "enable_prefix_caching": True, **self.vllm.extra}

    def bare(self, folder: Path, how: str, prompts: Sequence[Any], sampling: Mapping[str, Any]) -> dict[str, float]:
        """The baseline, in a process of its own."""
        file = folder / f"{how}.json"
        asked = {"model": self.path, "arguments": self.arguments(), "sampling": dict(sampling), "prompts": list(prompts)}
        file.write_text(json.dumps(asked))
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": str(self.vllm.kv_cache_gib)}
        done = subprocess.run(
            [sys.executable, str(BARE), how, str(file)], capture_output=True, text=True, env=environment, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        loaded: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return loaded


class Clock:
    """When how many rows of a stage were through."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def rate(self) -> float:
        """Rows a second from the first that was through to the last, the start of engines left out."""
        seen = [mark for mark in self.marks if mark[1] > 0]
        (first, before), (last, after) = seen[0], next(mark for mark in seen if mark[1] == seen[-1][1])
        return (after - before) / (last - first)


@contextmanager
def watched() -> Iterator[Clock]:
    """Note how a stage goes on, as its driver is told twice a second."""
    clock, show = Clock(), Progress.show

    def note(self: Progress, done: int, *told: Any) -> None:
        clock.marks.append((time.monotonic(), done))
        show(self, done, *told)

    with mock.patch.object(Progress, "show", note):
        yield clock


def _short_run(run: Run, folder: Path, rows: int) -> Run:
    examples = run.examples()
    fields = ["instruction", "input", "output"]
    every = (row for table in examples.tables(examples.finished(), fields) for row in table.to_pylist())
    short = [row for row in every if sum(len(text.encode()) for text in row.values()) <= LONGEST][:rows]
    folder.mkdir()
    (folder / "short.json").write_text(json.dumps(short))
    made = Run.open(str(folder / "run"))
    from alpagasus_ray.config import Ingest

    ingest(Ingest(source=str(folder / "short.json"), name="short", rows_per_shard=200), made)
    return made


def _prompts(run: Run) -> list[list[dict[str, str]]]:
    asked, examples = rubric.load("accuracy"), run.examples()
    return [asked.messages(row) for table in examples.tables(examples.finished()) for row in table.to_pylist()]


def _judge(local: Local, **changes: Any) -> Judge:
    return Judge(kind="vllm", model=local.path, vllm=local.vllm, **{"explain": False, **changes})


def _stage(local: Local, source: Run, folder: Path, **changes: Any) -> float:
    shutil.copytree(f"{source.storage.root}/examples", folder / "examples")
    with watched() as clock:
        score(Score(judge=_judge(local, **changes)), Run.open(str(folder)))
    return clock.rate()


def bench_vllm(run: Run, work: Path) -> Table:
    """The whole score stage against `vllm.LLM.chat`, in turns."""
    local = Local(work)
    source = _short_run(run, work / "vllm", local.rows)
    prompts = _prompts(source)
    scores = reply_form(_judge(local), rubric.load("accuracy")).scores
    table = Table(
        f"A vLLM judge against bare `vllm.LLM.chat`, {local.name}, {len(prompts):,} rows, scores only; engine start left out",
        "turn",
        "LLM.chat, rows/s",
        "score stage, rows/s",
        "stage / bare",
    )
    for turn in range(1, TURNS + 1):
        sampling = {"temperature": 0.0, "max_tokens": 256, "stop": ["\n"], "regex": pattern(scores)}
        bare = local.bare(work / "vllm", "chat", prompts, sampling)
        ours = _stage(local, source, work / f"vllm-{turn}")
        rate = bare["rows"] / bare["seconds"]
        table.row(turn, f"{rate:.1f}", f"{ours:.1f}", f"{ours / rate:.3f}")
    return table


def bench_replies(run: Run, work: Path) -> Table:
    """One engine, the same rows: what the explanation costs, what the order of the prompt does, what expected scores cost."""
    local = Local(work)
    source = _short_run(run, work / "replies", min(local.rows, 400))
    return asyncio.run(_replies(local, _prompts(source)))


async def _replies(local: Local, prompts: Sequence[list[dict[str, str]]]) -> Table:
    from alpagasus_ray.engines.vllm_engine import VllmEngine

    asked = rubric.load("accuracy")
    judge = _judge(local)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(local.vllm.kv_cache_gib)
    started = VllmEngine.start(judge, reply_form(judge, asked), prompts[0])
    table = Table(
        f"One engine, {local.name}, {len(prompts):,} rows", "replies", "rows/s", "of the first", "prompt tokens from the cache"
    )
    # one engine for all, whose parts are taken apart here
    ways: list[tuple[str, Judge, Sequence[list[dict[str, str]]]]] = [
        ("score only, rubric first", judge, prompts),
        ("score only, rubric last", judge, [_rubric_last(prompt) for prompt in prompts]),
        ("score and explanation of 256 tokens", _judge(local, explain=True), prompts),
        ("score only, with expected score in half points", _judge(local, expected=True), prompts),
        ("score only, with expected score in whole points", _judge(local, expected=True, rubric="accuracy-integer"), prompts),
    ]
    first = 0.0
    for name, who, messages in ways:
        engine = VllmEngine(started._engine, started._prompts, who, reply_form(who, rubric.load(who.rubric)))  # noqa: SLF001
        await started._engine.reset_prefix_cache()  # noqa: SLF001
        gate = asyncio.Semaphore(288)

        async def one(
            prompt: list[dict[str, str]], engine: VllmEngine = engine, gate: asyncio.Semaphore = gate
        ) -> tuple[int, int]:
            async with gate:
                reply = await engine.complete(Request("", prompt, {}))
            return reply.tokens_in or 0, reply.tokens_cached or 0

        before = time.monotonic()
        counted = await asyncio.gather(*(one(prompt) for prompt in messages))
        rate = len(messages) / (time.monotonic() - before)
        first = first or rate
        cached = sum(hit for _, hit in counted) / sum(total for total, _ in counted)
        table.row(name, f"{rate:.1f}", f"{rate / first:.2f}", f"{cached:.1%}")
    return table


def _rubric_last(prompt: list[dict[str, str]]) -> list[dict[str, str]]:
    system, user = prompt
    return [{"role": "user", "content": f"{user['content']}\n\n{system['content']}"}]


def bench_answers(run: Run, work: Path) -> Table:
    """The 730 prompts of the published test sets, against `transformers` one at a time on an even sample of them."""
    del run
    local = Local(work)
    settings = local.vllm.model_dump(exclude_defaults=True)
    if not local.on_gpu:  # the original's way needs real weights: those of the tiny model
        settings["extra"] = {"hf_overrides": {"max_position_embeddings": 16384}}
        local.path = str(TINY)
    model = Answerer(name="model", path=local.path, vllm=Vllm(**settings))
    size = local.name if local.on_gpu else "260 thousand parameters, float32, 2 CPU cores"
    columns = ("longest answer", "way", "prompts", "prompts/s", "tokens/s", "factor")
    table = Table(f"Answers to the four published test sets, {size}", *columns)
    for longest in (256, 1024):
        folder = work / f"answers-{longest}"
        folder.mkdir()
        sets = tuple(TestSet(name=name, path=str(TEST_SETS / f"{file}_test_set.jsonl")) for name, file in SETS.items())
        made = Run.open(str(folder / "run"))
        with watched() as clock:
            generate(Generate(models=(model,), test_sets=sets, max_new_tokens=longest), made)
        stages = [made.answers("model", name) for name in SETS]
        rows = [row for stage in stages for part in stage.tables(stage.finished()) for row in part.to_pylist()]
        ours = clock.rate()
        fast = ours * sum(row["tokens_out"] for row in rows) / len(rows)
        sample = [row for row in rows[:: len(rows) // 20] if row["tokens_in"] < 1000]
        texts = ("\n\n".join(filter(None, (row["instruction"], row["input"]))) for row in sample)
        prompts = [[{"role": "user", "content": text}] for text in texts]
        theirs = local.bare(folder, "transformers", prompts, {"max_tokens": longest})
        slow = theirs["tokens"] / theirs["seconds"]
        each = len(prompts) / theirs["seconds"]
        table.row(longest, "`transformers`, one prompt at a time", len(prompts), f"{each:.2f}", f"{slow:,.0f}", "1")
        table.row(longest, "`jobs/generate.py`", len(rows), f"{ours:.2f}", f"{fast:,.0f}", f"{fast / slow:.1f}")
    return table


def bench_processor(run: Run, work: Path) -> Table:
    """Ray's own vLLM processor and the score stage on the same prompts and settings."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    local = Local(work)
    source = _short_run(run, work / "processor", local.rows)
    prompts = _prompts(source)
    scores = reply_form(_judge(local), rubric.load("accuracy")).scores
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(local.vllm.kv_cache_gib)
    # its stages would take all the CPUs there are, and leave none for the engine
    stages = ("chat_template", "tokenize", "detokenize")
    placed: dict[str, Any] = {f"{stage}_stage": {"enabled": True, "num_cpus": 0.2} for stage in stages}
    if not local.on_gpu:
        placed["placement_group_config"] = {"bundle_per_worker": {"CPU": 1, "GPU": 0}}
    config = vLLMEngineProcessorConfig(
        model_source=local.path,
        engine_kwargs={key: value for key, value in local.arguments().items() if value is not None},
        concurrency=1,
        batch_size=64,
        max_concurrent_batches=8,
        runtime_env={"env_vars": {"VLLM_CPU_KVCACHE_SPACE": str(local.vllm.kv_cache_gib), "VLLM_NO_USAGE_STATS": "1"}},
        **placed,
    )
    sampling = {"temperature": 0.0, "max_tokens": 256, "stop": ["\n"], "structured_outputs": {"regex": pattern(scores)}}
    processor = build_processor(
        config,
        preprocess=lambda row: {"messages": json.loads(row["messages"]), "sampling_params": sampling},
        postprocess=lambda row: {"reply": row["generated_text"]},
        preprocess_map_kwargs={"num_cpus": 0.2},
        postprocess_map_kwargs={"num_cpus": 0.2},
    )
    rows = processor(ray.data.from_items([{"messages": json.dumps(prompt)} for prompt in prompts])).iter_rows()
    marks = [time.monotonic() for _ in rows]
    first = next(number for number, mark in enumerate(marks) if mark > marks[0])
    theirs = (len(marks) - first) / (marks[-1] - marks[0])
    ours = _stage(local, source, work / "processor-ours")
    table = Table(f"Ray's vLLM processor and the score stage, {local.name}, {len(prompts):,} rows", "way", "rows/s")
    table.row("`ray.data.llm` vLLM processor, batch 64, 8 batches at once", f"{theirs:.1f}")
    table.row("score stage", f"{ours:.1f}")
    return table
