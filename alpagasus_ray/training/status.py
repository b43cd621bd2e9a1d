"""What a training tells its driver while it runs: how far it is, how often it was begun, why going on would be in vain."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


class _StatusActor:
    """An actor that remembers what it was told last."""

    def __init__(self) -> None:
        self._last: dict[str, Any] = {}
        self._begun = 0
        self._stopped: Any = None

    def tell(self, news: dict[str, Any]) -> None:
        self._last = news

    def last(self) -> dict[str, Any]:
        return self._last

    def begin(self) -> int:
        self._begun += 1
        return self._begun

    def stop(self, reason: Any) -> None:
        self._stopped = self._stopped or reason

    def stopped(self) -> Any:
        return self._stopped


class TrainingStatus:
    """Both ends of it: workers tell without waiting, the driver asks."""

    def __init__(self) -> None:
        # beside the driver, whose end is the training's end anyway: another node may be taken away
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._watch: Any = ray.remote(num_cpus=0)(_StatusActor).options(scheduling_strategy=here).remote()

    def tell(self, news: dict[str, Any]) -> None:
        """Say how far the training is."""
        self._watch.tell.remote(news)

    def last(self) -> dict[str, Any]:
        """What was said last."""
        found: dict[str, Any] = ray.get(self._watch.last.remote())
        return found

    def begin(self) -> int:
        """Count the times that the workers of a call were started; the answer is 1 but where some were lost."""
        times: int = ray.get(self._watch.begin.remote())
        return times

    def stop(self, reason: Any) -> None:
        """Say why no other try can succeed; the first word counts."""
        ray.get(self._watch.stop.remote(reason))

    def stopped(self) -> Any:
        """Why no other try can succeed, if somebody has said so."""
        return ray.get(self._watch.stopped.remote())
