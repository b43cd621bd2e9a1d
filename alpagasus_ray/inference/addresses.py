"""The addresses at which a stage asks: part of its record, shown before it begins, and not changed by accident.

Two servers may serve different models under one name.
"""

import os
from collections.abc import Sequence
from typing import Any

from alpagasus_ray.config import BASE_URL, EngineConfig
from alpagasus_ray.errors import SettingsChanged
from alpagasus_ray.store.run import Begun, Manifest, StageDir
from alpagasus_ray.terminal import say

KEY = "addresses"
"""Where a manifest's details hold them."""


def addresses_of(engine: EngineConfig) -> list[str]:
    """The addresses of a server that is asked, in order; none for a model in the job."""
    endpoints = engine.at_each_endpoint() if engine.is_remote else ()
    return list(dict.fromkeys(endpoint.base_url.rstrip("/") for endpoint in endpoints))


def routes_of(engine: EngineConfig) -> list[Any]:
    """Where requests go, in order: the addresses, and beside an address the further headers (the names of their variables) and
    the query, where it has any. A gateway may choose the model by them."""
    endpoints = engine.at_each_endpoint() if engine.is_remote else ()
    if not any(endpoint.headers or endpoint.query for endpoint in endpoints):
        return list(addresses_of(engine))
    return [[endpoint.base_url.rstrip("/"), endpoint.headers, endpoint.query] for endpoint in endpoints]


def shown(engine: EngineConfig) -> str:
    """Who is asked and where, in words."""
    if not engine.is_remote:
        return f"{engine.model or engine.kind}, in the job" if engine.is_model else f"the `{engine.kind}` judge"
    origin = f" (from {BASE_URL})" if from_environment(engine) else ""
    return f"{engine.model} at {', '.join(addresses_of(engine))}{origin}"


def from_environment(engine: EngineConfig) -> bool:
    """Whether the address is the environment's and not the recipe's."""
    return bool(os.environ.get(BASE_URL, "").strip()) and "base_url" not in engine.model_fields_set and not engine.endpoints


def tell(stage: str, engine: EngineConfig) -> None:
    """The first line of a stage."""
    say(f"{stage}: asks {shown(engine)}")


def check(stage: StageDir, made: Manifest | Begun, engine: EngineConfig) -> None:
    """Refuse another address than the stage has on record, unless the recipe allows it. Older stages have none."""
    # a key of the environment may have moved the address: the same model name elsewhere may be another model
    before = recorded(made)
    strangers = [address for address in addresses_of(engine) if address not in before]
    if before and strangers and not engine.other_address:
        raise SettingsChanged(
            f"{stage.name}/ in this run was asked for at {', '.join(before)}, and the recipe says {', '.join(strangers)} now, "
            "where another model may answer to the same name. Go back to that address, or allow it: "
            f"{engine.where}.other_address=true"
        )


def recorded(made: Manifest | Begun) -> Sequence[str]:
    """The addresses on record."""
    return made.addresses if isinstance(made, Begun) else made.details.get(KEY, [])


def record(stage: StageDir, begun: Begun, engine: EngineConfig) -> Begun:
    """Check the addresses of a stage that goes on, and put them on record."""
    check(stage, begun, engine)
    known = list(dict.fromkeys([*begun.addresses, *addresses_of(engine)]))
    if known == begun.addresses:
        return begun
    begun = begun.model_copy(update={"addresses": known})
    stage.begin(begun)
    return begun
