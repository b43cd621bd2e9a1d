"""The knobs of `jobs/compare.py` and `jobs/report.py`."""

from typing import Annotated, ClassVar, Literal

from pydantic import ConfigDict, Field, PositiveInt, model_validator

from alpagasus_ray.config.base import OPERATIONAL, Name, OneOf, Section
from alpagasus_ray.config.engines import Asking, EngineConfig, Kind

RULES: dict[str, str] = {
    "alpagasus": "two wins, or a win and a tie, win (paper, section 4.2)",
    "fastchat": "games that disagree are a tie",
    "mean": "the higher sum of scores wins",
    "truncated": "as `alpagasus`, half points cut off",
}
"""How two games become one outcome, in words; how each decides is in `evaluation/match_rules.py`."""
Rule = Annotated[str, OneOf(RULES)]


class PairJudge(EngineConfig):
    """Who compares: an engine and a rubric for two answers."""

    where: ClassVar[str] = "compare.judge"

    kind: Kind = "api"
    """`api`: an OpenAI-compatible server; `vllm`: a model in the job; `rules`: the offline baseline, no LLM."""
    rubric: str = "pairwise"
    """What is asked: `pairwise`, two scores from 1 to 10 on the first line (AlpaGasus, figure 22); `pairwise-verdict`, the
    better one of A and B or a tie, in the manner of MT-Bench; `pairwise-reference` and `pairwise-verdict-reference`, the same
    with the test set's reference answer shown to the judge; or the path of your own rubric file."""
    max_tokens: PositiveInt | None = 1024
    """Longest reply, in tokens; null leaves it out of the request."""

    @model_validator(mode="after")
    def _fits(self) -> "PairJudge":
        if self.traits.is_recorded:
            raise ValueError("kind `recorded` is for ratings; reviews that exist already come in by `compare.import`")
        if self.kind == "distilled":
            raise ValueError("kind `distilled` rates examples and compares nothing; name another")
        if self.mode == "batch":
            raise ValueError("`mode: batch` is for ratings; games are asked for live")
        return self


class Import(Section):
    """Reviews that somebody already has, instead of a judge's."""

    format: Literal["alpagasus", "cherry"]
    """`alpagasus`: one file for each order, named `<first>-<second>-<test set>.json` and holding a list of records with both
    answers under the models' names and a `review`; `cherry`: one file for both orders with `review` and `review_reverse`."""
    files: str | tuple[str, ...]
    """Paths or globs of the files."""


class Compare(Asking):
    """`jobs/compare.py`: let a judge compare models' answers, each pair in both orders."""

    model_config = ConfigDict(serialize_by_alias=True)

    section: ClassVar[str] = "compare"

    name: Name | None = None
    """Another judge's verdicts need another name: they go to `verdicts-<name>/`, those of the first to `verdicts/`."""
    pairs: tuple[tuple[Name, Name], ...] = ()
    """The models to compare, by their names under `answers/`, e.g. `[[selected, full], [selected, random]]`; with `import`,
    what the two models of the files are called, and from whose side the result is told."""
    test_sets: tuple[Name, ...] = ()
    """On which test sets; by default on all that the first model of a pair has answered."""
    judge: PairJudge = Field(default_factory=PairJudge)
    """The judge."""
    rule: Annotated[Rule, OPERATIONAL] = "alpagasus"
    """How two games become win, tie or lose: `alpagasus` (paper, section 4.2: two wins, or a win and a tie, win), `fastchat`
    (games that disagree are a tie), `mean` (the higher sum of scores wins), `truncated` (as `alpagasus`, half points cut off,
    as some published counts were made). Computed from the stored games, so it may change at any time."""
    empty_answers: Literal["unanswered", "play"] = "unanswered"
    """An answer without words enters no game, which is `unanswered` then; `play` lets a judge see it like any other."""
    imported: Import | None = Field(default=None, alias="import")
    """Take the games from files, e.g. `{format: cherry, files: reviews/*.json}`; nothing is asked."""

    @model_validator(mode="after")
    def _pairs_differ(self) -> "Compare":
        seen: set[frozenset[str]] = set()
        for pair in self.pairs:
            if frozenset(pair) in seen:
                raise ValueError(f"`pairs` holds {list(pair)} twice; each pair is asked in both orders anyway")
            seen.add(frozenset(pair))
        return self


class Report(Section):
    """`jobs/report.py`: what came out, as a page, as JSON, and as the card of the dataset."""

    stated = frozenset("title arm baseline compare rule resamples seed table_mib votes claim".split())

    title: str | None = None
    """Heading of the page; by default made of the run's arms."""
    arm: Name | None = None
    """The arm that the question is about, by default the first of the run; its rows are what others can use."""
    baseline: Name | None = None
    """The arm it is measured against, by default `full` or the largest."""
    compare: tuple[Name, ...] = ()
    """Which judges' verdicts to show beside those of the unnamed one, by `compare.name`; by default all there are."""
    rule: Rule = "alpagasus"
    """How two games become win, tie or lose; as `compare.rule`."""
    resamples: PositiveInt = 10_000
    """Draws of the bootstrap behind the intervals."""
    seed: int = 0
    """Seed of the bootstrap, and of what else is drawn."""
    table_mib: PositiveInt = 24
    """Most text, in MiB before compression, that the table of examples holds; of larger datasets it holds the best, the worst
    and those around the cut."""
    votes: tuple[str, ...] = ()
    """Files of people's votes (CSV, JSON or JSON lines): `prompt_id`, `voter`, `vote` (`a`, `b`, `tie` or a model's name), and
    `a`, `b`, `test_set` where they are not plain; without `a` and `b` a side is that of the pair in `compare.pairs`. Agreement
    is computed between voters and judges."""
    claim: str | None = None
    """A sentence that the first screen shows beside the answer, e.g. what a run of this size can and cannot show."""
