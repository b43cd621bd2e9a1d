"""The engine that a judge's `kind` names."""

from alpagasus_ray.config import Judge
from alpagasus_ray.engines.base import Engine


def open_engines(judge: Judge) -> list[Engine]:
    """Open the judge's engines, one for each of its endpoints; each kind is imported only when it is asked for."""
    if judge.kind == "rules":
        from alpagasus_ray.engines.rules import RulesEngine

        return [RulesEngine()]
    if judge.kind == "recorded":
        from alpagasus_ray.engines.recorded import RecordedEngine

        assert judge.ratings is not None, "checked by the recipe"
        return [RecordedEngine.open(judge.ratings, judge.columns)]
    from alpagasus_ray.engines.openai_api import OpenAIEngine

    return [OpenAIEngine(place) for place in judge.at_each_endpoint()]
