"""What a request to an address carries besides its body: the key, further headers, what stands behind the `?`.

Values that are nobody's business come from the environment, or from files that it names, on the machine that asks.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import httpx2 as httpx
from multidict import CIMultiDict

from alpagasus_ray.config import EngineConfig
from alpagasus_ray.errors import UsageError

ACCOUNT = {"OpenAI-Organization": "OPENAI_ORG_ID", "OpenAI-Project": "OPENAI_PROJECT_ID"}
"""Header -> the variable of the environment that holds it."""
CREDENTIALS = ("authorization", "api-key", "x-api-key", "x-goog-api-key", "ocp-apim-subscription-key")
"""Headers that hold a key; beside one of these no other is sent."""


class Access(NamedTuple):
    """Headers and query of every request, and all values in them that are secret."""

    headers: dict[str, str]
    query: dict[str, str]
    secrets: tuple[str, ...]

    @property
    def has_key(self) -> bool:
        """Whether a header holds the key already."""
        return any(name.lower() in CREDENTIALS for name in self.headers)

    @property
    def arguments(self) -> dict[str, Any]:
        """The same as arguments of a client of the `openai` package."""
        return {"default_headers": self.headers, "default_query": self.query}

    def cleared(self, request: httpx.Request) -> None:
        """Take the client's own key out of a request: a server that is given two may take the wrong one."""
        if self.has_key and not any(name.lower() == "authorization" for name in self.headers):
            # the `openai` package puts it into every request, with a made-up key where there is none
            request.headers.pop("authorization", None)

    def sent_with(self, key: str) -> CIMultiDict[str]:
        """The headers of a request with this key; one of the recipe comes in place of another of its name."""
        sent = CIMultiDict({} if self.has_key else {"Authorization": f"Bearer {key}"})
        sent.update(_of_the_environment())
        sent.update(self.headers)
        return sent


def access(engine: EngineConfig) -> Access:
    """The headers and the query of an address; `UsageError` names the variable that is not set here."""
    headers = {name: _value(variable, f"{engine.where}.headers.{name}") for name, variable in engine.headers.items()}
    query = {
        name: _value(value, f"{engine.where}.query.{name}") if value.startswith("$") else value
        for name, value in engine.query.items()
    }
    secret = [*headers.values(), *(query[name] for name, value in engine.query.items() if value.startswith("$"))]
    return Access(headers, query, tuple(value for value in secret if value))


def _of_the_environment() -> dict[str, str]:
    """What the `openai` package, and so a batch, takes from the environment; of the last variable a line is a header."""
    account = {name: os.environ[variable] for name, variable in ACCOUNT.items() if os.environ.get(variable)}
    lines = (line.partition(":") for line in os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n"))
    return account | {name.strip(): value.strip() for name, colon, value in lines if colon}


def _value(variable: str, knob: str) -> str:
    name = variable.removeprefix("$")
    value = from_environment(name)
    if not value:
        raise UsageError(f"{knob} names the environment variable {name}, and neither that nor {name}_FILE is set")
    # a line break would end the header, and the rest of the value would be another one
    if any(not sign.isprintable() for sign in value) or not value.isascii():
        raise UsageError(f"the value of {name} ({knob}) holds line breaks or signs that no header may hold")
    return value


def from_environment(name: str) -> str | None:
    """The value of an environment variable, or of the file that the variable of that name with `_FILE` added names."""
    if os.environ.get(name):
        return os.environ[name].strip()
    file = os.environ.get(f"{name}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not plain text"
        raise UsageError(f"{name}_FILE names {file}, which cannot be read: {reason}") from None
