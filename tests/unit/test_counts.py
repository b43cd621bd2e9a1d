"""Counts add up over shards, workers and reports, and their metrics follow from the fields alone."""

from collections import Counter
from dataclasses import dataclass, field, fields

from hypothesis import given, settings
from hypothesis import strategies as st

from alpagasus_ray.inference.counts import Counts, Metric, Sample, in_words

unhurried = settings(deadline=None, max_examples=50)
"""On a busy machine an example may take its time."""
some = st.builds(
    Counts,
    rows=st.integers(0, 9),
    statuses=st.dictionaries(st.sampled_from("abc"), st.integers(0, 9)).map(Counter),
    requests=st.dictionaries(st.sampled_from(["answered", "refused"]), st.integers(0, 9)).map(Counter),
    outages=st.integers(0, 9),
)


@unhurried
@given(some, some)
def test_what_was_added_since_is_what_is_missing(earlier: Counts, news: Counts) -> None:
    now = earlier.copy().add(news)
    assert now.since(earlier) == news
    assert now.add(news, -1) == earlier


@unhurried
@given(some)
def test_a_copy_does_not_change_with_its_original(counts: Counts) -> None:
    copy = counts.copy()
    counts.add(Counts(rows=1, statuses=Counter(scored=1)))
    assert counts.since(copy) == Counts(rows=1, statuses=Counter(scored=1))


def test_a_field_with_a_metric_is_published_and_no_other() -> None:
    metric = Metric("naps_total", None, "Naps")

    @dataclass
    class More(Counts):
        naps: int = field(default=0, metadata={"metric": metric, "value": None})
        dreams: int = 0

    assert Sample(metric, None, 2) in list(More(naps=2, dreams=3).samples())
    assert len(list(More(dreams=3).samples())) == len(list(Counts().samples())) + 1


def test_fields_of_one_metric_differ_in_their_tag_and_in_nothing_else() -> None:
    named: dict[str, list[tuple[Metric, str | None]]] = {}
    for entry in fields(Counts):
        if (metric := entry.metadata.get("metric")) is not None:
            named.setdefault(metric.name, []).append((metric, entry.metadata["value"]))
    for same in named.values():
        assert len({metric for metric, _ in same}) == 1
        assert len({value for _, value in same}) == len(same)


def test_a_line_of_progress_says_the_commonest_reasons_and_leaves_out_what_did_not_happen() -> None:
    reasons = Counter({"timeout": 5, "http 500": 7, "too long": 1, "deadly": 2})
    assert in_words(Counts()) == []
    assert in_words(Counts(stored=1200, usd_billed=0.5, statuses=Counter(scored=4, unparsed=2), without_reply=reasons)) == [
        "$0.5000", "1,200 from the ledger", "7 failed: http 500", "5 failed: timeout", "2 failed: deadly", "2 unparsed"
    ]  # fmt: skip
