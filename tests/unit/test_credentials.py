"""No credential gets into a recipe, whatever it is called and wherever it stands; none of them is repeated."""

import os
import stat
from pathlib import Path

import pytest

from alpagasus_ray import cli
from alpagasus_ray.config.credentials import FORMS, found_in, is_name, without
from alpagasus_ray.errors import UsageError
from alpagasus_ray.recipe import load
from alpagasus_ray.store.storage import Storage

SECRET = "my-own-51"
KEY = "sk-" + "Ab12" * 8


def refused(*overrides: str) -> str:
    with pytest.raises(UsageError) as refusal:
        load(None, overrides)
    return str(refusal.value)


@pytest.mark.parametrize(
    "override",
    [
        f"score.judge.extra={{api_key: {SECRET}}}",
        f"score.judge.extra={{extra_headers: {{Authorization: {SECRET}}}}}",
        f"score.judge.extra={{extra_query: {{sig: {SECRET}}}}}",
        f"score.judge.extra={{deep: [{{a: 1}}, {{x-api-key: {SECRET}}}]}}",
        f"score.judge.extra={{note: 'Bearer {KEY}'}}",
        f"score.judge.extra.note={KEY}",
        f"score.judge.vllm.extra={{hf_token: {SECRET}}}",
        f"score.judge.vllm.chat_template_kwargs={{password: {SECRET}}}",
        f"score.judge.base_url=https://host/v1?api-key={SECRET}",
        f"score.judge.base_url=https://me:{SECRET}@host/v1",
        f"compare.judge.extra={{subscription-key: {SECRET}}}",
        f"generate.models=[{{name: a, kind: api, model: m, extra: {{token: {SECRET}}}}}]",
        f"ingest.source=s3://AKIAX:{SECRET}@bucket/rows.json",
        f"ingest.source=s3://AKIAX:ab/{SECRET}@bucket/rows.json",
        f"ingest.source=[a.json, 'https://host/rows.json?X-Amz-Signature={SECRET}']",
        f"ingest.source=https://{SECRET}@host/rows.json",
        f"finetune.model=https://user:{SECRET}@hub/model",
        f"generate.test_sets=[{{name: a, path: 'gs://x:{SECRET}@b/c'}}]",
    ],
)
def test_a_credential_is_refused_at_load_with_its_key_and_the_way_of_the_environment(override: str) -> None:
    told = refused(override)
    key = override.partition("=")[0]
    assert f"`{key}" in told
    assert "environment" in told
    assert SECRET not in told
    assert KEY not in told


@pytest.mark.parametrize(
    "override",
    [
        "score.judge.api_key_env=MY_KEY",
        "score.judge.extra={top_k: 9, reasoning_effort: low, stop_token_ids: [1], logit_bias: {'5': 1}}",
        "score.judge.vllm.extra={hf_token: true, tokenizer: a/b, skip_tokenizer_init: false}",
        "score.judge.vllm.chat_template_kwargs={bos_token: '<s>', eos_token: '</s>', enable_thinking: false}",
        "score.judge.base_url=http://127.0.0.1:8000/v1/@team",
        "ingest.source=https://medium.com/@me/rows.json",
        "ingest.source=s3://bucket/rows.json?region=eu-west-1&endpoint_override=127.0.0.1",
        "ingest.source=hf:tatsu-lab/alpaca",
        "ingest.source=[keys/token.json, 'a@b.json']",
    ],
)
def test_what_only_looks_a_little_like_a_credential_is_taken(override: str) -> None:
    load(None, [override])


def test_a_map_of_headers_may_name_variables_and_holds_no_values() -> None:
    assert not list(
        found_in(
            {"judge": {"headers": {"api-key": "AZURE_KEY", "x-token": "$MY_TOKEN"}, "query": {"api-version": "2024-06-01"}}}
        )
    )
    assert [key for key, _ in found_in({"judge": {"headers": {"api-key": "abc123"}}})] == ["judge.headers.api-key"]


def test_a_recipe_that_is_wrong_in_other_ways_too_is_told_all_of_it_at_once_and_nothing_secret(tmp_path: Path) -> None:
    told = refused("score.concurrency=0", f"score.judge.extra={{api_key: {SECRET}}}", f"score.judge.key={SECRET}")
    assert all(part in told for part in ("score.concurrency", "score.judge.extra.api_key", "score.judge.key"))
    assert SECRET not in told
    path = tmp_path / "broken.yaml"
    path.write_text(f"score:\n  judge:\n    api_key: {SECRET}: [\n")
    with pytest.raises(UsageError) as refusal:
        load(str(path), [])
    assert SECRET not in str(refusal.value)
    assert SECRET not in refused(f"score.judge.extra=[{{api_key: {SECRET}}}]")


def test_names_are_told_by_their_last_word() -> None:
    assert all(map(is_name, ("api_key", "apikey", "API-Key", "hf_token", "X-Amz-Signature", "Authorization", "client_secret")))
    assert not any(map(is_name, ("max_tokens", "tokenizer", "api_key_env", "keyword", "monkey", "eos_token", "key_columns")))


@pytest.mark.parametrize(
    "form",
    ["sk-proj-" + "a1" * 12, "hf_" + "Ab" * 15, "AKIA" + "A1" * 8, "ghp_" + "a" * 36, "eyJhbGciOiJI.eyJzdWIiOiIx.abc", KEY],
)
def test_a_key_is_told_by_its_form_and_taken_out_of_messages(form: str) -> None:
    assert FORMS.search(f"see {form} there")
    assert form not in without(f"see {form} there")


def test_the_recipe_that_a_run_keeps_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spec = cli.JobSpec("ingest", "ingest", "A job.", lambda call: {"stage": "x", "rows": 0, "location": ""})
        with pytest.raises(SystemExit):
            cli.main(spec, ["--run", str(tmp_path / "run")])
        storage = Storage.open(str(tmp_path / "run"))
        storage.write("other", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(storage.path("recipe.yaml")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(storage.path("other")).st_mode) == 0o666, "what is not private is as the umask says"
