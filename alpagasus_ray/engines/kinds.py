"""The engines that each `kind` names: how they are opened. What else has to be known of a kind is in `config.engines.KINDS`."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from alpagasus_ray.config import Answerer, EngineConfig, Judge
from alpagasus_ray.engines.base import ANY_FORM, Engine, Message, ReplyForm
from alpagasus_ray.errors import UsageError


class Purpose(NamedTuple):
    """What engines are opened for."""

    form: ReplyForm = ANY_FORM
    """The form that all replies are to have."""
    shortest: Sequence[Message] = ()
    """The least that a model will be asked: one in the job starts only if that fits its context."""
    test_sets: Sequence[str] = ()
    """Of which test sets answers are imported."""
    pairs: Literal["scores", "verdict"] | None = None
    """The form of a judge's reply about two answers."""


Opener = Callable[[EngineConfig, Purpose], Sequence[Engine]]


def open_engines(
    config: EngineConfig,
    form: ReplyForm = ANY_FORM,
    *,
    shortest: Sequence[Message] = (),
    test_sets: Sequence[str] = (),
    pairs: Literal["scores", "verdict"] | None = None,
) -> list[Engine]:
    """Open the engines, one for each endpoint; the arguments are those of `Purpose`. Raises `UsageError` for settings that the
    engine cannot have, `EngineUnusable` where it cannot start."""
    return list(OPENERS[config.kind](config, Purpose(form, shortest, test_sets, pairs)))


# each kind is imported only when it is asked for: vLLM takes half a minute
def _api(config: EngineConfig, purpose: Purpose) -> Sequence[Engine]:
    from alpagasus_ray.engines.openai_api import OpenAIEngine

    return [OpenAIEngine(endpoint, purpose.form) for endpoint in config.at_each_endpoint()]


def _vllm(config: EngineConfig, purpose: Purpose) -> Sequence[Engine]:
    from alpagasus_ray.engines.vllm_engine import VllmEngine

    return [VllmEngine.start(config, purpose.form, purpose.shortest)]


def _rules(_: EngineConfig, purpose: Purpose) -> Sequence[Engine]:
    from alpagasus_ray.engines.heuristic import PairRulesEngine, RulesEngine

    return [RulesEngine() if purpose.pairs is None else PairRulesEngine(purpose.pairs)]


def _recorded(config: EngineConfig, purpose: Purpose) -> Sequence[Engine]:
    if isinstance(config, Answerer) and config.answers is not None:
        from alpagasus_ray.engines.imported import ImportedEngine

        return [ImportedEngine.open(config.answers, purpose.test_sets)]
    from alpagasus_ray.engines.recorded import RecordedEngine

    assert isinstance(config, Judge), "other sections refuse the kind"
    assert config.ratings is not None, "the section asks for it"
    return [RecordedEngine.open(config.ratings, config.columns)]


def _distilled(*_: object) -> Sequence[Engine]:
    raise UsageError("kind `distilled` is for `score.judge`: the fitted judge lies in a run, and only ratings have one")


OPENERS: dict[str, Opener] = {"api": _api, "vllm": _vllm, "rules": _rules, "recorded": _recorded, "distilled": _distilled}
"""How the engines of each kind are opened."""
