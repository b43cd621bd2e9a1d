"""Where a stage asks: from the recipe or the environment, with a query and headers, on record and not changed by accident."""

import asyncio
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from alpagasus_ray.config import Endpoint, Judge, Recipe, Score, digest, identity
from alpagasus_ray.engines.base import Reply, Request
from alpagasus_ray.engines.identity import identity_of
from alpagasus_ray.engines.model_list import ask_models
from alpagasus_ray.engines.openai_api import OpenAIEngine
from alpagasus_ray.errors import EngineUnusable, SettingsChanged, UsageError
from alpagasus_ray.inference import addresses
from alpagasus_ray.store.run import Begun
from servers import serving
from toy_runs import toy_run

KEY = "azure-canary-77"
VERSION = "2024-10-21"
DEPLOYMENT = "/openai/deployments/judge"


class Azure(HTTPServer):
    """Answers as Azure OpenAI does: `api-key` and `api-version`, or 401 and 404."""

    asked: list[dict[str, Any]]


class Handler(BaseHTTPRequestHandler):
    server: Azure

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({"path": self.path, "headers": dict(self.headers), "body": body})
        message = {"role": "assistant", "content": "4"}
        self._say({"choices": [{"message": message, "finish_reason": "stop"}]})

    def do_GET(self) -> None:
        self._say({"data": [{"id": "judge"}]})

    def _say(self, sound: Any) -> None:
        status, said = 200, sound
        if self.headers.get("api-key") != KEY or self.headers.get("Authorization"):
            status, said = 401, {"error": {"code": "401", "message": f"Access denied, not {self.headers.get('api-key')}"}}
        elif f"api-version={VERSION}" not in self.path:
            status, said = 404, {"error": {"code": "404", "message": "Resource not found"}}
        content = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Azure]:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
    server = Azure(("127.0.0.1", 0), Handler)
    server.asked = []
    with serving(server):
        yield server


def _judge(server: Azure, **changes: Any) -> Judge:
    given = {
        "model": "judge",
        "base_url": f"http://127.0.0.1:{server.server_port}{DEPLOYMENT}",
        "query": {"api-version": VERSION},
        "headers": {"api-key": "AZURE_OPENAI_API_KEY"},
    }
    return Judge(**{**given, **changes})


def _ask(judge: Judge) -> Reply:
    messages = [{"role": "system", "content": "Rate."}, {"role": "user", "content": "This."}]

    async def once() -> Reply:
        engine = OpenAIEngine(judge)
        try:
            return await engine.complete(Request("key", messages, {}))
        finally:
            await engine.close()

    return asyncio.run(once())


def test_azure_is_asked_with_its_own_key_header_its_version_and_no_other_key(azure: Azure) -> None:
    assert _ask(_judge(azure)).text == "4"
    (asked,) = azure.asked
    assert asked["path"] == f"{DEPLOYMENT}/chat/completions?api-version={VERSION}"
    assert ask_models(_judge(azure)).models == ("judge",)


def test_a_version_of_a_recipe_may_be_a_date_of_yaml() -> None:
    from datetime import date

    assert Judge(query={"api-version": date(2024, 10, 21)}).query == {"api-version": VERSION}  # type: ignore[dict-item]


def test_an_endpoint_has_a_query_and_headers_of_its_own(azure: Azure) -> None:
    base_url = f"http://127.0.0.1:{azure.server_port}{DEPLOYMENT}"
    place = Endpoint(base_url=base_url, query={"api-version": VERSION}, headers={"api-key": "AZURE_OPENAI_API_KEY"})
    (judge,) = Judge(model="judge", endpoints=(place,)).at_each_endpoint()
    assert _ask(judge).text == "4"


def test_no_message_holds_what_a_header_holds(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "wrong-canary-78")
    with pytest.raises(EngineUnusable) as raised:
        _ask(_judge(azure))
    assert "wrong-canary-78" not in str(raised.value)


def test_a_variable_that_is_not_set_is_named_before_anything_is_sent(azure: Azure, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_API_KEY")
    with pytest.raises(UsageError, match=r"score\.judge\.headers\.api-key names the environment variable AZURE_OPENAI_API_KEY"):
        _ask(_judge(azure))
    assert azure.asked == []


def test_a_secret_may_stand_in_the_query_by_its_variable_only(azure: Azure) -> None:
    with pytest.raises(ValidationError, match="looks like a secret"):
        Judge(query={"subscription-key": "abc"})
    _ask(_judge(azure, query={"key": "$AZURE_OPENAI_API_KEY", "api-version": VERSION}))
    assert f"key={KEY}" in azure.asked[0]["path"]


def test_the_system_turn_is_merged_into_the_users_where_the_recipe_says_so(azure: Azure) -> None:
    _ask(_judge(azure, system="merge"))
    assert azure.asked[0]["body"]["messages"] == [{"role": "user", "content": "Rate.\n\nThis."}]


# the address


@pytest.mark.parametrize("given", ["http://h:1/v1/chat/completions", "http://h:1/v1/chat/completions/", "http://h:1/v1/"])
def test_what_the_client_adds_itself_is_taken_off_an_address(given: str) -> None:
    assert Judge(base_url=given).base_url == "http://h:1/v1"


@pytest.mark.parametrize("given", ["http://h/v1?api-version=1", "http://h/v1#top"])
def test_an_address_with_a_query_is_refused_with_where_that_goes(given: str) -> None:
    with pytest.raises(ValidationError, match="goes into `query`"):
        Judge(base_url=given)


def test_the_environments_address_holds_where_the_recipe_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h:1/v1")
    assert Recipe().score.judge.base_url == Recipe().compare.judge.base_url == "http://h:1/v1"
    assert addresses.shown(Judge(model="m")) == "m at http://h:1/v1 (from OPENAI_BASE_URL)"
    assert Judge(base_url="http://other/v1").base_url == "http://other/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "not an address")
    with pytest.raises(ValidationError):
        Judge()


def test_an_address_its_query_and_its_headers_are_no_part_of_what_ratings_are() -> None:
    plain, elsewhere = (
        Judge(model="m", base_url="http://a/v1"),
        Judge(model="m", base_url="http://b/v1", query={"v": "1"}, headers={"x": "X"}, other_address=True),
    )
    assert digest(identity_of(plain)) == digest(identity_of(elsewhere))
    assert identity_of(plain) | {"system": "merge"} == identity_of(plain.model_copy(update={"system": "merge"}))
    assert identity(Score(max_unusable=0.1)) == identity(Score())


# on record


def _stage(tmp_path: Path) -> Any:
    stage = toy_run(tmp_path, 3).ratings("judge")
    stage.begin(Begun(settings={}, inputs={}))
    return stage


def _record(stage: Any, **judge: Any) -> list[str]:
    return addresses.record(stage, stage.begun(), Judge(model="m", **judge)).addresses


def test_another_address_for_a_stage_that_goes_on_is_refused_unless_the_recipe_allows_it(tmp_path: Path) -> None:
    stage = _stage(tmp_path)
    assert _record(stage, base_url="http://a/v1") == ["http://a/v1"]
    with pytest.raises(
        SettingsChanged, match=r"at http://a/v1, and the recipe says http://b/v1 now.*score.judge.other_address=true"
    ):
        _record(stage, base_url="http://b/v1")
    assert _record(stage, base_url="http://b/v1", other_address=True) == ["http://a/v1", "http://b/v1"]
    assert _record(stage, base_url="http://b/v1") == ["http://a/v1", "http://b/v1"]


def test_an_endpoint_may_be_left_out_and_a_stage_of_before_has_no_address(tmp_path: Path) -> None:
    stage = _stage(tmp_path)
    both = (Endpoint(base_url="http://a/v1"), Endpoint(base_url="http://b/v1"))
    assert _record(stage, endpoints=both) == ["http://a/v1", "http://b/v1"]
    assert _record(stage, endpoints=both[:1]) == ["http://a/v1", "http://b/v1"]
