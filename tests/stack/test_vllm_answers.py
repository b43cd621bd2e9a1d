"""Answers by a model in the job: as `transformers` gives them, to all published test sets, though engines die; bad models."""

import contextlib
import json
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
import ray

from alpagasus_ray.config import Answerer, Generate, Judge, Score, TestSet, Vllm
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import AlpagasusError, UsageError
from alpagasus_ray.stages.generate import generate
from alpagasus_ray.stages.score import score
from alpagasus_ray.store.run import Run
from toy_runs import ROOT, job, toy_run

pytest.importorskip("vllm", reason="vLLM is not installed (make install)")
pytestmark = pytest.mark.timeout(600)  # an engine takes half a minute to start, and twice that on a busy machine

PROMPTS = 16
GONE_S = 60
DEMO = str(ROOT / "examples/test_set/prompts.jsonl")
FILES = {"vicuna": "vicuna", "koala": "koala", "wizardlm": "wizardlm", "self_instruct": "sinstruct"}
LONG = {"max_model_len": 16384, "extra": {"hf_overrides": {"max_position_embeddings": 16384}}}
"""The longest prompts of the test sets take more than the tiny model's 2,048 tokens; its rotary positions go on."""

TOO_LONG = {"max_model_len": 4_000_000, "extra": {"hf_overrides": {"max_position_embeddings": 4_000_000}}}
"""A context whose cache of keys and values takes more than the GiB that it is given."""


def _tiny(shared: Path, name: str = "tiny", **vllm: Any) -> Answerer:
    settings = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 2, **vllm}
    return Answerer(name=name, path=str(shared / "tiny_llama"), vllm=Vllm(**settings))


def _answers(run: Run, model: str, test_set: str) -> list[dict[str, Any]]:
    stage = run.answers(model, test_set)
    rows: list[dict[str, Any]] = pa.concat_tables(stage.tables(stage.finished())).to_pylist()
    return rows


def _engines() -> list[psutil.Process]:
    """The processes of engines that this process and its Ray have started."""
    names = ("EngineCore", "VLLM::")
    return [process for process in psutil.process_iter(["name"]) if any(name in (process.info["name"] or "") for name in names)]


def _metric_names() -> list[str]:
    """What vLLM's numbers are called at the endpoint where Prometheus looks for Ray's."""
    (node,) = ray.nodes()
    with urllib.request.urlopen(f"http://127.0.0.1:{node['MetricsExportPort']}/metrics", timeout=10) as response:
        return re.findall(r"^ray_(vllm\w+)\{", response.read().decode(), re.MULTILINE)


@contextlib.contextmanager
def _killed_once(condition: Any) -> Iterator[list[int]]:
    """While the block runs: once the condition holds, the process of an engine is killed."""
    killed: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.1):
            if condition() and (engines := _engines()):
                killed.append(engines[0].pid)
                engines[0].kill()
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield killed
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def _scraped() -> Iterator[set[str]]:
    """What vLLM's numbers are called that Prometheus could see at any time while the block runs."""
    found: set[str] = set()
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.5):
            with contextlib.suppress(OSError):  # a busy machine may not answer in time; it is asked again
                found.update(_metric_names())

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield found
    finally:
        over.set()
        scraper.join()


def _until_gone(before: set[int]) -> None:
    """Until there is no engine but these."""
    deadline = time.monotonic() + GONE_S
    while {process.pid for process in _engines()} - before:
        assert time.monotonic() < deadline, "an engine outlives what had started it"
        time.sleep(0.2)


def _by_transformers(model: str, prompts: list[str], new_tokens: int, adapter: str | None = None) -> list[tuple[int, str]]:
    """How many tokens each prompt has in the model's chat template, and the likeliest answer to it."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(loaded, adapter) if adapter else loaded
    answers = []
    for prompt in prompts:
        messages = [{"role": "user", "content": prompt}]
        given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        made = loaded.generate(**given, max_new_tokens=new_tokens, do_sample=False, pad_token_id=tokenizer.eos_token_id)
        length = given["input_ids"].shape[1]
        answers.append((length, tokenizer.decode(made[0][length:], skip_special_tokens=True).strip()))
    return answers


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # by peft
def test_answers_with_an_adapter_are_those_of_transformers_and_none_is_asked_twice_though_the_engine_is_killed_half_way(
    shared: Path, tmp_path: Path
) -> None:
    prompts = [json.loads(line)["instruction"] for line in Path(DEMO).read_text().splitlines()[:PROMPTS]]
    size, sets = PROMPTS // 4, []
    for number in range(4):
        file = tmp_path / f"prompts-{number}.jsonl"
        file.write_text("".join(json.dumps({"instruction": p}) + "\n" for p in prompts[number * size : (number + 1) * size]))
        sets.append(TestSet(name=f"p{number}", path=str(file)))
    run, before = Run.open(str(tmp_path / "run")), {process.pid for process in _engines()}
    adapter = _adapter(tmp_path / "adapter", 0.5)
    model = _tiny(shared, max_num_seqs=4, lora=adapter)
    config = Generate(models=(model,), test_sets=tuple(sets), max_new_tokens=48, concurrency=6)

    def begun() -> bool:
        return bool(list((tmp_path / "run/answers/tiny").glob("*/done/*")))

    with _killed_once(begun) as killed:
        manifests = generate(config, run)
    _until_gone(before)
    assert len(killed) == 1
    assert [manifest.counts for manifest in manifests] == [manifests[0].counts] * 4
    assert set(manifests[0].counts) <= {"answered", "truncated"}
    rows = [row for found in sets for row in _answers(run, "tiny", found.name)]
    adapted, plain = (_by_transformers(str(shared / "tiny_llama"), prompts, 48, lora) for lora in (adapter, None))
    assert [(row["tokens_in"], row["reply"]) for row in rows] == adapted
    assert sum(a != b for a, b in zip(adapted, plain, strict=True)) > PROMPTS // 2, "the adapter changes what is answered"
    assert all(row["attempts"] <= 1 and row["maybe_billed_twice"] == 0 for row in rows), (
        "what had an answer was not asked again"
    )


@pytest.mark.long
@pytest.mark.timeout(600)
def test_greedy_answers_are_those_of_transformers(shared: Path, tmp_path: Path) -> None:
    source = tmp_path / "prompts.jsonl"
    prompts = [json.loads(line)["instruction"] for line in Path(DEMO).read_text().splitlines()[:32]]
    source.write_text("".join(json.dumps({"instruction": prompt}) + "\n" for prompt in prompts))
    run = Run.open(str(tmp_path / "run"))
    config = Generate(models=(_tiny(shared),), test_sets=(TestSet(name="p", path=str(source)),), max_new_tokens=48)
    generate(config, run)
    found = [(row["tokens_in"], row["reply"]) for row in _answers(run, "tiny", "p")]
    assert found == _by_transformers(str(shared / "tiny_llama"), prompts, 48)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_all_test_sets_are_answered_and_nothing_twice_though_the_engine_is_killed_half_way(
    shared: Path, tmp_path: Path
) -> None:
    run = Run.open(str(tmp_path / "run"))
    sets = tuple(TestSet(name=n, path=str(shared / f"test_sets/{f}_test_set.jsonl")) for n, f in FILES.items())
    config = Generate(models=(_tiny(shared, max_num_seqs=32, **LONG),), test_sets=sets, max_new_tokens=16, concurrency=40)

    def half_way() -> bool:
        return len(list((tmp_path / "run/answers/tiny").glob("*/done/*"))) >= 3

    with _scraped() as metrics, _killed_once(half_way) as killed:
        manifests = generate(config, run)
    assert len(killed) == 1
    # workers report every ten seconds: a stage of a few rows may end before, so that it takes one of minutes to look at this
    assert any("prompt_tokens" in name for name in metrics), metrics
    assert any("prefix_cache" in name for name in metrics), metrics
    assert [manifest.rows for manifest in manifests] == [80, 180, 218, 252]
    assert sum(manifest.counts.get("failed", 0) for manifest in manifests) == 0
    rows = [row for name in FILES for row in _answers(run, "tiny", name)]
    assert len({row["prompt_id"] for row in rows}) == 730
    assert all(row["reply"] is not None for row in rows)
    assert sum(row["attempts"] for row in rows) <= 730, "none was asked again"
    assert all(row["maybe_billed_twice"] == 0 for row in rows)
    assert len(manifests[0].details["category"]) == 9
    assert len(manifests[2].details["skill"]) == 29
    assert set(manifests[2].details["difficulty"]) == {str(n) for n in range(1, 11)}


def test_an_engine_ends_with_its_worker_however_that_ends(shared: Path, tmp_path: Path) -> None:
    program = f"""
import asyncio, os
from alpagasus_ray.config import Answerer, Vllm
from alpagasus_ray.engines.base import ANY_FORM
from alpagasus_ray.engines.vllm_engine import VllmEngine

async def main():
    settings = Vllm(dtype="float32", enforce_eager=True, kv_cache_gib=1)
    model = Answerer(name="tiny", path={str(shared / "tiny_llama")!r}, vllm=settings)
    engine = VllmEngine.start(model, ANY_FORM, ())
    print("started", flush=True)
    os.kill(os.getpid(), 9)

if __name__ == "__main__":
    asyncio.run(main())
"""
    (tmp_path / "started.py").write_text(program)
    before = {process.pid for process in _engines()}
    done = subprocess.run([sys.executable, str(tmp_path / "started.py")], capture_output=True, text=True, check=False)
    assert "started" in done.stdout, done.stderr[-2000:]
    _until_gone(before)


def _adapter(folder: Path, scale: float) -> str:
    """A LoRA adapter for the tiny model as `peft` saves it, with random weights."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    shapes = {"q_proj": 8 * 32, "v_proj": 4 * 32}
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": list(shapes)}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tiny", "bias": "none"}))
    generator, weights = torch.Generator().manual_seed(0), {}
    for layer in range(5):
        for name, size in shapes.items():
            key = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            weights[f"{key}.lora_A.weight"] = torch.randn(4, 64, generator=generator)
            weights[f"{key}.lora_B.weight"] = scale * torch.randn(size, 4, generator=generator)
    save_file(weights, folder / "adapter_model.safetensors")
    return str(folder)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_an_adapter_and_the_alpaca_prompt_change_what_a_model_answers(shared: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    run, sets = Run.open(str(tmp_path / "run")), (TestSet(name="demo", path=DEMO),)
    adapted = _tiny(shared, "adapted", lora=_adapter(tmp_path / "adapter", 0.5))
    plain = _tiny(shared, "alpaca").model_copy(update={"prompt": "alpaca"})
    generate(Generate(models=(adapted, plain), test_sets=sets, max_new_tokens=24), run)
    tokenizer = AutoTokenizer.from_pretrained(shared / "tiny_llama")
    with_adapter, as_alpaca = _answers(run, "adapted", "demo"), _answers(run, "alpaca", "demo")
    assert sum(a["reply"] != b["reply"] for a, b in zip(with_adapter, as_alpaca, strict=True)) > 60
    for row in as_alpaca:
        prompt = alpaca_prompt(row["instruction"], row["input"])
        assert row["tokens_in"] == len(tokenizer(prompt)["input_ids"]), "the text, with what the tokenizer itself adds"


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_directory_that_is_no_adapter_is_told(tmp_path: Path, shared: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is no LoRA adapter" in _refused(tmp_path, str(shared / "tiny_llama"), lora=str(tmp_path / "empty"))


# what is wrong with a model


def test_a_seed_that_would_kill_the_engine_is_refused(tmp_path: Path, shared: Path) -> None:
    drawn = _tiny(shared).model_copy(update={"seed": 1, "temperature": 0.5})
    sets = (TestSet(name="demo", path=DEMO),)
    with pytest.raises(UsageError, match=r"\.seed: .*`temperature: 0`"):
        generate(Generate(models=(drawn,), test_sets=sets), Run.open(str(tmp_path / "run")))


@pytest.fixture
def broken(shared: Path, tmp_path: Path) -> Any:
    """A copy of the tiny model with something changed."""

    def copy(**changes: str | None) -> str:
        folder = tmp_path / "model"
        shutil.copytree(shared / "tiny_llama", folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        for name, content in changes.items():
            file = folder / name.replace("__", ".")
            file.unlink()
            if content is not None:
                file.write_text(content)
        return str(folder)

    return copy


PROGRAM = """
import asyncio, json, sys
from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import ANY_FORM
from alpagasus_ray.engines.vllm_engine import VllmEngine
from alpagasus_ray.errors import UsageError
from alpagasus_ray.judging import rubric
from alpagasus_ray.inference.tasks.rating import NOTHING

async def refused(judge):
    try:
        VllmEngine.start(judge, ANY_FORM, rubric.load("accuracy").messages(NOTHING))
    except UsageError as error:
        return str(error)

async def main():
    print(json.dumps([await refused(Judge.model_validate(given)) for given in json.load(sys.stdin)]))

if __name__ == "__main__":
    asyncio.run(main())
"""


def test_models_that_cannot_judge_are_told_with_what_to_do(tmp_path: Path, shared: Path, broken: Any) -> None:
    """The engine itself, in one process; through Ray and the stage each goes by itself below."""
    (tmp_path / "empty").mkdir()
    tiny, plain = str(shared / "tiny_llama"), {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 1}
    cases: list[tuple[str, dict[str, Any], list[str]]] = [
        (tiny, {"lora": str(tmp_path / "empty")}, ["is no LoRA adapter"]),
        (str(tmp_path / "empty"), {}, ["cannot be loaded as a model", "config.json, weights and tokenizer"]),
        (broken(chat_template__jinja=None), {}, ["has no chat template", "score.judge.vllm.chat_template", "plain"]),
        (tiny, {"max_model_len": 128}, ["the shortest prompt alone takes", "score.judge.vllm.max_model_len"]),
        (tiny, TOO_LONG, ["does not fit the memory", "raise score.judge.vllm.kv_cache_gib (now 1)", ".max_model_len"]),
    ]
    judges = [{"kind": "vllm", "model": model, "vllm": {**plain, **changes}} for model, changes, _ in cases]
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py")]
    log = tmp_path / "log"
    with log.open("w") as stderr:  # a file, as that of one of Ray's workers: the engine's own process says there what is wrong
        done = subprocess.run(command, input=json.dumps(judges), stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    assert done.returncode == 0, log.read_text()[-3000:]
    for told, (_, _, words) in zip(json.loads(done.stdout.splitlines()[-1]), cases, strict=True):
        assert [word for word in words if word not in (told or "")] == [], told


def _refused(tmp_path: Path, model: str, error: type[AlpagasusError] = UsageError, **vllm: Any) -> str:
    run = toy_run(tmp_path, 4)
    settings = {"dtype": "float32", "enforce_eager": True, "kv_cache_gib": 1, **vllm}
    with pytest.raises(error) as told:
        score(Score(judge=Judge(kind="vllm", model=model, vllm=Vllm(**settings))), run)
    return str(told.value)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_path_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    told = _refused(tmp_path, str(tmp_path / "empty"))
    assert "cannot be loaded as a model" in told
    assert "config.json, weights and tokenizer" in told


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_model_without_a_chat_template_is_told_how_to_get_one(tmp_path: Path, broken: Any) -> None:
    told = _refused(tmp_path, broken(chat_template__jinja=None))
    assert "has no chat template" in told
    assert "score.judge.vllm.chat_template" in told
    assert "plain" in told


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_context_shorter_than_the_rubric_is_told(tmp_path: Path, shared: Path) -> None:
    told = _refused(tmp_path, str(shared / "tiny_llama"), max_model_len=128)
    assert "the shortest prompt alone takes" in told
    assert "score.judge.vllm.max_model_len" in told


@pytest.mark.long
@pytest.mark.timeout(300)
def test_an_engine_that_does_not_fit_the_memory_names_the_knobs(tmp_path: Path, shared: Path) -> None:
    told = _refused(tmp_path, str(shared / "tiny_llama"), **TOO_LONG)
    assert "does not fit the memory" in told
    assert "raise score.judge.vllm.kv_cache_gib (now 1), or lower score.judge.vllm.max_model_len" in told


def test_gpus_that_the_cluster_can_never_have_are_told_at_once(tmp_path: Path, shared: Path) -> None:
    told = _refused(tmp_path, str(shared / "tiny_llama"), gpu=True, tensor_parallel=4)
    assert "score.judge.vllm (cpus, gpu, tensor_parallel): one process needs 1 CPU and 4 GPUs of one node" in told


def test_a_model_that_came_to_nothing_binds_nobody_and_ends_with_exit_code_2(tmp_path: Path, shared: Path) -> None:
    run = toy_run(tmp_path, 4)
    settings = ["--set", "score.judge.kind=vllm", "--set", f"score.judge.model={tmp_path}/nothing"]
    done = job("score", tmp_path / "run", *settings)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False), done.stderr
    assert "cannot be loaded as a model" in done.stderr
    # the same run goes on with another judge
    assert score(Score(judge=Judge(kind="rules")), run).rows == 4
