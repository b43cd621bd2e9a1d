"""Ballots and votes in the forms of Label Studio and Argilla, for people who work with one of them. Pure: JSON values.

Both show every voter the same, so that what goes out is one voter's layout: her order, her sides, her hidden repeats. What
comes back is read by the same key, slot by slot; a voter is whoever the other tool says she is.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from alpagasus_ray.errors import InputError
from alpagasus_ray.people.assign import Study
from alpagasus_ray.people.ballot import choices_of, keys_of
from alpagasus_ray.people.votes import Cast, cast

QUESTION = "choice"
ASKED = {
    "vote": "Which answer is significantly better?",
    "rate": "How helpful and accurate is the answer, from {least} to {most}?",
}
SUBMITTED = ("submitted", "")


def label_studio_tasks(study: Study, key: Mapping[str, Any], layout: str) -> list[dict[str, Any]]:
    """Tasks to import into a Label Studio project that is set up with `label_studio_config`."""
    return [{"data": record} for record in _shown(study, key, layout)]


def label_studio_config(key: Mapping[str, Any]) -> str:
    """The labelling interface. Its own Pairwise tag knows no tie: the three answers are choices."""
    form, choices_there = key["form"], choices_of(key)
    texts = ("first", "second") if form == "vote" else ("first",)
    shown = "".join(f'\n  <Header value="{name}"/>\n  <Text name="{name}" value="${name}"/>' for name in texts)
    hotkeys = zip(keys_of(form, choices_there), choices_there, strict=True)
    choices = "".join(f'\n    <Choice value="{choice}" hotkey="{pressed}"/>' for pressed, choice in hotkeys)
    return (
        f'<View>\n  <Text name="prompt" value="$prompt"/>{shown}\n  <Header value="{_question(key)}"/>\n'
        f'  <Choices name="{QUESTION}" toName="prompt" choice="single" required="true">{choices}\n  </Choices>\n</View>\n'
    )


def read_label_studio(tasks: Iterable[Mapping[str, Any]], key: Mapping[str, Any], file: str = "export") -> list[Cast]:
    """The votes of a JSON export of Label Studio. Skipped and cancelled annotations are no votes; of two by one voter on one
    task the later counts. Raises InputError for tasks of another ballot."""
    votes: dict[tuple[str, str], Cast] = {}
    for number, task in enumerate(tasks, start=1):
        place, data = f"task {number}", task.get("data", {})
        for annotation in task.get("annotations", ()):
            choice = _label_studio_choice(annotation)
            if choice is None or annotation.get("was_cancelled"):
                continue
            vote = _vote(data, key, (_who(annotation.get("completed_by")), choice, annotation.get("lead_time")), (file, place))
            votes[vote.voter, vote.slot] = vote
    return list(votes.values())


def _label_studio_choice(annotation: Mapping[str, Any]) -> str | None:
    for result in annotation.get("result", ()):
        chosen = result.get("value", {}).get("choices")
        if result.get("from_name") == QUESTION and chosen:
            return str(chosen[0])
    return None


def argilla_records(study: Study, key: Mapping[str, Any], layout: str) -> list[dict[str, Any]]:
    """Records for an Argilla dataset with the fields `prompt`, `first` and, for votes, `second`, and the question `choice`."""
    records = []
    for shown in _shown(study, key, layout):
        metadata = {name: shown.pop(name) for name in ("ballot", "layout")}
        slot = shown.pop("slot")
        records.append({"id": f"{metadata['ballot'][:12]}-{slot}", "fields": shown, "metadata": {**metadata, "slot": slot}})
    return records


def argilla_settings(key: Mapping[str, Any]) -> dict[str, Any]:
    """What the dataset needs, as plain values: its fields and its one question."""
    fields = ("prompt", "first", "second") if key["form"] == "vote" else ("prompt", "first")
    question = {"name": QUESTION, "type": "label_selection", "title": _question(key), "labels": list(choices_of(key))}
    return {
        "fields": [{"name": name, "type": "text", "use_markdown": False} for name in fields],
        "questions": [question],
        "metadata": [{"name": name, "type": "terms"} for name in ("ballot", "layout", "slot")],
    }


def read_argilla(records: Iterable[Mapping[str, Any]], key: Mapping[str, Any], file: str = "export") -> list[Cast]:
    """The votes of exported records, in the form of Argilla 2 (`responses: {choice: [{value, user_id, status}]}`) or of
    Argilla 1 (`responses: [{user_id, values: {choice: {value}}, status}]`). Drafts and discarded responses are no votes."""
    votes = []
    for number, record in enumerate(records, start=1):
        for who, value, status in _argilla_responses(record.get("responses") or ()):
            if value is not None and str(status or "") in SUBMITTED:
                votes.append(_vote(record.get("metadata", {}), key, (_who(who), str(value), None), (file, f"record {number}")))
    return votes


def _argilla_responses(responses: Any) -> Iterator[tuple[Any, Any, Any]]:
    if isinstance(responses, Mapping):
        for response in responses.get(QUESTION, ()):
            yield response.get("user_id"), response.get("value"), response.get("status")
        return
    for response in responses:
        answer = (response.get("values") or {}).get(QUESTION, {})
        yield response.get("user_id"), answer.get("value"), response.get("status")


def _shown(study: Study, key: Mapping[str, Any], layout: str) -> Iterator[dict[str, Any]]:
    """What a layout shows, slot by slot, under names that say nothing of the models."""
    for slot in study.layouts[layout]:
        item = study.items[slot.item]
        texts = item.texts[slot.first :] + item.texts[: slot.first]
        names = dict(zip(("first", "second"), texts, strict=False))
        yield {"ballot": key["ballot"], "layout": layout, "slot": slot.slot, "prompt": item.prompt, **names}


def _question(key: Mapping[str, Any]) -> str:
    choices = choices_of(key)
    return ASKED[key["form"]].format(least=choices[0], most=choices[-1])


def _who(voter: Any) -> str:
    """A voter's name: an id, or the mail address or id of a user that was exported whole."""
    if isinstance(voter, Mapping):
        voter = voter.get("email") or voter.get("id")
    return str(voter)


def _vote(data: Mapping[str, Any], key: Mapping[str, Any], said: tuple[str, str, Any], where: tuple[str, str]) -> Cast:
    if data.get("ballot") != key["ballot"]:
        raise InputError(*where, "this was made for another ballot, or without one; import what `alpagasus people` wrote")
    voter, choice, seconds = said
    time = seconds if isinstance(seconds, int | float) and np.isfinite(seconds) else None
    vote = {"voter": voter, "slot": data.get("slot"), "choice": choice, "seconds": time}
    return cast(vote, key, *where, layout=str(data.get("layout")))
