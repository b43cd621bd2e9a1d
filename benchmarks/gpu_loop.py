"""Sections of `gpu.py` that train: layers of a 7B model with each lever on and off, and a real small model.

Updates are made of the package's own parts, as `training/loop.py` makes them; examples are random tokens, short as Alpaca's or
as long as a pack. Rates are of real tokens, padding not counted.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from gpu_kernels import MIB, device, wait
from numpy.typing import NDArray

from alpagasus_ray.config import Finetune
from alpagasus_ray.training import attention, collate, devices, engine, head, memory, model, native_ops, settings, shapes
from alpagasus_ray.training.devices import Place

SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "vocab_size": 32_000}
LAYERS = 32
TINY = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "vocab_size": 512}
LENGTHS = (2048, 4096, 8192, 16384)
STATES = 0.5
"""Share of the memory that weights, gradients and AdamW's states may take; the rest is for activations."""
SHORT = 126
"""Tokens of Alpaca's examples, on average."""
LEARNED = 0.6
"""Share of tokens that carry loss."""
MEASURED_S = 1.5
"""Updates of a way are made for so long, and two at the least."""

Row = dict[str, Any]


class Examples:
    """Random tokens."""

    def __init__(self, lengths: list[int], vocabulary: int) -> None:
        dice = np.random.default_rng(0)
        self.lengths = np.array(lengths, dtype=np.int64)
        self.prompt_tokens = np.maximum(1, (self.lengths * (1 - LEARNED)).astype(np.int64))
        self._ids = [dice.integers(3, vocabulary, size=length, dtype=np.int32) for length in lengths]

    def ids(self, index: int) -> NDArray[np.int32]:
        """Of one example."""
        return self._ids[index]


class NoPad:
    """What a model needs of a tokenizer."""

    pad_token_id = 0

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return self._vocabulary


class Bench(NamedTuple):
    """A model that trains."""

    config: Finetune
    loaded: model.Loaded
    engine: Any
    flops: shapes.Flops | None
    peak: float | None
    """Operations a second that the device can do."""
    by: str
    """What updates it."""


class Bare:
    """AdamW without DeepSpeed, where that cannot be loaded: without weights in float32, so its speed alone means something."""

    def __init__(self, config: Finetune, loaded: model.Loaded) -> None:
        self._model, self._most = loaded.model, config.max_grad_norm
        self.optimizer = torch.optim.AdamW(settings.weight_groups(config, loaded.model), lr=config.rate, fused=True)

    def __call__(self, **told: Any) -> Any:
        return self._model(**told)

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self) -> None:
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._most or float("inf"))
        self.optimizer.step()
        self.optimizer.zero_grad()


def _place() -> Place:
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    place = Place(0, 1, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu"))
    devices.choose_accelerator(place)
    if not dist.is_initialized():
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group("nccl" if place.on_gpu else "gloo", store=store, rank=0, world_size=1)
    return place


def _bench(config: Finetune, hf_config: Any, tokenizer: Any) -> Bench:
    place = _place()
    known = model.census(config, hf_config)
    assert known is not None, "these models are built without weights"
    with place.device if config.from_scratch else nullcontext():  # random weights are drawn where they are used
        loaded = model.load(config, hf_config, tokenizer, on_gpu=place.on_gpu, has=known.has)
    loaded.model.to(place.device)
    made, by = _engine(config, loaded, place)
    flops = shapes.flops(hf_config, *known[:3])
    return Bench(config, loaded, made, flops, devices.peak_flops(config, place.device), by)


def _engine(config: Finetune, loaded: model.Loaded, place: Place) -> tuple[Any, str]:
    try:
        native_ops.load(config, on_gpu=place.on_gpu)
        told = settings.deepspeed_config(config, universal=False)
        return engine.around(config, loaded, told), "DeepSpeed"
    except Exception as error:  # noqa: BLE001 - whatever it lacks on a bare machine, the rest is measured without it
        loaded.model.train()
        return Bare(config, loaded), f"AdamW alone, as DeepSpeed failed: {type(error).__name__}: {error}"[:400]


def _config(**changes: Any) -> Finetune:
    on_gpu = torch.cuda.is_available()
    told = {
        "model": "7B shape",
        "from_scratch": True,
        "precision": "bf16" if on_gpu else "float32",
        "gpu": on_gpu,
        "workers": 1,
    }
    longest = {"max_length": LENGTHS[-1], "pack_tokens": LENGTHS[-1], "zero_stage": 1, "gradient_checkpointing": "none"}
    return Finetune.model_validate({**told, **longest, **changes})


def _shape(layers: int, *, tiny: bool) -> Any:
    from transformers import LlamaConfig

    told: dict[str, Any] = {**(TINY if tiny else SEVEN), "num_hidden_layers": layers, "max_position_embeddings": LENGTHS[-1]}
    return LlamaConfig(**told, pad_token_id=0, bos_token_id=1, eos_token_id=2)


def _layers(config: Finetune) -> int:
    """How many of the layers have room."""
    if not torch.cuda.is_available():
        return 2
    free = torch.cuda.mem_get_info()[0] * STATES
    one, two = (model.sizes(config, _shape(layers, tiny=False)) for layers in (1, 2))
    first = settings.state_bytes(config, *one, 1)
    each = settings.state_bytes(config, *two, 1) - first
    return max(1, min(LAYERS, 1 + int((free - first) / each)))


def levers(*, tiny: bool) -> Iterator[Row]:
    """All lengths with all levers on, then each lever off at a short and at the longest length."""
    config = _config(**({"max_length": 128, "pack_tokens": 128} if tiny else {}))
    layers = _layers(config)
    hf_config = _shape(layers, tiny=tiny)
    started = time.monotonic()
    bench = _bench(config, hf_config, NoPad(hf_config.vocab_size))
    yield _about(bench, layers, time.monotonic() - started)
    lengths = (64, 128) if tiny else LENGTHS
    for examples in ("short", "long"):
        for length in lengths:
            yield _tried(bench, Way(examples, length), "all on", nullcontext)
    for examples, length in (("short", lengths[-2]), ("long", lengths[-1])):
        for name, lever in _levers(bench).items():
            yield _tried(bench, Way(examples, length), name, lever)
    yield from _steps(bench)


def _about(bench: Bench, layers: int, seconds: float) -> Row:
    parameters = sum(weight.numel() for weight in bench.loaded.model.parameters())
    told = {"layers": layers, "of_layers": LAYERS, "parameters": parameters, "updated by": bench.by, "built in s": seconds}
    hf_config = bench.loaded.model.config
    each = {kind: memory.bytes_a_token(hf_config, 2, kind) for kind in memory.KINDS}
    told["estimated MiB of activations a token"] = {kind: size and size / MIB for kind, size in each.items()}
    return {**told, "attention": bench.loaded.kind, "logits": bench.loaded.logits, "device": devices.name_of(device())}


class Way(NamedTuple):
    """What updates are made of."""

    examples: str
    """`short` as Alpaca's, or one as `long` as a pack."""
    length: int
    """Tokens of a pack."""


def _tried(bench: Bench, way: Way, name: str, lever: Callable[[], AbstractContextManager[Any]]) -> Row:
    row: Row = {"examples": way.examples, "pack": way.length, "way": name}
    try:
        with lever() as changed:
            return row | _measured(changed or bench, way, padded=name == "padded")
    except torch.OutOfMemoryError:
        bench.engine.optimizer.zero_grad()
        return row | {"failed": "out of memory"}
    except Exception as error:  # noqa: BLE001 - one way that fails is a row, not the end of all
        return row | {"failed": f"{type(error).__name__}: {error}"[:400]}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _measured(bench: Bench, way: Way, *, padded: bool) -> Row:
    vocabulary = bench.loaded.model.config.vocab_size
    lengths = [way.length] if way.examples == "long" else _alike(way.length)
    tokens = Examples(lengths, vocabulary)
    parts = (
        [np.arange(at, min(at + 16, len(lengths))) for at in range(0, len(lengths), 16)]
        if padded
        else [np.arange(len(lengths))]
    )
    batches = [batch.to(device()) for batch in collate.built(tokens, parts, 0 if padded else None, None)]
    labels = collate.label_tokens(tokens, np.arange(len(lengths)))
    _update(bench, batches, labels)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < (MEASURED_S if torch.cuda.is_available() else 0):
        started = time.perf_counter()
        loss = _update(bench, batches, labels)
        wait()
        seconds.append(time.perf_counter() - started)
    each = sum(seconds) / len(seconds)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return {
        "tokens_per_s": sum(lengths) / each,
        "peak_gib": peak,
        "loss": loss,
        "updates": len(seconds),
        **_rates(bench, tokens, labels, each),
    }


def _alike(length: int) -> list[int]:
    """Lengths as various as Alpaca's, which fill a pack."""
    dice, lengths = np.random.default_rng(1), list[int]()
    while (left := length - sum(lengths)) > 1:
        lengths.append(min(left, max(8, int(dice.lognormal(np.log(SHORT) - 0.25, 0.7)))))
    return lengths


def _update(bench: Bench, batches: list[collate.MicroBatch], labels: int) -> float:
    total = 0.0
    for batch in batches:
        loss = collate.loss_sum(bench.engine, batch, slices=bench.loaded.slices, by=bench.loaded.head) * (1 / labels)
        bench.engine.backward(loss)
        total += float(loss.detach())
    bench.engine.step()
    return total


def _rates(bench: Bench, tokens: Examples, labels: int, seconds: float) -> Row:
    """MFU, and by it the rate of all layers of 7B."""
    if bench.flops is None or bench.peak is None:
        return {"mfu": None}
    squares = int((tokens.lengths**2).sum())
    count = int(tokens.lengths.sum())
    mfu = bench.flops.of(count, labels, squares) / (seconds * bench.peak)
    whole = shapes.flops(_shape(LAYERS, tiny=False), *(_sizes_of_all()))
    assert whole is not None
    return {"mfu": mfu, "tokens_per_s of 32 layers at this MFU": mfu * bench.peak * count / whole.of(count, labels, squares)}


def _sizes_of_all() -> tuple[int, int]:
    size = 2 * SEVEN["vocab_size"] * SEVEN["hidden_size"] + LAYERS * (
        4 * SEVEN["hidden_size"] ** 2 + 3 * SEVEN["hidden_size"] * SEVEN["intermediate_size"]
    )
    return size, size


def _levers(bench: Bench) -> Mapping[str, Callable[[], AbstractContextManager[Any]]]:
    """Each lever the other way."""
    ours = bench.loaded.head
    found: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        "whole logits": lambda: nullcontext(bench._replace(loaded=bench.loaded._replace(head=None))),
        "logits in pieces, always": lambda: nullcontext(_with_head(bench, by_liger=False)),
        "attention of one example at a time": lambda: mock.patch.object(attention, "SIXTEEN_BITS", ()),
        "padded to the longest of 16": lambda: _padded(bench),
        "attention computed again": lambda: _attention_again(bench),
        "all layers computed again": lambda: _all_again(bench),
    }
    if ours is not None and torch.cuda.is_available() and find_spec("liger_kernel") is not None:
        found["logits by liger-kernel, always"] = lambda: nullcontext(_with_head(bench, by_liger=True))
    return found


def _with_head(bench: Bench, *, by_liger: bool) -> Bench:
    ours = bench.loaded.head
    assert isinstance(ours, head.Head)
    return bench._replace(loaded=bench.loaded._replace(head=ours._replace(always=True, by_liger=by_liger)))


@contextmanager
def _padded(bench: Bench) -> Iterator[None]:
    bench.loaded.model.set_attn_implementation(bench.loaded.own)
    try:
        yield
    finally:
        bench.loaded.model.set_attn_implementation(bench.loaded.kind)


@contextmanager
def _attention_again(bench: Bench) -> Iterator[None]:
    attention.compute_again(bench.config, bench.loaded.model)
    try:
        yield
    finally:
        for module in bench.loaded.model.modules():
            module.__dict__.pop("forward", None)


@contextmanager
def _all_again(bench: Bench) -> Iterator[None]:
    bench.loaded.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    try:
        yield
    finally:
        bench.loaded.model.gradient_checkpointing_disable()


def _steps(bench: Bench) -> Iterator[Row]:
    """AdamW alone, fused and not, over weights of the same number."""
    count = sum(weight.numel() for weight in bench.loaded.model.parameters()) // 8
    for fused in (True, False):
        weight = torch.nn.Parameter(torch.zeros(count, device=device()))
        weight.grad = torch.ones_like(weight)
        adam = torch.optim.AdamW([weight], lr=1e-5, fused=fused)
        seconds = []
        for _ in range(4):
            wait()
            started = time.perf_counter()
            adam.step()
            wait()
            seconds.append(time.perf_counter() - started)
        yield {"way": "AdamW, fused" if fused else "AdamW, not fused", "weights": count, "seconds": min(seconds[1:])}


def finetuned(folder: str | None, *, tiny: bool) -> Iterator[Row]:
    """A real model, finetuned on `rows.json` of its folder (records as Alpaca's), or on random tokens."""
    assert folder is not None, "name the model's folder: --model"
    from transformers import AutoConfig, AutoTokenizer

    config = _config(model=folder, from_scratch=False, max_length=512, pack_tokens=512 if tiny else 8192, learning_rate=2e-5)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    bench = _bench(config, AutoConfig.from_pretrained(folder), tokenizer)
    tokens = _rows(Path(folder), tokenizer, config.max_length)
    place, order = Place(0, 1, 1, device()), np.arange(len(tokens.lengths))
    updates = 2 if tiny else 60
    size = min(128, len(order))
    taken, losses, started = 0, list[float](), time.perf_counter()
    for step in range(updates + 1):
        if step == 1:  # the first warms up
            wait()
            started, taken = time.perf_counter(), 0
        batch = np.roll(order, -step * size)[:size]
        losses.append(_one(bench, tokens, batch, place))
        taken += int(tokens.lengths[batch].sum())
    wait()
    seconds = time.perf_counter() - started
    row = {"way": "finetuned", "model": Path(folder).name, "updates": updates, "examples an update": size, "rows": len(order)}
    yield {**row, "tokens_per_s": taken / seconds, "loss first": losses[0], "loss last": losses[-1]}


def _one(bench: Bench, tokens: Examples, batch: collate.Integers, place: Place) -> float:
    from alpagasus_ray.training import schedule

    parts = schedule.packs(batch, tokens.lengths, bench.config.least_pack, place.workers)[place.rank]
    batches = [each.to(place.device) for each in collate.built(tokens, parts, None, None)]
    return _update(bench, batches, collate.label_tokens(tokens, batch))


def _rows(folder: Path, tokenizer: Any, longest: int) -> Examples:
    file = folder / "rows.json"
    if not file.exists():
        return Examples(_alike(SHORT * 512), len(tokenizer))
    from alpagasus_ray.data.prompts import alpaca_prompt

    made = Examples([], len(tokenizer))
    prompts = []
    for row in json.loads(file.read_text())[:4096]:
        prompt = tokenizer(alpaca_prompt(row["instruction"], row.get("input") or ""))["input_ids"]
        answer = tokenizer(row["output"], add_special_tokens=False)["input_ids"]
        if answer and len(prompt) < longest:
            made._ids.append(np.array([*prompt, *answer, tokenizer.eos_token_id][:longest], dtype=np.int32))  # noqa: SLF001
            prompts.append(len(prompt))
    made.lengths = np.array([len(ids) for ids in made._ids], dtype=np.int64)  # noqa: SLF001
    made.prompt_tokens = np.array(prompts, dtype=np.int64)
    return made
