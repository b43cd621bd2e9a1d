"""A model is loaded with what it needs, costs what the formula says, and is written as what it was trained to be."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from alpagasus_ray.config import Finetune
from alpagasus_ray.data.prompts import alpaca_prompt
from alpagasus_ray.errors import UsageError
from alpagasus_ray.raycluster.pool import Pool
from alpagasus_ray.training import attention, devices, driver, model, settings, shapes
from alpagasus_ray.training import finished_model as saved
from alpagasus_ray.training.devices import Place
from alpagasus_ray.training.encode import Encoded, Encoder

SEVEN_B = 6_738_415_616
VOCABULARY = 512
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks for it


@pytest.fixture(scope="module")
def folder(shared: Path) -> Path:
    """The tiny model: input and output vectors are the same, and no token is for padding."""
    return shared / "tiny_llama"


def config_of(folder: Path, **changes: Any) -> Finetune:
    return Finetune(**{"model": str(folder), "precision": "float32", "max_length": 256, **changes})


def loaded(config: Finetune, *, spare: bool = True) -> model.Loaded:
    """`spare`: with the token for what is not known, which the tiny model never needs."""
    tokenizer = AutoTokenizer.from_pretrained(config.model)
    if not spare:
        tokenizer.unk_token = None
    return model.load(config, model.shape(config), tokenizer, on_gpu=False)


def untied(folder: Path, target: Path) -> Path:
    """The tiny model with an output layer of its own."""
    shutil.copytree(folder, target)
    shape = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": False}
    (target / "config.json").write_text(json.dumps(shape))
    torch.manual_seed(0)
    weights = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    whole = LlamaForCausalLM(LlamaConfig.from_pretrained(target))
    whole.load_state_dict(weights | {"lm_head.weight": torch.randn(VOCABULARY, 64) / 8})
    whole.save_pretrained(target)
    return target


# the token to pad with


def test_a_tokenizer_without_a_padding_token_gets_one_whose_vectors_are_the_mean_of_all_others(folder: Path) -> None:
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).get_input_embeddings().weight
    found = loaded(config_of(folder), spare=False)
    assert found.tokenizer.pad_token == "[PAD]"
    assert found.model.config.pad_token_id == found.model.generation_config.pad_token_id == VOCABULARY
    for layer in (found.model.get_input_embeddings(), found.model.get_output_embeddings()):
        assert layer.weight.shape[0] == VOCABULARY + 64  # of the rows one is used; GPUs like a multiple of 64
        assert torch.equal(layer.weight[:VOCABULARY], before)
        for row in (VOCABULARY, VOCABULARY + 63):
            torch.testing.assert_close(layer.weight[row], before.mean(dim=0))


def test_an_output_layer_of_its_own_gets_the_mean_of_its_own(folder: Path, tmp_path: Path) -> None:
    found = loaded(config_of(untied(folder, tmp_path / "untied")), spare=False)
    vectors, output = (layer.weight for layer in (found.model.get_input_embeddings(), found.model.get_output_embeddings()))
    assert not torch.equal(vectors, output)
    for weight in (vectors, output):
        torch.testing.assert_close(weight[VOCABULARY], weight[:VOCABULARY].mean(dim=0))


def test_a_padding_token_that_is_there_stays(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder, pad_token="<unk>")
    config = config_of(folder)
    found = model.load(config, model.shape(config), tokenizer, on_gpu=False)
    assert found.tokenizer.pad_token == "<unk>"
    assert found.model.config.pad_token_id == tokenizer.unk_token_id
    assert found.model.get_input_embeddings().weight.shape[0] == VOCABULARY


def test_a_token_for_what_is_not_known_pads_and_no_row_is_new(folder: Path) -> None:
    found = loaded(config_of(folder))
    assert found.tokenizer.pad_token == found.tokenizer.unk_token == "<unk>"
    assert found.model.get_input_embeddings().weight.shape[0] == VOCABULARY


def test_a_token_that_says_so_pads_and_none_that_ends_a_text(folder: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.unk_token = tokenizer.eos_token  # as in GPT-2
    config = config_of(folder)
    assert model.load(config, model.shape(config), tokenizer, on_gpu=False).tokenizer.pad_token == "[PAD]"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|finetune_right_pad|>"]})
    assert model.load(config, model.shape(config), tokenizer, on_gpu=False).tokenizer.pad_token == "<|finetune_right_pad|>"
    named = model.shape(config)
    named.pad_token_id = 7
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.load(config_of(folder, from_scratch=True), named, tokenizer, on_gpu=False).tokenizer.pad_token_id == 7


def test_vectors_that_are_there_for_no_token_are_used_and_none_is_added(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "wide")
    wide = AutoModelForCausalLM.from_pretrained(folder)
    wide.resize_token_embeddings(576, mean_resizing=False)
    wide.save_pretrained(tmp_path / "wide")
    found = loaded(config_of(tmp_path / "wide"), spare=False)
    assert found.tokenizer.pad_token_id == VOCABULARY
    assert found.model.get_input_embeddings().weight.shape[0] == 576


# what it costs


def test_7b_has_the_parameters_it_is_known_for() -> None:
    assert model.sizes(Finetune(model="llama"), LlamaConfig()) == (SEVEN_B, SEVEN_B)


def test_operations_of_7b_are_those_counted_by_hand() -> None:
    """Llama 7B: 32 layers of 4 square matrices of 4,096 and 3 of 4,096 x 11,008; 32,000 tokens; norms are counted too."""
    each = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    layers, output = 32 * each + 4096, 32000 * 4096
    found = shapes.flops(LlamaConfig(), SEVEN_B, SEVEN_B)
    assert layers + 2 * output == SEVEN_B
    assert found.a_token == 6 * layers
    assert found.a_label == 6 * output
    assert found.a_square == 6 * 32 * 4096  # half of PaLM's 12 * layers * width, as no token sees a later one


def test_operations_of_7b_are_about_six_a_parameter_and_token() -> None:
    lengths = [512] * 100
    total, squares = sum(lengths), sum(length**2 for length in lengths)
    work = shapes.flops(LlamaConfig(), SEVEN_B, SEVEN_B).of(total, total, squares)
    assert work == pytest.approx(6 * SEVEN_B * total, rel=0.03)


def test_shared_vectors_are_counted_once_and_a_width_of_heads_that_is_given_counts() -> None:
    shape = LlamaConfig(tie_word_embeddings=True, head_dim=256)
    parameters, _ = model.sizes(Finetune(model="llama"), shape)
    found = shapes.flops(shape, parameters, parameters)
    assert found.a_token == 6 * (parameters - 32000 * 4096)
    assert found.a_square == 6 * 32 * 32 * 256


def test_weights_that_are_not_trained_need_two_thirds_of_the_operations() -> None:
    found = shapes.flops(LlamaConfig(), SEVEN_B, 1000)
    assert found.a_label == pytest.approx(4 * 32000 * 4096, rel=1e-3)


def test_adapters_alone_are_trained_and_their_number_is_known_before_anything_is_loaded(folder: Path) -> None:
    config = config_of(folder, lora={"rank": 8})
    _, trained = model.sizes(config, model.shape(config))
    hidden, inner, heads, shared_heads = 64, 172, 8 * 32, 4 * 32
    rows = 2 * (hidden + heads) + 2 * (hidden + shared_heads) + 3 * (hidden + inner)
    assert trained == 5 * 8 * rows
    found = loaded(config)
    assert trained == sum(weight.numel() for weight in found.model.parameters() if weight.requires_grad)


# what is written


def written(config: Finetune, found: model.Loaded, target: Path, ends: Iterable[int] = ()) -> Any:
    """What a training with these weights leaves, opened by transformers."""
    weights = {name: weight.detach() for name, weight in found.model.state_dict().items()}
    saved.write(config, found, weights, set(ends), str(target))
    return AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32).eval()


def answers(of: Any) -> torch.Tensor:
    """Logits of a sentence."""
    with torch.no_grad():
        found: torch.Tensor = of(input_ids=torch.arange(4, 40)[None], pack_starts=[0, 36], use_cache=False).logits
    return found


def perturbed(found: model.Loaded) -> model.Loaded:
    """As if it had learned: every adapter, of which one half begins as zeros, has other weights."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in found.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) / 30)
    found.model.eval()
    return found


def test_a_model_stops_at_the_end_that_it_has_learned(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    found = loaded(config)
    found.tokenizer.add_special_tokens({"additional_special_tokens": ["<turn_end>"]})
    learned = found.tokenizer.convert_tokens_to_ids("<turn_end>")
    opened = written(config, found, tmp_path / "stops", {learned, found.tokenizer.eos_token_id})
    assert opened.generation_config.eos_token_id == [learned, 2]
    assert AutoTokenizer.from_pretrained(tmp_path / "stops").eos_token == "<turn_end>"
    assert written(config, loaded(config), tmp_path / "same", {2}).generation_config.eos_token_id == 2


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj")])
@pytest.mark.parametrize("is_tied", [True, False])
def test_a_written_model_answers_as_the_one_with_adapters_did(
    folder: Path, tmp_path: Path, is_tied: bool, targets: Any
) -> None:
    config = config_of(
        folder if is_tied else untied(folder, tmp_path / "untied"), lora={"rank": 4, "targets": targets, "dropout": 0.0}
    )
    plain = answers(loaded(config).model.eval())
    found = perturbed(loaded(config))
    expected = answers(found.model)
    assert (expected - plain).abs().max() > 0.01
    opened = written(config, found, tmp_path / "written")
    torch.testing.assert_close(opened(input_ids=torch.arange(4, 40)[None]).logits, expected, rtol=1e-5, atol=1e-5)
    assert opened.config.tie_word_embeddings == is_tied
    assert opened.config.use_cache
    assert not [name for name in opened.state_dict() if "lora" in name]


def test_a_written_model_without_adapters_answers_as_it_did(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder)
    found = perturbed(loaded(config))
    expected = answers(found.model)
    opened = written(config, found, tmp_path / "written")
    assert torch.equal(answers(found.model), expected)
    torch.testing.assert_close(opened(input_ids=torch.arange(4, 40)[None]).logits, expected, rtol=1e-5, atol=1e-5)


TURN = {"instruction": "What is 1 + 1?", "output": "2, or 10."}


@pytest.mark.parametrize("instruction", ["Name three colours.", " Zwei\n\nZeilen: süß ", "### Response:"])
@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("history", [None, [TURN], [TURN, TURN]])
def test_the_written_chat_template_asks_as_the_model_was_trained(
    folder: Path, tmp_path: Path, instruction: str, system: str | None, history: Any
) -> None:
    config = config_of(folder, max_length=2000, pack_tokens=2000)
    written(config, loaded(config), tmp_path / "written")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "written")
    row = {"instruction": instruction, "input": "", "output": "red", "system": system, "history": history}
    (example,) = Encoder(config).encode([row])
    assert isinstance(example, Encoded)
    said = [(turn["instruction"], turn["output"]) for turn in history or ()]
    turns = [{"role": role, "content": text} for pair in said for role, text in zip(("user", "assistant"), pair, strict=True)]
    turns = [*([{"role": "system", "content": system}] if system else []), *turns, {"role": "user", "content": instruction}]
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text.endswith(alpaca_prompt(instruction, ""))
    assert text.startswith("<s>" + (system or "Below is"))
    asked = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert asked == example.ids[: example.prompt_tokens]
    answered = [*turns, {"role": "assistant", "content": "red"}]
    assert tokenizer.apply_chat_template(answered, return_dict=False) == example.ids


def test_a_model_trained_by_its_own_chat_template_keeps_it(folder: Path, tmp_path: Path) -> None:
    config = config_of(folder, template="chat")
    found = loaded(config)
    before = found.tokenizer.chat_template
    written(config, found, tmp_path / "written")
    assert before
    assert AutoTokenizer.from_pretrained(tmp_path / "written").chat_template == before


# which attention, and what is refused


def test_packs_have_their_own_attention_and_padded_rows_pytorchs(folder: Path) -> None:
    assert model.attention_kind(config_of(folder), on_gpu=False) == attention.PACKED
    assert model.attention_kind(config_of(folder, packing=False), on_gpu=False) == "sdpa"
    assert model.attention_kind(config_of(folder, attention="sdpa"), on_gpu=True) == attention.PACKED


def test_flash_attention_is_taken_where_it_is_installed_and_can_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"finetune\.attention = flash_attention_2 needs the package flash-attn"):
        model.attention_kind(config_of(folder, attention="flash_attention_2"), on_gpu=False)
    monkeypatch.setattr(attention, "_is_installed", lambda distribution: distribution == "flash-attn")
    assert model.attention_kind(config_of(folder, precision="bf16"), on_gpu=True) == "flash_attention_2"
    assert model.attention_kind(config_of(folder, precision="float32"), on_gpu=True) == attention.PACKED
    assert model.attention_kind(config_of(folder, precision="bf16", attention="sdpa"), on_gpu=True) == attention.PACKED
    newer = config_of(folder, precision="bf16", attention="flash_attention_3")
    with pytest.raises(UsageError, match=r"flash_attention_3 needs the package flash-attn-3"):
        model.attention_kind(newer, on_gpu=True)
    monkeypatch.setattr(attention, "_is_installed", lambda distribution: distribution == "flash-attn-3")
    assert model.attention_kind(newer, on_gpu=True) == "flash_attention_3"
    # the package of 4 has the module of 2, which is why a module is no proof
    assert model.attention_kind(config_of(folder, precision="bf16"), on_gpu=True) == attention.PACKED


def test_a_package_is_looked_up_by_the_name_of_its_distribution() -> None:
    assert attention._is_installed("torch")
    assert not attention._is_installed("flash-attn-of-nobody")


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ({"sliding_window": 128}, "looks back 128 tokens only"),
        ({"sliding_window": 128, "use_sliding_window": True}, "looks back 128 tokens only"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping"),
        ({"layer_types": ["full_attention", "conv"]}, "layers of the kind conv"),
        ({"layer_types": ["full_attention", "of tomorrow"]}, "layers of the kind of tomorrow"),
        ({"layer_types": ["sliding_attention"], "sliding_window": 255}, "looks back 255 tokens only"),
        ({"model_type": "of tomorrow"}, "does not say what they are"),
    ],
)
def test_attention_that_packs_cannot_have_is_told(shape: dict[str, Any], word: str) -> None:
    assert word in str(shapes.why_not_packed(SimpleNamespace(**{"model_type": "llama", **shape}), 256))


@pytest.mark.parametrize("kind", ["mamba", "jamba", "falcon_h1", "granitemoehybrid", "qwen3_next", "minimax", "bloom", "gptj"])
def test_models_that_carry_one_example_into_the_next_are_not_packed(kind: str) -> None:
    shape = AutoConfig.for_model(kind)
    with pytest.raises(UsageError, match=rf"finetune\.packing: layers of '{kind}' .* set finetune\.packing: false"):
        model.sizes(Finetune(model=kind), shape)
    parameters, _ = model.sizes(Finetune(model=kind, packing=False), shape)
    assert parameters > 0


@pytest.mark.parametrize(
    "shape",
    [
        {"sliding_window": 256},
        {"sliding_window": 64, "use_sliding_window": False},
        {},
        {"layer_types": ["full_attention"], "sliding_window": 64, "model_type": "of tomorrow"},
        {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 256},
    ],
)
def test_a_window_that_no_example_fills_or_that_is_not_used_is_no_hindrance(shape: dict[str, Any]) -> None:
    assert shapes.why_not_packed(SimpleNamespace(**{"model_type": "llama", **shape}), 256) is None


def test_a_model_that_is_not_there_or_no_causal_one_is_refused_with_the_knob(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"finetune\.model '/no/such/model' cannot be loaded as a causal language model"):
        model.shape(Finetune(model="/no/such/model"))
    shutil.copytree(folder, tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").unlink()
    config = config_of(tmp_path / "bare")
    with pytest.raises(UsageError, match=r"finetune\.from_scratch: true"):
        loaded(config)
    assert loaded(config_of(tmp_path / "bare", from_scratch=True)).model is not None
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UsageError, match=r"finetune\.model .* cannot be loaded as a causal language model"):
        model.sizes(config, model.shape(config))


def test_random_weights_are_decided_by_the_seed(folder: Path) -> None:
    first, again, other = (loaded(config_of(folder, from_scratch=True, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(answers(first.model), answers(again.model))
    assert not torch.equal(answers(first.model), answers(other.model))


def test_adapters_of_modules_that_are_not_there_are_refused_with_the_knob(folder: Path) -> None:
    config = config_of(folder, lora={"targets": ("nowhere",)})
    with pytest.raises(UsageError, match=r"finetune\.lora\.targets = \['nowhere'\]"):
        model.sizes(config, model.shape(config))


# what does not fit


def refused(config: Finetune, parameters: int, workers: int = 2) -> str:
    with pytest.raises(UsageError) as refusal:
        devices.check(config, parameters, parameters, Place(0, workers, 1, CPU))
    return str(refusal.value)


def test_too_little_memory_is_told_with_what_is_needed_what_is_free_and_what_helps(folder: Path) -> None:
    parameters = 10**15
    told = refused(config_of(folder, zero_stage=2), parameters)
    assert f"finetune.model {str(folder)!r} does not fit" in told
    assert f"{parameters * (4 + 4 / 2 + 8 / 2) / 2**30:,.1f} GiB" in told
    assert "GiB free (CPU)" in told
    for knob in ("finetune.zero_stage: 3", "finetune.workers (now 2)", "finetune.lora", "finetune.precision: bf16"):
        assert knob in told
    assert "finetune.offload" not in told  # there is no GPU to move anything from


def test_what_is_done_already_is_not_advised(folder: Path) -> None:
    told = refused(config_of(folder, zero_stage=3, precision="bf16", lora={"rank": 8}), 10**15)
    assert "zero_stage: 3" not in told
    assert "finetune.lora" not in told
    assert "precision: bf16" not in told


def test_workers_of_one_machine_share_its_memory(folder: Path) -> None:
    free = psutil.virtual_memory().available
    config = config_of(folder, zero_stage=0)
    parameters = round(0.6 * free / 16)
    devices.check(config, parameters, parameters, Place(0, 2, 1, CPU))
    with pytest.raises(UsageError, match="does not fit"):
        devices.check(config, parameters, parameters, Place(0, 2, 2, CPU))


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H100 80GB HBM3", 989), ("NVIDIA H100 PCIe", 756), ("NVIDIA H200", 989), ("NVIDIA A100-SXM4-80GB", 312)],
)
def test_the_peak_of_known_gpus_is_that_of_their_data_sheets(name: str, tflops: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "name_of", lambda device: name)
    assert devices.peak_flops(Finetune(), torch.device("cuda", 0)) == tflops * 1e12


def test_a_peak_that_is_told_counts_and_nobody_knows_that_of_a_cpu() -> None:
    assert devices.peak_flops(Finetune(peak_tflops=100), CPU) == 1e14
    assert devices.peak_flops(Finetune(), CPU) is None


@pytest.mark.parametrize("name", sorted(devices.PEAK_TFLOPS))
def test_no_name_of_a_gpu_stands_before_a_longer_one_that_holds_it(name: str) -> None:
    first = next(known for known in devices.PEAK_TFLOPS if known in f"NVIDIA {name}")
    assert first == name


def test_a_full_gpu_is_told_with_what_leaves_the_model_what_it_is(folder: Path) -> None:
    told = devices.out_of_memory(config_of(folder), "CUDA out of memory. Tried to allocate 2 GiB. If reserved memory is large")
    assert "CUDA out of memory. Tried to allocate 2 GiB. What helps" in told
    for knob in ("finetune.pack_tokens (now 2048", "finetune.workers", "finetune.gradient_checkpointing: full"):
        assert knob in told
    assert "finetune.micro_batch (now 4)" in devices.out_of_memory(config_of(folder, packing=False), "full.")


# the memory and the cores of the host


def test_states_in_the_hosts_memory_are_refused_where_it_has_no_room_for_them(folder: Path) -> None:
    config = config_of(folder, precision="bf16", offload="optimizer", zero_stage=2)
    parameters = round(0.8 * psutil.virtual_memory().available / 18)
    with pytest.raises(UsageError, match=r"finetune\.offload = optimizer: .* GiB of a node's memory for its 4 workers") as told:
        devices._check_host(config, settings.host_bytes(config, 2 * parameters, 2 * parameters, 4) * 4, 4)
    for knob in ("finetune.workers", "finetune.zero_stage: 3", "finetune.lora"):
        assert knob in str(told.value)
    devices._check_host(config, settings.host_bytes(config, parameters, parameters, 4) * 4, 4)
    # half of the workers are on another node, and so are their states
    devices._check_host(config, settings.host_bytes(config, 2 * parameters, 2 * parameters, 4) * 2, 2)


def test_a_worker_with_states_on_the_host_computes_with_its_share_of_the_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)))
    moved = config_of(folder, offload="optimizer", zero_stage=2)
    assert devices.cores(moved, Place(0, 16, 8, CPU)) == 8
    assert devices.cores(moved.model_copy(update={"cpus": 12}), Place(0, 16, 8, CPU)) == 12
    assert devices.cores(config_of(folder, cpus=2), Place(0, 16, 8, CPU)) == 2


def test_threads_are_set_for_pytorch_and_for_what_is_loaded_later(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        devices.take_cores(2)
        assert torch.get_num_threads() == 2
        assert os.environ["OMP_NUM_THREADS"] == "2"
    finally:
        torch.set_num_threads(before)


def test_deepspeeds_adam_for_the_host_is_built_without_a_compiler_for_gpus() -> None:
    from deepspeed.ops.op_builder.builder import CUDAOpBuilder
    from deepspeed.ops.op_builder.cpu import CPUAdamBuilder

    assert not issubclass(CPUAdamBuilder, CUDAOpBuilder)
    assert all(source.endswith(".cpp") for source in CPUAdamBuilder().sources())


# how workers are started


def test_memory_of_gpus_is_in_segments_that_grow_unless_the_user_has_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in driver.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    on_gpu, on_cpu = (driver.WorkerGroup(1, 1, Pool(gpus=gpus)) for gpus in (1, 0))
    assert driver._environment(on_gpu) == {"env_vars": {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}}
    assert driver._environment(on_cpu) == {}
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    assert driver._environment(on_gpu) == {}
