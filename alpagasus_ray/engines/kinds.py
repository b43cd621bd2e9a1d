"""The engine that a `kind` names."""

from collections.abc import Sequence
from typing import Literal

from alpagasus_ray.config import Answerer, EngineConfig, Judge
from alpagasus_ray.engines.base import ANY_FORM, Engine, Message, ReplyForm


def open_engines(
    config: EngineConfig,
    form: ReplyForm = ANY_FORM,
    *,
    shortest: Sequence[Message] = (),
    test_sets: Sequence[str] = (),
    pairs: Literal["scores", "verdict"] | None = None,
) -> list[Engine]:
    """Open the engines, one for each endpoint; each kind is imported only when it is asked for. A model in the job starts
    only if `shortest`, the least that it will be asked, fits its context. Of `test_sets` answers are imported. `pairs` is the
    form of a judge's reply about two answers."""
    if config.kind == "vllm":
        from alpagasus_ray.engines.vllm_engine import VllmEngine

        return [VllmEngine.start(config, form, shortest)]
    if config.kind == "rules":
        from alpagasus_ray.engines.heuristic import PairRulesEngine, RulesEngine

        return [RulesEngine() if pairs is None else PairRulesEngine(pairs)]
    if isinstance(config, Answerer) and config.answers is not None:
        from alpagasus_ray.engines.imported import ImportedEngine

        return [ImportedEngine.open(config.answers, test_sets)]
    if isinstance(config, Judge) and config.ratings is not None and config.kind == "recorded":
        from alpagasus_ray.engines.recorded import RecordedEngine

        return [RecordedEngine.open(config.ratings, config.columns)]
    from alpagasus_ray.engines.openai_api import OpenAIEngine

    return [OpenAIEngine(place, form) for place in config.at_each_endpoint()]
