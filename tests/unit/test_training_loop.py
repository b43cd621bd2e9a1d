"""A worker's training from its first load to the written model: what it measures, keeps, writes, and why it stops."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from one_process import group_of_one, trained, training_of
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from alpagasus_ray.config import Finetune
from alpagasus_ray.store.run import STATE, Run
from alpagasus_ray.training import measure, model, settings
from alpagasus_ray.training.checkpoints import newest
from alpagasus_ray.training.failures import why_stopped
from alpagasus_ray.training.spec import Stopped, Trained, Training
from alpagasus_ray.training.token_files import Tokens
from trainings import plain_heldout, run_with_arms, tiny

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it
FIRST, LAST = 20, 26


@pytest.fixture(scope="module", autouse=True)
def _group() -> Iterator[None]:
    with group_of_one():
        yield


@pytest.fixture(scope="module")
def source(shared: Path) -> Path:
    return shared / "published_subsets/random_9k.json"


@pytest.fixture
def run(source: Path, tmp_path: Path) -> Run:
    """An arm of 20 real examples, and beside the run 6 that are held out."""
    (tmp_path / "heldout.json").write_text(json.dumps(json.loads(source.read_text())[FIRST:LAST]))
    return run_with_arms(tmp_path, source, FIRST, ("arm",))


def config_of(run: Run, shared: Path, **changes: Any) -> Finetune:
    held = str(Path(run.storage.root).parent / "heldout.json")
    return tiny(shared, workers=1, zero_stage=2, **{"steps": 3, "heldout": held, "global_batch": 4, **changes})


def done(training: Training, monkeypatch: pytest.MonkeyPatch) -> Trained:
    found = trained(training, monkeypatch)
    assert isinstance(found, Trained), found
    return found


# what is measured, and kept


def test_the_held_out_loss_is_measured_before_the_first_update_and_after_the_last(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(run, shared)
    facts = done(training_of(config, run, "arm"), monkeypatch).facts
    before, after = facts["heldout_curve"]
    assert (before["step"], after["step"]) == (0, 3)
    assert before["loss"] == pytest.approx(plain_heldout(str(config.model), config)[0], abs=1e-4)
    assert (
        after["loss"]
        == facts["heldout"]["loss"]
        == pytest.approx(plain_heldout(run.model("arm").storage.root, config)[0], abs=1e-4)
    )
    assert facts["kept_step"] == 3


def test_the_weights_of_the_lowest_held_out_loss_become_the_model(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three updates the rate is far too high: it unlearns."""
    monkeypatch.setattr(settings, "learning_rate", lambda config, step, steps: 1e-3 if step < 3 else 1.0)
    config = config_of(run, shared, steps=6, heldout_every=1, keep="best")
    facts = done(training_of(config, run, "arm"), monkeypatch).facts
    curve = {point["step"]: point["loss"] for point in facts["heldout_curve"]}
    assert list(curve) == list(range(7))
    best = min(range(1, 7), key=lambda step: curve[step])
    assert best != 6
    assert facts["kept_step"] == best
    assert facts["heldout"]["loss"] == curve[best]
    assert plain_heldout(run.model("arm").storage.root, config)[0] == pytest.approx(curve[best], abs=1e-4)


def test_a_training_that_goes_on_remembers_what_was_measured_and_the_best(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "learning_rate", lambda config, step, steps: 1e-3 if step < 2 else 1.0)
    config = config_of(run, shared, steps=5, heldout_every=2, keep="best", checkpoint={"every_steps": 3})
    whole = done(training_of(config, run, "arm"), monkeypatch).facts
    again = training_of(config, run, "arm")
    mark = newest(again.states)
    assert mark is not None
    assert mark.step == 3
    assert sorted(mark.heldout) == [0, 2]
    facts = done(again, monkeypatch).facts
    assert facts["heldout_curve"] == whole["heldout_curve"]
    assert facts["kept_step"] == whole["kept_step"] == 2


def test_what_another_training_kept_is_forgotten(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(run, shared, heldout_every=3, keep="best")
    keeper = measure.Keeper(run.model("arm").storage.at(STATE))
    keeper.keep(measure.Best(step=1, loss=0.001), {"nothing": torch.zeros(1)})
    facts = done(training_of(config, run, "arm"), monkeypatch).facts
    assert facts["kept_step"] == 3
    assert facts["heldout"]["loss"] > 1


def test_better_weights_take_the_place_of_those_before(run: Run) -> None:
    keeper = measure.Keeper(run.model("arm").storage.at(STATE))
    assert keeper.best() is None
    shared_weight = torch.ones(2)
    for step in (1, 2):
        keeper.keep(measure.Best(step=step, loss=1 / step), {"a": shared_weight * step, "b": shared_weight})
    best = keeper.best()
    assert best is not None
    assert best.step == 2
    assert keeper.weights(best)["a"].tolist() == [2, 2]
    assert sorted(run.model("arm").storage.at(STATE).all_names()) == ["best/best.json", "best/weights-00000002.pt"]


# what learns


def test_a_single_update_changes_the_model(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(run, shared, steps=1, heldout=None)
    done(training_of(config, run, "arm"), monkeypatch)
    before = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32).state_dict()
    after = AutoModelForCausalLM.from_pretrained(run.model("arm").storage.root, dtype=torch.float32).state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_weights_decay_but_for_norms_and_embeddings(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against plain PyTorch with the same groups, in two updates."""
    config = config_of(run, shared, steps=2, heldout=None, weight_decay=0.5)
    training = training_of(config, run, "arm")
    done(training, monkeypatch)
    tokens, order = Tokens.open(training.tokens, training.tokens_manifest), training.order
    plain = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    decays = [weight for name, weight in plain.named_parameters() if "proj" in name]
    spared = [weight for name, weight in plain.named_parameters() if "proj" not in name]
    groups = [{"params": decays, "weight_decay": 0.5}, {"params": spared, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.rate)
    for step in range(order.steps):
        batch = order.batch(step)
        for index in batch:
            ids, prompt = torch.tensor(tokens.ids(index)).long(), tokens.prompt_tokens[index]
            loss = cross_entropy(plain(ids[None]).logits[0, prompt - 1 : -1], ids[prompt:], reduction="sum")
            (loss / tokens.label_tokens[batch].sum()).backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(config, step, order.steps)
        optimizer.step()
        optimizer.zero_grad()
    after = AutoModelForCausalLM.from_pretrained(run.model("arm").storage.root, dtype=torch.float32).state_dict()
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(after[name], weight, rtol=1e-4, atol=1e-4)


# what is written


def test_adapters_are_saved_beside_the_merged_weights(run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft import PeftModel

    config = config_of(run, shared, steps=2, lora={"rank": 4}, learning_rate=0.01)
    found = done(training_of(config, run, "arm"), monkeypatch)
    names = {entry.name for entry in found.files}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "model.safetensors"} <= names
    folder = run.model("arm").storage.root
    base = AutoModelForCausalLM.from_pretrained(config.model, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, f"{folder}/adapter")
    merged = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(4, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-4, atol=1e-4)
    assert all("lora_" in name for name in load_file(f"{folder}/adapter/adapter_model.safetensors"))


# why it stops


@pytest.mark.parametrize(
    "error", [AttributeError("no such thing as a soul"), SystemExit(3), ValueError("two\nlines")], ids=repr
)
def test_a_mistake_in_the_models_code_ends_the_training_at_once_with_its_words_and_place(
    run: Run, shared: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    loads, load = [], model.load

    def counting(*arguments: Any, **told: Any) -> Any:
        loads.append(1)
        return load(*arguments, **told)

    def fails(self: Any, *arguments: Any, **told: Any) -> Any:
        raise error

    monkeypatch.setattr(model, "load", counting)
    monkeypatch.setattr(LlamaForCausalLM, "forward", fails)
    training = training_of(config_of(run, shared), run, "arm")
    with pytest.raises(type(error)):
        trained(training, monkeypatch)
    again = trained(training, monkeypatch)  # as Ray Train starts all workers again
    assert isinstance(again, Stopped)
    assert not again.is_usage
    for word in (type(error).__name__, " ".join(str(error).split()), "test_training_loop.py", "in fails"):
        assert word in again.reason
    assert len(loads) == 1


LOST = [
    torch.distributed.DistBackendError("NCCL error in: remote process exited"),
    RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Connection closed by peer [127.0.0.1]:4321"),
    RuntimeError("CUDA error: uncorrectable ECC error encountered"),
    ConnectionResetError(104, "Connection reset by peer"),
    OSError("When completing multiple part upload: AWS Error NETWORK_CONNECTION during UploadPart"),
    KeyboardInterrupt(),
]
OURS = [
    RuntimeError("CUDA error: device-side assert triggered"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    OSError(28, "No space left on device"),
    AssertionError("7 of 8 held-out examples were measured"),
    KeyError("lm_head"),
]


@pytest.mark.parametrize("error", LOST, ids=repr)
def test_a_lost_process_device_or_connection_is_tried_again(error: BaseException) -> None:
    assert why_stopped(Finetune(model="m"), error) is None


@pytest.mark.parametrize("error", OURS, ids=repr)
def test_all_else_is_not(error: BaseException) -> None:
    stopped = why_stopped(Finetune(model="m"), error)
    assert stopped is not None
    assert type(error).__name__ in stopped.reason
