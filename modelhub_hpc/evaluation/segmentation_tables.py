"""The results of a segmentation as tables: scores by region, the ranking, and the tests of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from modelhub_hpc.evaluation import ranking
from modelhub_hpc.evaluation.metrics import Measures
from modelhub_hpc.evaluation.ranking import Difference, Floats
from modelhub_hpc.evaluation.segmentation import Scores
from modelhub_hpc.evaluation.tables import Cell, Table, p_words

MEASURES = ("dice", "hd95", "sensitivity", "specificity")


def tables_of(scores: Scores, ranks: Floats, differences: Sequence[Difference]) -> list[Table]:
    """scores, ranking and, of several models, permutation."""
    found = [_scores(scores), _ranking(scores, ranks)]
    return [*found, _permutation(scores, differences)] if differences else found


def order(ranks: Floats) -> list[int]:
    """The places of the models, the best first."""
    return [int(place) for place in np.argsort(ranks.mean(axis=0), kind="stable")]


def _scores(scores: Scores) -> Table:
    rows, records = [], []
    for region in scores.plan.regions:
        for place, model in enumerate(scores.models):
            summary = _summary(scores, region.name, place)
            rows.append([region.name, model, *_words(summary)])
            records.append({"region": region.name, "ranked": int(region.ranked), "model": model, **summary})
    return Table(
        "scores",
        "Scores by region: means over the cases, and standard deviations.",
        ("Region", "Model", "Dice", f"HD95 ({scores.unit})", "Sens.", "Spec.", "n", "No mask"),
        rows,
        records,
        [
            "Sens., spec.: sensitivity, specificity. HD95: 95th percentile of the Hausdorff distance. Where mask and "
            "reference are empty: Dice 1, HD95 0; where one is: Dice 0, HD95 the diagonal of the grid. A case without "
            "mask has Dice 0, HD95 the diagonal, sensitivity 0 and specificity 0. Sensitivity leaves out cases whose "
            "reference is empty. n: cases."
        ],
        words=2,
    )


def _summary(scores: Scores, region: str, place: int) -> dict[str, Cell]:
    """Over all cases, those without a mask at their worst; and, named so, over the others alone."""
    every = [each.measures[region][place] for each in scores.cases]
    solved = [found for found, each in zip(every, scores.cases) if not each.problems[place]]
    summary: dict[str, Cell] = {"cases": len(every), "without_mask": len(every) - len(solved)}
    for measure in MEASURES:
        values, some = _values(every, measure), _values(solved, measure)
        summary |= {
            f"{measure}_mean": float(np.mean(values)) if values else None,
            f"{measure}_sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            f"{measure}_median": float(np.median(values)) if values else None,
            f"{measure}_mean_of_solved": float(np.mean(some)) if some else None,
        }
    return summary


def _values(found: Sequence[Measures], measure: str) -> list[float]:
    return [value for each in found if (value := getattr(each, measure)) is not None]


def _words(summary: Mapping[str, Cell]) -> list[str]:
    cells = []
    for measure, digits in (("dice", 3), ("hd95", 2), ("sensitivity", 3), ("specificity", 3)):
        mean, sd = summary[f"{measure}_mean"], summary[f"{measure}_sd"]
        spread = f" ± {sd:.{digits}f}" if sd is not None and measure in ("dice", "hd95") else ""
        cells.append("–" if mean is None else f"{mean:.{digits}f}{spread}")
    return [*cells, f"{summary['cases']:,}", f"{summary['without_mask']:,}"]


def _ranking(scores: Scores, ranks: Floats) -> Table:
    means, lacking = ranks.mean(axis=0), [sum(map(bool, each)) for each in zip(*(c.problems for c in scores.cases))]
    places = ranking.positions(means)
    ranked = [each.name for each in scores.plan.regions if each.ranked]
    records: list[Mapping[str, Cell]] = [
        {
            "position": places[model],
            "model": scores.models[model],
            "score": float(means[model]),
            "cases": len(ranks),
            "without_mask": lacking[model],
        }
        for model in order(ranks)
    ]
    rows = [
        [scores.models[model], f"{places[model]:g}", f"{means[model]:.3f}", f"{len(ranks):,}", f"{lacking[model]:,}"]
        for model in order(ranks)
    ]
    return Table(
        "ranking",
        "Ranking of the models.",
        ("Model", "Position", "Ranking score", "n", "No mask"),
        rows,
        records,
        [
            f"Ranking score: mean over cases of the mean rank over Dice and HD95 of {', '.join(ranked)}; the smaller, "
            "the better, 1 at best. Equal models share the mean of their ranks; one without a mask is last."
        ],
    )


def _permutation(scores: Scores, differences: Sequence[Difference]) -> Table:
    exact = all(each.exact for each in differences)
    how = "all permutations" if exact else f"{ranking.PERMUTATIONS:,} random permutations"
    named = [(scores.models[each.first], scores.models[each.second], each) for each in differences]
    return Table(
        "permutation",
        "Differences of the ranking scores.",
        ("First and second model", "First less second", "p"),
        [[f"{first}, {second}", f"{each.difference:+.3f}", p_words(each.p)] for first, second, each in named],
        [
            {"first": first, "second": second, "difference": each.difference, "p": each.p, "exact": int(each.exact)}
            for first, second, each in named
        ],
        [f"p: two-sided, of {how} of the two models' ranks within the cases; not adjusted for the number of pairs."],
    )


def cases(scores: Scores, ranks: Floats) -> Iterator[Mapping[str, Cell]]:
    """Every measure of every case, and the rank of each model in it."""
    for each, places in zip(scores.cases, ranks):
        for region in scores.plan.regions:
            for model, found, problem, rank in zip(scores.models, each.measures[region.name], each.problems, places):
                measured = {name: None if problem else getattr(found, name) for name in MEASURES}
                yield {
                    "case": each.name,
                    "region": region.name,
                    "model": model,
                    **measured,
                    "case_rank": float(rank),
                    "problem": problem or None,
                }
