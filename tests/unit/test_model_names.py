"""Whether a provider's name for what answered means the model that was asked for."""

import pytest

from alpagasus_ray.engines.model_names import is_same_model


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o-mini-2024-07-18"),
        ("gpt-4", "gpt-4-0613"),
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("gpt-4o", "openai/gpt-4o-2024-08-06"),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/llama-3.1-8b-instruct"),
        ("meta-llama/llama-3.1-8b-instruct:free", "meta-llama/llama-3.1-8b-instruct:free"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet-20241022"),
        ("/models/judge/", "judge"),
    ],
)
def test_a_name_a_snapshot_of_it_and_a_name_with_whose_it_is_are_one_model(asked: str, answered: str) -> None:
    assert is_same_model(asked, answered)


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        ("gpt-4o", "gpt-4o-mini"),
        ("gpt-4o-mini", "gpt-4o"),
        ("gpt-4o-2024-05-13", "gpt-4o-2024-08-06"),
        ("gpt-4", "gpt-4.1"),
        ("gpt-4", "gpt-4-32k"),
        ("llama-3.1-70b", "llama-3.1-8b"),
        ("llama-3", "llama-3-70b"),
        ("toy", "other"),
    ],
)
def test_anything_else_is_another_model(asked: str, answered: str) -> None:
    assert not is_same_model(asked, answered)
