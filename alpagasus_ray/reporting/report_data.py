"""All numbers of a report, `report.json`: the page shows nothing that is not in it.

Null is what nobody knows, and an empty list what there is none of. `report.schema.json` is made from the classes here;
`python -m alpagasus_ray.reporting.report_data` writes it anew.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from alpagasus_ray.config import Report
from alpagasus_ray.config.engines import traits_of
from alpagasus_ray.data import readers
from alpagasus_ray.data.schema import DROPPED
from alpagasus_ray.errors import InputError
from alpagasus_ray.reporting import (
    answers_data,
    comparisons_data,
    examples_table,
    headline,
    joined_rows,
    judge_material,
    lengths_data,
    like_rows,
    provenance,
    questions,
    selection_data,
    training_data,
    trust_data,
    verdicts,
)
from alpagasus_ray.reporting.answers_data import Answers, AnswersEntry, ModelExactMatch
from alpagasus_ray.reporting.comparisons_data import PairEntry, PairGames, Radar, Ranking, StatisticsSettings
from alpagasus_ray.reporting.examples_table import ExamplesTable
from alpagasus_ray.reporting.headline import Headline, Names, Parts
from alpagasus_ray.reporting.joined_rows import JoinedRows, TableArm
from alpagasus_ray.reporting.lengths_data import Lengths
from alpagasus_ray.reporting.measures import Agreement, Entry
from alpagasus_ray.reporting.packing import packed_within
from alpagasus_ray.reporting.panels import Panel, panels
from alpagasus_ray.reporting.provenance import KindCost, PackageVersion, StageCost, StageOrigin, TotalCost
from alpagasus_ray.reporting.questions import Sides
from alpagasus_ray.reporting.run_reader import FinishedStages, answer_rows, curve_of, dropped_tables, read_json
from alpagasus_ray.reporting.selection_data import ArmEntry, RatingsEntry, Selection
from alpagasus_ray.reporting.side_by_side import Explained, side_by_side
from alpagasus_ray.reporting.training_data import Training
from alpagasus_ray.reporting.trust_data import Trust
from alpagasus_ray.selection.existing_arms import stale_controls
from alpagasus_ray.store.run import Manifest

SCHEMA = files("alpagasus_ray.reporting") / "report.schema.json"
MODEL = "models/"
TABLE_BYTES, SIDES_BYTES = 10_500_000, 3_500_000
"""Most that both lists take in the page, packed; the rest of it takes less than 1 MB, and the page stays below 15."""


@dataclass(frozen=True)
class ExamplesEntry(Entry):
    """What was ingested."""

    rows: int
    rejected: int
    duplicates: int
    name: str | None
    source: str | Sequence[str] | None
    reasons: Mapping[str, int]
    """Records that were rejected, by reason."""


@dataclass(frozen=True)
class Shown(Entry):
    """How much of what there is the page holds."""

    shown: int
    of: int


@dataclass(frozen=True)
class ExamplesShown(Shown):
    """The examples on the page: the best, the worst, those around the cut, then those of the arm, then a sample of the rest."""

    kept_shown: int
    kept_of: int
    """How many the arm holds."""
    seed: int
    """Of the sample."""


@dataclass(frozen=True)
class ReportData(Entry):
    """`report.json`."""

    title: str
    settings: StatisticsSettings
    first: Headline
    """The first screen: the question and the answer."""
    verdicts: Sequence[PairEntry]
    """What judges say, pair by pair."""
    trust: Trust
    """How far the judges can be trusted."""
    radars: Sequence[Radar]
    ranking: Sequence[Ranking]
    """By each judge of more than two models."""
    agreement: Agreement | None
    """Of judges and people; null with fewer than two voters."""
    objective: Sequence[ModelExactMatch]
    """Answers beside references."""
    ratings: Sequence[RatingsEntry]
    arms: Sequence[ArmEntry]
    selection: Selection | None
    """The report's arm as it was chosen; null where it is none of this run's."""
    examples: ExamplesEntry | None
    lengths: Lengths | None
    """Score and choice beside the length of the output."""
    table: ExamplesShown | None
    panels: Sequence[Panel]
    """Further sections, such as the judge cards."""
    answers: Sequence[AnswersEntry]
    sides: Shown
    """Prompts side by side, over all pairs."""
    trainings: Sequence[Training]
    costs: Sequence[StageCost]
    kinds: Sequence[KindCost]
    total: TotalCost
    chain: Sequence[StageOrigin]
    """What every stage was made from."""
    versions: Sequence[PackageVersion]
    stale: Sequence[str]
    """Inputs of stages that are no longer what they were, in words."""


class ReportContents(NamedTuple):
    """A report: its data, and the lists that only the page holds, packed for its script; None where there is nothing in one."""

    data: ReportData
    table: str | None
    sides: str | None


class _Untitled(GenerateJsonSchema):
    """Without a title for each field, which would only be its name."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def schema() -> str:
    """The JSON schema of `report.json`, as the text of its file."""
    of_data = TypeAdapter(ReportData).json_schema(mode="serialization", schema_generator=_Untitled)
    document = {"$schema": _Untitled.schema_dialect, **of_data}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def report_contents(config: Report, stages: FinishedStages, order: Sequence[str] = ()) -> ReportContents:
    """All that a report of the run says, before it is a page; `order` names the arms of the recipe. Raises `UsageError` for an
    arm that the run does not have, `InputError` for votes that fit nothing."""
    settings = StatisticsSettings(config.rule, config.resamples, config.seed)
    subsets = selection_data.ordered(stages.named("subsets"), order)
    pairs = [_games(stages, one) for one in verdicts.comparisons(stages.run) if _is_wanted(config, one.judge)]
    arm_of = _arms_of_models(stages)
    about = headline.sides(config.arm, config.baseline, _names(stages, subsets, pairs, arm_of))
    mine = {model for model, arm in arm_of.items() if arm == about.arm} | {about.arm or ""}
    # people vote on the pairs as they were asked about; all else is from the side of the report's arm
    from_its_side = [comparisons_data.from_the_side_of(mine, pair) for pair in pairs]
    parts = _parts(stages, about, subsets, from_its_side, arm_of, settings)
    selection = _selection(stages, about.arm, parts.ratings)
    table_arm = _table_arm(about, selection, parts.ratings)
    joined = joined_rows.joined_rows(stages, table_arm)
    table, packed_table = _table(stages, table_arm, joined, config) if joined else (None, None)
    lost = Explained(mine, like_rows.of_lost(stages, joined, from_its_side, config.rule, mine))
    sides, packed_sides = packed_within(
        lambda limit: side_by_side(from_its_side, config.rule, limit, parts.answers, lost), config.table_mib << 18, SIDES_BYTES
    )
    costs = provenance.costs(stages.manifests)
    given = _votes(config, stages)
    data = ReportData(
        title=config.title or _title(about),
        settings=settings,
        first=headline.headline(about, parts, config.claim, selection),
        verdicts=parts.pairs,
        trust=trust_data.trust(stages, from_its_side, comparisons_data.voters(from_its_side), given, config.rule),
        radars=comparisons_data.radars(parts.pairs),
        ranking=comparisons_data.ranking(from_its_side, settings),
        agreement=comparisons_data.agreement(pairs, settings, given),
        objective=answers_data.exact_matches(parts.answers),
        ratings=parts.ratings,
        arms=selection_data.arm_entries(subsets),
        selection=selection,
        examples=_examples(stages.manifests.get("examples")),
        lengths=_lengths(joined) if joined else None,
        table=ExamplesShown(table.shown, table.of, table.kept_shown, table.kept_of, config.seed) if table else None,
        panels=panels(stages),
        answers=[answers_data.answers_entry(*key, manifest) for key, manifest in stages.answers().items()],
        sides=Shown(sides.shown, sides.of),
        trainings=parts.trainings,
        costs=costs,
        kinds=provenance.by_kind(costs),
        total=provenance.total(costs),
        chain=provenance.origins(stages.manifests),
        versions=provenance.versions(stages.manifests),
        stale=parts.stale,
    )
    return ReportContents(data, packed_table, packed_sides if sides.shown else None)


def _table(stages: FinishedStages, arm: TableArm, joined: JoinedRows, config: Report) -> tuple[ExamplesTable, str]:
    """The examples of the page, and the same packed."""
    return packed_within(
        lambda limit: examples_table.examples_table(stages, arm, joined, limit, config.seed),
        config.table_mib << 20,
        TABLE_BYTES,
    )


def _lengths(joined: JoinedRows) -> Lengths | None:
    score = joined.expected if np.isnan(joined.score).all() else joined.score
    return lengths_data.lengths(joined.length, score, joined.kept, joined.category.to_pylist())


def _parts(
    stages: FinishedStages,
    about: Sides,
    subsets: Mapping[str, Manifest],
    pairs: Sequence[PairGames],
    arm_of: Mapping[str, str],
    settings: StatisticsSettings,
) -> Parts:
    """What the first screen is made of; `pairs` are from the side of the report's arm, `arm_of` has the arm of each model."""
    sizes = {name: manifest.rows for name, manifest in subsets.items()}
    policies = {name: manifest.settings["arm"]["policy"] for name, manifest in subsets.items()}
    controls = questions.controls(about.arm, policies, sizes)
    ratings = stages.named("ratings")
    main_ratings = selection_data.ratings_of(stages.manifests.get(f"subsets/{about.arm}"), ratings)
    return Parts(
        pairs=comparisons_data.pair_statistics(pairs, settings),
        trainings=[
            training_data.training(arm, manifest.details, curve_of(stages.stage(f"{MODEL}{arm}"), manifest))
            for arm, manifest in selection_data.ordered(stages.named("models"), list(subsets)).items()
        ],
        ratings=selection_data.ratings(ratings, main_ratings),
        answers=[
            Answers(model, test_set, arm_of.get(model), answer_rows(stages.stage(f"answers/{model}/{test_set}"), manifest))
            for (model, test_set), manifest in stages.answers().items()
        ],
        arm_of=arm_of,
        sizes=sizes,
        stale=[
            *provenance.stale(provenance.origins(stages.manifests)),
            *(f"subsets/{name} {told}" for name, told in stale_controls(subsets).items()),
        ],
        controls=controls,
        control_comparisons=questions.control_comparisons(about.arm, controls, pairs, arm_of, settings),
    )


def _games(stages: FinishedStages, one: verdicts.Comparison) -> PairGames:
    matches, games = verdicts.matches(stages.run, one), verdicts.games(stages.run, one)
    return PairGames(one.judge, one.label, one.a, one.b, one.test_sets, matches, games)


def _is_wanted(config: Report, judge: str | None) -> bool:
    return judge is None or not config.compare or judge in config.compare


def _arms_of_models(stages: FinishedStages) -> dict[str, str]:
    """The arm that each answering model was trained on, of those that were trained in this run."""
    return {
        model: name.removeprefix(MODEL)
        for (model, _), manifest in stages.answers().items()
        for name in manifest.inputs
        if name.startswith(MODEL)
    }


def _names(
    stages: FinishedStages, subsets: Mapping[str, Manifest], pairs: Sequence[PairGames], arm_of: Mapping[str, str]
) -> Names:
    sizes = {arm: manifest.rows for arm, manifest in subsets.items()}
    models = [*stages.named("models"), *(model for model, _ in stages.answers())]
    controls = frozenset(name for name, manifest in subsets.items() if selection_data.is_control(manifest.settings["arm"]))
    return Names(sizes, models, [(arm_of.get(pair.a, pair.a), arm_of.get(pair.b, pair.b)) for pair in pairs], controls)


def _table_arm(about: Sides, selection: Selection | None, ratings: Sequence[RatingsEntry]) -> TableArm:
    main = next((entry.name for entry in ratings if entry.main), None)
    if selection is None:
        return TableArm(about.arm, main, by_score=False, by_expected=False)
    return TableArm(selection.arm, main, by_score=selection.by_score, by_expected=selection.by == "expected")


def _title(about: Sides) -> str:
    if about.arm is None:
        return "A run without arms"
    return about.arm if about.baseline is None else f"{about.arm} against {about.baseline}"


def _votes(config: Report, stages: FinishedStages) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each file of votes, with its path, and those of the run's own studies."""
    own = {name: one for name, one in judge_material.people_stages(stages.run).items() if one.settings["form"] == "vote"}
    by_file = [(f"people/{name}", judge_material.votes(stages.run, name)) for name in own]
    for file in readers.expand(config.votes, "report.votes") if config.votes else ():
        rows = []
        for record in readers.records(file):
            if record.data is None:
                raise InputError(file.path, record.place, record.problem)
            rows.append(record.data)
        by_file.append((file.path, rows))
    return by_file


def _selection(stages: FinishedStages, arm: str | None, ratings: Sequence[RatingsEntry]) -> Selection | None:
    """The report's arm as it was chosen; None where it is none of this run's."""
    name = f"subsets/{arm}"
    if arm is None or name not in stages.manifests:
        return None
    stage, manifest = stages.stage(name), stages.manifests[name]
    reasons: Counter[str] = Counter()
    for table in dropped_tables(stage, manifest, [DROPPED.field("reason").name]):
        for entry in pc.value_counts(table["reason"]).to_pylist():
            reasons[selection_data.kind_of_reason(entry["values"])] += entry["counts"]
    main = next((entry for entry in ratings if entry.main), None)
    by_rules = main is not None and traits_of(main.kind).is_baseline
    judge_reasons = examples_table.judge_reasons(stages, arm, main.name) if main and by_rules else {}
    return selection_data.selection(arm, manifest, read_json(stage, manifest, "selection.json"), reasons, judge_reasons)


def _examples(manifest: Manifest | None) -> ExamplesEntry | None:
    if manifest is None:
        return None
    return ExamplesEntry(
        rows=manifest.rows,
        rejected=manifest.counts.get("rejected", 0),
        duplicates=manifest.counts.get("duplicates", 0),
        name=manifest.settings.get("name"),
        source=manifest.settings.get("source"),
        reasons=manifest.details.get("reasons", {}),
    )


if __name__ == "__main__":
    with open(str(SCHEMA), "w", encoding="utf-8") as file:
        file.write(schema())
