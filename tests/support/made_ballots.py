"""Pairs of answers made up for ballots, and files of votes written as the page writes them."""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from alpagasus_ray.people.assign import Pair

SETS = ("koala", "selfinstruct", "vicuna", "wizardlm")
ARMS = ("alpagasus-13b", "full-52k")


def pairs(per_set: int = 50) -> list[Pair]:
    """Prompts of four test sets and of three skills each; one in seven answers would be a script if it were HTML."""
    made = []
    for name in SETS:
        for i in range(per_set):
            answer = f"The answer to {name} {i} is {i}, since it can hardly be anything else than this number and no other one"
            hostile = '<script>document.title = "broken"</script>' if i % 7 == 0 else "."
            skill = ("coding", "writing", "math")[i % 3]
            made.append(
                Pair(f"{name}-{i}", name, skill, f"Say {name} {i}\n\n**now**", answer + hostile, f"{i}, or another. " * 3)
            )
    return made


def exported(
    key: Mapping[str, Any], voter: str, choose: Callable[[Mapping[str, Any]], str], limit: int | None = None, comment: str = ""
) -> str:
    """The file that the page writes when a voter has chosen so on each slot of her layout, or on the first ones."""
    slots = key["voters"][voter][:limit]
    chain, lines = key["ballot"], []
    for number, slot in enumerate(slots, start=1):
        vote = {"ballot": key["ballot"], "voter": voter, "slot": slot["slot"], "choice": choose(slot)}
        vote |= {"grounds": [], "comment": comment, "seconds": 5.0, "at": "", "line": number, "of": len(slots)}
        body = json.dumps(vote, separators=(",", ":"), ensure_ascii=False)
        chain = hashlib.sha256(f"{chain}\n{body}".encode()).hexdigest()
        lines.append(f'{body[:-1]},"chain":"{chain}"}}\n')
    return "".join(lines)


def side_of(key: Mapping[str, Any], slot: Mapping[str, Any], said: str) -> str:
    """What a voter presses who means a, b or tie."""
    if said == "tie":
        return "neither"
    a_first = slot["first"] == key["items"][slot["item"]]["a_is"]
    return "first" if (said == "a") == a_first else "second"
