"""Layouts: the same exchange from every layout, the policy for conversations, and a reason for every refusal."""

from typing import Any

import pytest

from alpagasus_ray.data.formats import Draft, NoExample, detect, grown, reader
from alpagasus_ray.data.readers import Record

ASKED, SAID = "Was heißt 你好?", "“Hello” 👋"


def _drafts(record: dict[str, Any], turns: str = "first", columns: dict[str, str] | None = None) -> list[Draft]:
    return reader(detect(record) or "", columns or {}, turns)(record)


def _reason(record: dict[str, Any], columns: dict[str, str] | None = None) -> str:
    with pytest.raises(NoExample) as refusal:
        _drafts(record, columns=columns)
    return str(refusal.value)


def _sharegpt(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"conversations": [{"from": speaker, "value": said} for speaker, said in turns]}


def _messages(*turns: tuple[Any, Any]) -> dict[str, Any]:
    return {"messages": [{"role": speaker, "content": said} for speaker, said in turns]}


def _node(name: str, role: str, rank: int | None = None, replies: Any = (), **more: Any) -> dict[str, Any]:
    return {"message_id": name, "role": role, "text": name, "rank": rank, "replies": list(replies), **more}


TREE = _node(
    "ask",
    "prompter",
    replies=[
        _node("second", "assistant", 1),
        _node("deleted", "assistant", 0, deleted=True),
        _node("unranked", "assistant"),
        _node("best", "assistant", 0, [_node("more", "prompter", replies=[_node("end", "assistant")])]),
    ],
)


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("alpaca", {"instruction": ASKED, "input": "", "output": SAID}),
        ("alpaca", {"instruction": ASKED, "output": SAID}),
        ("alpaca", {"instruction": ASKED, "input": None, "output": SAID, "category": ""}),
        ("dolly", {"instruction": ASKED, "context": "", "response": SAID}),
        ("dolly", {"instruction": ASKED, "input": "", "response": SAID}),
        ("sharegpt", _sharegpt(("human", ASKED), ("gpt", SAID))),
        ("messages", _messages(("user", ASKED), ("assistant", SAID))),
        ("messages", _messages(("user", [{"type": "text", "text": ASKED}]), ("assistant", [{"type": "text", "value": SAID}]))),
        ("oasst", {"message_id": "1", "role": "prompter", "text": ASKED, "replies": [{"role": "assistant", "text": SAID}]}),
        ("oasst", {"prompt": {"role": "prompter", "text": ASKED, "replies": [{"role": "assistant", "text": SAID}]}}),
    ],
)
def test_every_layout_is_detected_and_gives_the_same_example(layout: str, record: dict[str, Any]) -> None:
    assert detect(record) == layout
    assert _drafts(record) == [Draft(ASKED, "", SAID)]


@pytest.mark.parametrize("record", [{}, {"instruction": "a"}, {"question": "a", "answer": "b"}, {"messages": None}])
def test_fields_of_no_known_layout_are_not_guessed_at(record: dict[str, Any]) -> None:
    assert detect(record) is None


def test_dolly_context_becomes_input_and_its_category_is_kept() -> None:
    record = {"instruction": "i", "context": "c", "response": "r", "category": "closed_qa"}
    assert _drafts(record) == [Draft("i", "c", "r", "closed_qa")]


def test_columns_say_which_field_is_what_and_the_others_keep_their_names() -> None:
    record = {"question": "q", "answer": "a", "input": "i", "topic": "t", "system": "s"}
    columns = {"instruction": "question", "output": "answer", "category": "topic"}
    assert _drafts(record, columns=columns) == [Draft("q", "i", "a", "t", "s")]


def test_first_makes_one_example_and_all_makes_one_of_every_exchange_with_those_before_it() -> None:
    record = _sharegpt(("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e"), ("gpt", "f"))
    assert _drafts(record) == [Draft("a", "", "b")]
    assert [(d.instruction, d.output, d.history) for d in _drafts(record, "all")] == [
        ("a", "b", ()),
        ("c", "d", (("a", "b"),)),
        ("e", "f", (("a", "b"), ("c", "d"))),
    ]


@pytest.mark.parametrize("role", ["system", "developer", "System"])
def test_system_turns_survive_in_every_example(role: str) -> None:
    turns = [(role, "be kind"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    assert [draft.system for draft in _drafts(_messages(*turns), "all")] == ["be kind", "be kind"]


def test_consecutive_turns_of_one_speaker_are_joined() -> None:
    record = _sharegpt(("human", "a"), ("user", "b"), ("gpt", "c"), ("gpt", "d"))
    assert _drafts(record, "all") == [Draft("a\n\nb", "", "c\n\nd")]


def test_a_system_turn_between_two_user_turns_loses_neither() -> None:
    draft = _drafts(_messages(("user", "a"), ("system", "s"), ("user", "b"), ("assistant", "c")))[0]
    assert (draft.instruction, draft.system) == ("a\n\nb", "s")


def test_what_the_assistant_says_first_is_left_out() -> None:
    assert _drafts(_sharegpt(("gpt", "hi"), ("human", "a"), ("gpt", "b")), "all") == [Draft("a", "", "b")]


def test_a_last_user_turn_without_reply_is_left_out() -> None:
    assert _drafts(_sharegpt(("human", "a"), ("gpt", "b"), ("human", "thanks")), "all") == [Draft("a", "", "b")]


def test_text_parts_of_a_message_are_joined_by_line() -> None:
    record = _messages(("user", ["a", {"type": "text", "text": "b"}, {"text": "c"}]), ("assistant", "d"))
    assert _drafts(record)[0].instruction == "a\nb\nc"


def test_the_best_ranked_reply_that_is_not_deleted_is_followed_down_the_tree() -> None:
    for record in (TREE, {"message_tree_id": "ask", "prompt": TREE}):
        assert _drafts(record, "all") == [Draft("ask", "", "best"), Draft("more", "", "end", history=(("ask", "best"),))]


def _flat(node: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    message = {key: value for key, value in node.items() if key != "replies"}
    below = [message for reply in node["replies"] for message in _flat(reply, node["message_id"])]
    return [{**message, "parent_id": parent, "message_tree_id": "ask"}, *below]


def _stream(*messages: dict[str, Any]) -> list[Record]:
    return [Record("oasst.jsonl", line, message) for line, message in enumerate(messages, 1)]


@pytest.mark.parametrize("step", [1, -1])
def test_flat_messages_grow_into_the_tree_in_any_order_of_lines(step: int) -> None:
    (tree,) = grown(_stream(*_flat(TREE)[::step]))
    assert tree.position == (1 if step == 1 else len(_flat(TREE)))
    assert _drafts(tree.data or {}, "all") == _drafts(TREE, "all")


def test_trees_that_follow_each_other_do_not_mix() -> None:
    other = [{**message, "message_tree_id": "x", "message_id": f"x{message['message_id']}"} for message in _flat(TREE)]
    for message in other[1:]:
        message["parent_id"] = f"x{message['parent_id']}"
    trees = list(grown(_stream(*_flat(TREE), *other, *_flat(TREE))))
    assert [tree.data["message_id"] for tree in trees if tree.data] == ["ask", "xask", "ask"]


def test_a_message_without_its_parent_is_a_record_with_a_problem() -> None:
    first, second, *_ = _flat(TREE)
    found = list(grown(_stream(first, {**second, "parent_id": "lost"})))
    assert sorted((record.position, record.problem) for record in found) == [
        (1, ""),
        (2, "its parent 'lost' does not stand in the same tree"),
    ]


def test_records_that_are_no_flat_messages_pass_as_they_are() -> None:
    stream = [*_stream(TREE, {"instruction": "a", "output": "b"}), Record("f", 3, None, "broken")]
    assert list(grown(stream)) == stream


@pytest.mark.parametrize(("value", "written"), [(5, "5"), (2.5, "2.5"), (0, "0"), (-1, "-1")])
def test_numbers_become_text(value: float, written: str) -> None:
    assert _drafts({"instruction": value, "input": value, "output": value}) == [Draft(written, written, written)]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"instruction": None, "output": "b"}, "`instruction` is null"),
        ({"instruction": "a", "output": None}, "`output` is null"),
        ({"instruction": "a", "output": ["b"]}, "`output` is a list, not text"),
        ({"instruction": "a", "output": True}, "`output` is a bool, not text"),
        ({"instruction": "a", "input": {}, "output": "b"}, "`input` is a dict, not text"),
        ({"instruction": "a", "output": "b", "category": ["c"]}, "`category` is a list, not text"),
        ({"instruction": " \n", "output": "b"}, "`instruction` is empty"),
        ({"instruction": "a", "output": "\ud83d"}, "`output` holds half of a character (an unpaired surrogate)"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "`history` is not a list of [instruction, output] pairs"),
        (_sharegpt(("human", "a"), ("cat", "miau")), "a turn is by 'cat', which is neither user, assistant nor system"),
        (_sharegpt(("human", "a"), (None, "b")), "a turn is by 'None', which is neither user, assistant nor system"),
        (_sharegpt(("human", "a"), ("gpt", None)), "`value` is null"),
        (_sharegpt(("human", "a")), "no user turn with a reply"),
        (_sharegpt(("gpt", "a")), "no user turn with a reply"),
        (_sharegpt(("human", " "), ("gpt", "b")), "no user turn with a reply"),
        ({"conversations": []}, "no user turn with a reply"),
        ({"conversations": ["a"]}, "a turn is a str, not an object"),
        (_messages(("user", [{"type": "image_url"}]), ("assistant", "b")), "a message has a part that is not text"),
        (_messages(("user", "\ud83d"), ("assistant", "b")), "`content` holds half of a character (an unpaired surrogate)"),
    ],
)
def test_what_cannot_be_an_example_has_a_reason(record: dict[str, Any], reason: str) -> None:
    assert _reason(record) == reason


def test_a_missing_column_is_a_reason_that_names_the_column() -> None:
    assert _reason({"question": "a"}, {"instruction": "question", "output": "answer"}) == "no `answer`"


def test_an_empty_output_is_an_example() -> None:
    assert _drafts({"instruction": "a", "output": ""}) == [Draft("a", "", "")]


def test_an_empty_instruction_with_an_input_is_an_example() -> None:
    assert _drafts({"instruction": "", "input": "x", "output": "b"}) == [Draft("", "x", "b")]


def test_half_a_character_in_a_bare_text_part_is_refused() -> None:
    assert "unpaired surrogate" in _reason(_messages(("user", ["\ud83d"]), ("assistant", "b")))


@pytest.mark.parametrize(
    ("layout", "record"),
    [
        ("sharegpt", {"id": 1}),
        ("sharegpt", {"conversations": 5}),
        ("messages", {"id": 1}),
        ("messages", {"messages": 5}),
        ("alpaca", {"instruction": "a", "output": "b", "history": 5}),
        ("oasst", {"prompt": _node("a", "prompter") | {"replies": ["b"]}}),
        ("oasst", {"prompt": _node("a", "prompter") | {"replies": 5}}),
        ("oasst", {"prompt": _node("a", "prompter", replies=[_node("b", "assistant", rank="best")])}),
    ],
)
def test_a_record_unlike_the_first_of_its_file_has_a_reason_too(layout: str, record: dict[str, Any]) -> None:
    with pytest.raises(NoExample):
        reader(layout, {}, "first")(record)


def test_a_flat_message_without_id_does_not_end_the_run() -> None:
    first, second, *_ = _flat(TREE)
    del second["message_id"]
    (tree,) = grown(_stream(first, second))
    assert tree.data is not None
    assert [reply["text"] for reply in tree.data["replies"]] == [second["text"]]


def test_flat_messages_that_answer_each_other_in_a_circle_are_told() -> None:
    circle = [{**message, "parent_id": message["message_id"]} for message in _flat(TREE)[:2]]
    assert [record.position for record in grown(_stream(*circle))] == [1, 2]
