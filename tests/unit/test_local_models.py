"""What is known of a model in the job before any engine starts: its place on a cluster, its settings, its messages."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alpagasus_ray.config import Answerer, Arm, Generate, Judge, Score, Vllm
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.engines.base import ANY_FORM
from alpagasus_ray.engines.identity import weights_print, with_template
from alpagasus_ray.engines.vllm_model import _merged, start_failure
from alpagasus_ray.errors import EngineUnusable, SettingsChanged, UsageError
from alpagasus_ray.inference.spec import limits_of
from alpagasus_ray.inference.stage import begin
from alpagasus_ray.inference.tasks.answer import AnswerTask, resolved
from alpagasus_ray.inference.tasks.rating import RatingTask
from alpagasus_ray.judging import rubric
from alpagasus_ray.judging.reply_format import reply_form
from alpagasus_ray.raycluster import connect, nodes
from alpagasus_ray.raycluster.pool import Pool, PoolRequest
from alpagasus_ray.selection.policies import Columns, choose
from alpagasus_ray.store.run import Run

LOCAL = Judge(kind="vllm", model="m")


@pytest.mark.parametrize(
    ("judge", "score", "resources", "pool"),
    [
        (LOCAL, {}, {"CPU": 8}, Pool(1)),
        (LOCAL, {}, {"CPU": 64, "GPU": 8}, Pool(8, gpus=1)),
        (LOCAL.model_copy(update={"vllm": Vllm(tensor_parallel=4)}), {}, {"CPU": 64, "GPU": 8}, Pool(2, gpus=4)),
        (LOCAL.model_copy(update={"vllm": Vllm(cpus=16)}), {}, {"CPU": 40, "GPU": 8}, Pool(2, cpus=16, gpus=1)),
        (LOCAL.model_copy(update={"vllm": Vllm(gpu=False)}), {}, {"CPU": 64, "GPU": 8}, Pool(1)),
        (LOCAL.model_copy(update={"vllm": Vllm(gpu=True)}), {}, {"CPU": 64}, Pool(1, gpus=1)),
        (LOCAL, {"actors": 3}, {"CPU": 64, "GPU": 8}, Pool(3, gpus=1)),
        (LOCAL, {"actors": (1, 16)}, {"CPU": 64, "GPU": 8}, Pool(16, gpus=1)),
        (Judge(), {}, {"CPU": 64}, Pool(1)),
        (Judge(kind="rules"), {}, {"CPU": 64}, Pool(64)),
        (Judge(kind="rules"), {"actors": (2, 9)}, {"CPU": 64}, Pool(9)),
    ],
)
def test_one_engine_for_each_gpu_unless_the_recipe_says_otherwise(
    judge: Judge, score: dict[str, Any], resources: dict[str, float], pool: Pool
) -> None:
    assert connect.demand(PoolRequest.of(Score(judge=judge, **score), judge), resources) == pool


@pytest.mark.parametrize(("gpus", "count", "most"), [(0, 2, 1 + 2 * 8), (1, 2, 2 * 4), (4, 2, 2), (8, 2, 0), (1, 0, 0)])
def test_gpus_of_different_nodes_are_not_added_up(gpus: int, count: int, most: int) -> None:
    kinds = {"head": {"resources": {"CPU": 1}}, "gpu": {"resources": {"CPU": 8, "GPU": 4}, "max_workers": count}}
    config = {"max_workers": 5, "head_node_type": "head", "available_node_types": kinds}
    pool = Pool(gpus=gpus)
    assert nodes.largest(config, nodes.fitting({"CPU": 1}, pool), pool) == most


def test_an_engine_has_more_in_flight_than_it_works_on_so_that_it_never_waits() -> None:
    judge = LOCAL.model_copy(update={"vllm": Vllm(max_num_seqs=64)})
    assert limits_of(Score(), judge).concurrency == 72
    assert limits_of(Score(concurrency=8), judge).concurrency == 8
    assert limits_of(Score(), Judge()).concurrency == 64
    assert not limits_of(Score(max_cost_usd=1), judge).capped, "a model in the job has no price"


def test_only_what_decides_replies_is_the_identity_of_a_local_judge(tmp_path: Any) -> None:
    asked = rubric.load("accuracy")

    def settings(**changes: Any) -> dict[str, Any]:
        judge = with_template(Judge(kind="vllm", model="m", **changes))
        found: dict[str, Any] = RatingTask(judge, asked).settings["judge"]
        return found

    assert settings() == {
        "kind": "vllm",
        "model": "m",
        "temperature": 0.0,
        "top_p": None,
        "max_tokens": 256,
        "extra": {},
        "vllm": {},
    }
    assert settings(vllm={"max_num_seqs": 7, "tensor_parallel": 2, "max_model_len": 9}) == settings()
    assert settings(vllm={"lora": "a"})["vllm"] == {"lora": "a"}
    assert settings(expected=True, explain=False) == {**settings(), "expected": True, "explain": False}
    (tmp_path / "a.jinja").write_text("{{ messages }}")
    (tmp_path / "b.jinja").write_text("{{ messages }}")
    one, two = (settings(vllm={"chat_template": str(tmp_path / name)}) for name in ("a.jinja", "b.jinja"))
    assert one == two != settings(), "of a template what it says counts, not where it lies"
    with pytest.raises(UsageError, match=r"score.judge.vllm.chat_template = 'nowhere' cannot be read"):
        settings(vllm={"chat_template": "nowhere"})


def test_requests_with_another_form_are_other_requests() -> None:
    asked, row = rubric.load("accuracy"), {"content_hash": "c", "instruction": "i", "input": "", "output": "o"}
    judges = [LOCAL, Judge(kind="vllm", model="m", explain=False), Judge(kind="vllm", model="n"), Judge(model="m")]
    keys = {RatingTask(judge, asked, reply_form(judge, asked)).request(row).key for judge in judges}
    assert len(keys) == 4


def test_a_system_turn_that_a_template_refuses_heads_the_first_user_turn() -> None:
    system, user = {"role": "system", "content": "Grade."}, {"role": "user", "content": "This."}
    assert _merged([system, user]) == [{"role": "user", "content": "Grade.\n\nThis."}]
    assert _merged([user]) == [user]


def _made(context: int) -> Any:
    return SimpleNamespace(model_config=SimpleNamespace(max_model_len=context))


def test_an_engine_that_ran_out_of_memory_names_the_knobs_of_its_device() -> None:
    log = (
        "INFO x\nERROR ValueError: No available memory for the cache blocks.\nRuntimeError: Engine core initialization failed."
    )
    on_gpu = start_failure(LOCAL, _made(8192), log, on_gpu=True)
    assert isinstance(on_gpu, UsageError)
    for word in ("No available memory", "max_model_len (now 8,192)", "gpu_memory_utilization (now 0.9)", "tensor_parallel"):
        assert word in str(on_gpu)
    assert "kv_cache_gib (now 4)" in str(start_failure(LOCAL, _made(8192), log, on_gpu=False))
    other = start_failure(
        LOCAL, _made(8192), "KeyError: 'lm_head'\nRuntimeError: Engine core initialization failed.", on_gpu=True
    )
    assert isinstance(other, EngineUnusable)
    assert "'lm_head'" in str(other)


def test_a_call_that_came_to_nothing_binds_nobody_and_one_with_replies_does(tmp_path: Any) -> None:
    stage = Run.open(str(tmp_path)).ratings("judge")
    begin(stage, {"model": "misspelt"}, {})
    assert begin(stage, {"model": "right"}, {}).settings == {"model": "right"}
    stage.storage.at("ledger", "part-00000").write("1.jsonl", b"{}\n")
    with pytest.raises(SettingsChanged, match="model: 'right' there, 'other' now"):
        begin(stage, {"model": "other"}, {})


def test_a_checkpoint_that_was_overwritten_is_another(tmp_path: Any) -> None:
    judge = Judge(kind="vllm", model=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"a" * 5_000_000)
    before = weights_print(judge)
    (tmp_path / "notes.txt").write_text("nothing that a model reads")
    assert weights_print(judge) == before != {}
    (tmp_path / "model.safetensors").write_bytes(b"a" * 4_999_999 + b"b")
    assert weights_print(judge) != before
    assert weights_print(Judge(kind="vllm", model="Qwen/Qwen3-8B")) == {}


# models that answer


def test_the_source_of_a_model_says_its_kind(tmp_path: Any) -> None:
    run = Run.open(str(tmp_path))
    kinds = {key: Answerer(name="a", **{key: "x"}).kind for key in ("path", "arm", "api", "answers")}
    assert kinds == {"path": "vllm", "arm": "vllm", "api": "api", "answers": "recorded"}
    config = Generate(max_new_tokens=99, temperature=0.7, seed=3)
    found = resolved(Answerer(name="a", path="x", prompt="alpaca"), config, run)
    assert (found.max_tokens, found.temperature, found.seed, found.vllm.chat_template) == (99, 0.7, 3, "plain")
    own = resolved(Answerer(name="a", path="x", max_tokens=5, temperature=0.0, seed=4), config, run)
    assert (own.max_tokens, own.temperature, own.seed, own.vllm.chat_template) == (5, 0.0, 4, None)
    bare = Answerer(name="a", api="x", max_tokens=9, max_tokens_field="max_completion_tokens", temperature=None)
    assert AnswerTask(resolved(bare, config, run), ())._body == {
        "model": "x",
        "seed": 3,
        "max_completion_tokens": 9,
        "prompt": "chat",
    }
    assert resolved(Answerer(name="a", path="x", max_tokens=None), config, run).max_tokens == 99, "1,024 is the most"


def test_the_checkpoint_of_an_arm_is_known_by_its_arm_wherever_the_run_lies(tmp_path: Any) -> None:
    model, found = Answerer(name="a", arm="selected"), []
    for place in ("here", "there"):
        run = Run.open(str(tmp_path / place))
        run.model("selected").storage.write("config.json", b"{}")
        ready = resolved(model, Generate(), run)
        assert ready.model == run.model("selected").storage.root
        found.append(AnswerTask(ready, ()).settings)
    assert found[0] == found[1]
    assert found[0]["model"]["model"] == "models/selected"


def test_prompts_are_sent_as_chat_or_as_alpacas_text() -> None:
    row = {"prompt_id": "p", "instruction": "Add.", "input": "1 2"}
    [chat] = AnswerTask(Answerer(name="a", api="m"), ()).request(row).messages
    assert chat == {"role": "user", "content": "Add.\n\n1 2"}
    [alpaca] = AnswerTask(Answerer(name="a", api="m", prompt="alpaca"), ()).request(row).messages
    assert alpaca["content"] == alpaca_prompt("Add.", "1 2")
    assert alpaca["content"].endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:")
    assert "### Input" not in alpaca_prompt("Add {this}.", "")
    assert AnswerTask(Answerer(name="a", api="m"), ()).request({**row, "instruction": " ", "input": ""}).messages == []
    assert AnswerTask(Answerer(name="a", api="m"), ()).form == ANY_FORM


# choosing by the expected score


def _columns(score: list[float], expected: list[float]) -> Columns:
    rows = len(score)
    return Columns(
        [f"r{n}" for n in range(rows)], np.array(score), np.array(expected), np.ones(rows, dtype=np.int64), [""] * rows
    )


def test_expected_scores_break_ties_and_an_arm_can_be_cut_by_them() -> None:
    columns = _columns([4, 4, 4, 5], [3.9, 4.2, 4.1, 4.0])
    ties = choose(Arm(name="a", policy="top", k=2), columns, None)
    assert ties.kept.tolist() == [False, True, False, True]
    cut = choose(Arm(name="a", policy="top", k=2, by="expected"), columns, None)
    assert cut.kept.tolist() == [False, True, True, False]
    over = choose(Arm(name="a", policy="threshold", threshold=4.05, by="expected"), columns, None)
    assert over.kept.tolist() == [False, True, True, False]
    assert over.reason == "expected score below 4.05"


def test_a_row_without_a_score_is_not_chosen_by_what_its_refusal_made_probable() -> None:
    columns = _columns([4.0, np.nan, 3.0], [3.9, 5.0, 3.1])
    assert choose(Arm(name="a", policy="top", k=1, by="expected"), columns, None).kept.tolist() == [True, False, False]


def test_an_arm_by_expected_scores_needs_some() -> None:
    with pytest.raises(UsageError, match=r"'a' goes by the expected score, and these ratings have none"):
        choose(Arm(name="a", policy="top", k=1, by="expected"), _columns([4.0], [np.nan]), None)
    with pytest.raises(ValueError, match="does not go by a score"):
        Arm(name="a", policy="random", by="expected")
