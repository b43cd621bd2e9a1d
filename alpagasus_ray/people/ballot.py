"""The ballot: one page that people vote with, without any network, and the key that never leaves with it.

The page holds prompts, answers and layouts. Which answer is of which model stands in the key alone, so that nobody who votes,
and nobody who reads the page's source, can know. Texts reach the page as JSON in a script element of no script type and are
shown by textContent: Markdown and HTML stay what was written. The content security policy allows nothing but the page's own
script and style, known by their hashes.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, Literal, NamedTuple

import numpy as np
import orjson
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from alpagasus_ray.people.assign import Study
from alpagasus_ray.people.words import LANGUAGES, WORDS

PAGE = files("alpagasus_ray.people") / "page"
VERSION = 1
GROUNDS = ("relevance", "completeness", "coherence", "accuracy")
CHOICES: dict[str, tuple[str, ...]] = {"vote": ("first", "second", "neither"), "rate": ("0", "1", "2", "3", "4", "5")}
"""What can be chosen where a key does not say it."""
MOST_CHOICES = 11
KEYS = "0123456789x"
"""Of the keyboard, for the numbers from 0 to 10."""

Form = Literal["vote", "rate"]


class Ballot(NamedTuple):
    """The page, what it asks about (texts by their hashes), and the key; the first goes out, the last stays."""

    html: str
    items: dict[str, Any]
    key: dict[str, Any]


def scores_to_choose(least: float, most: float) -> tuple[str, ...]:
    """What people choose from on a judge's scale: its whole numbers where these are three to eleven, else eleven even steps."""
    is_whole = float(least).is_integer() and float(most).is_integer() and 2 <= most - least < MOST_CHOICES
    return tuple(f"{score:.6g}" for score in np.linspace(least, most, int(most - least) + 1 if is_whole else MOST_CHOICES))


def choices_of(key: Mapping[str, Any]) -> tuple[str, ...]:
    """What voters of a ballot could choose; keys of earlier versions know no choices of their own."""
    return tuple(key.get("choices") or CHOICES[key["form"]])


def keys_of(form: Form, choices: Sequence[str]) -> list[str]:
    """The keyboard's key for each choice: a whole number's own (X for 10), else 0, 1, … in order; for votes 1, 2, 3."""
    whole = [str(number) for number in range(MOST_CHOICES)]
    start = 1 if form == "vote" else whole.index(choices[0]) if set(choices) <= set(whole) else 0
    return list(KEYS[start : start + len(choices)])


def ballot(
    study: Study, form: Form, a: str = "", b: str = "", language: str = "en", choices: Sequence[str] | None = None
) -> Ballot:
    """The ballot of a study. a, b: the models' names, for the key. choices: the scores that an example can be given."""
    can_choose = list(choices or CHOICES[form])
    asked = {
        "version": VERSION,
        "form": form,
        "choices": can_choose,
        "keys": keys_of(form, can_choose),
        "items": [{"prompt": item.prompt, "texts": list(item.texts)} for item in study.items],
        "voters": {voter: [[one.slot, one.item, one.first] for one in layout] for voter, layout in study.layouts.items()},
    }
    data = orjson.dumps(asked).decode()
    fingerprint = _hash(data)
    items = [
        {
            "item_id": item.item_id,
            "test_set": item.test_set,
            "skill": item.skill,
            "prompt": item.prompt,
            "texts": [_hash(text) for text in item.texts],
        }
        for item in study.items
    ]
    key = {
        "ballot": fingerprint,
        "form": form,
        "choices": can_choose,
        "a": a,
        "b": b,
        "items": [
            {"item_id": i.item_id, "test_set": i.test_set, "a_is": i.a_is, "is_check": i.is_check, "drawn": i.drawn}
            for i in study.items
        ],
        "voters": {voter: [one._asdict() for one in layout] for voter, layout in study.layouts.items()},
    }
    return Ballot(_page(data, fingerprint, language), {"ballot": fingerprint, "items": items}, key)


def named_in(study: Study, names: Sequence[str]) -> list[str]:
    """The ids of items in which an answer names one of the models: its voters could know whose it is."""
    known = [name.casefold() for name in names if name]
    return [item.item_id for item in study.items if any(name in text.casefold() for name in known for text in item.texts)]


def _page(data: str, fingerprint: str, language: str) -> str:
    style, script = (_read(name) for name in ("ballot.css", "ballot.js"))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_read("ballot.html.j2")).render(
        data=_inert(data),
        words=_inert(orjson.dumps({"words": WORDS, "languages": LANGUAGES, "grounds": GROUNDS}).decode()),
        ballot=fingerprint,
        language=language if language in LANGUAGES else "en",
        style=Markup(style),  # noqa: S704
        script=Markup(script),  # noqa: S704
        style_hash=_source_hash(style),
        script_hash=_source_hash(script),
    )


def _read(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _inert(json: str) -> Markup:
    """JSON that no text in it can end the element of."""
    return Markup(json.replace("<", "\\u003c"))  # noqa: S704


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _source_hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
