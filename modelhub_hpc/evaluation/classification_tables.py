"""The results of a classification as tables: the form of table 2 of ModelHub.AI's paper, and what lies behind it."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from modelhub_hpc.evaluation.classification import TOP, Pair, Score
from modelhub_hpc.evaluation.contestants import Contestant, reported
from modelhub_hpc.evaluation.proportions import Proportion
from modelhub_hpc.evaluation.tables import Cell, Table, p_words
from modelhub_hpc.models.entry import Accuracy

METRICS = {1: ("top-1 accuracy in %", "accuracy in %"), TOP: (f"top-{TOP} accuracy in %",)}
_CONVENTIONS = (
    "In brackets: 95 % confidence intervals (Wilson). Cases without an answer count as wrong. Where labels have the "
    "same score, the right one counts as the last of them."
)


def tables_of(contestants: Sequence[Contestant], scores: Sequence[Score], pairs: Sequence[Pair]) -> list[Table]:
    """accuracy and, of several models, pairs."""
    found = [_accuracy(contestants, scores)]
    return [*found, _pairs(pairs)] if pairs else found


def accuracies(contestant: Contestant, score: Score, top: int) -> tuple[Proportion | None, Accuracy | None]:
    """What was measured, None where the model has no more labels than that, and what its card reports."""
    meaningful = top == 1 or not score.labels or len(score.labels) > top
    return score.within(top) if meaningful else None, reported(contestant.entry, *METRICS[top])


def _accuracy(contestants: Sequence[Contestant], scores: Sequence[Score]) -> Table:
    both = list(zip(contestants, scores))
    header = ("Model", "Top-1 (%)", "Card", f"Top-{TOP} (%)", "Card", "Time (ms)", "n", "No answer")
    cards = {figure.dataset for each in both for top in METRICS if (figure := accuracies(*each, top)[1])}
    measured_on = [f"The cards' figures are of: {'; '.join(sorted(cards))}."] if cards else []
    return Table(
        "accuracy",
        "Accuracy of the models, and what their cards report.",
        header,
        [_accuracy_row(*each) for each in both],
        [_accuracy_record(*each) for each in both],
        [_CONVENTIONS, "Time: in the model, the mean over the n cases.", *measured_on],
    )


def _accuracy_row(contestant: Contestant, score: Score) -> list[str]:
    cells = [contestant.name]
    for top in METRICS:
        found, card = accuracies(contestant, score, top)
        cells += [_share(found), f"{card.reported:.1f}" if card and card.reported is not None else "–"]
    seconds = f"{1000 * statistics.fmean(score.seconds):.1f}" if score.seconds else "–"
    return [*cells, seconds, f"{len(score.answers):,}", f"{len(score.problems):,}"]


def _share(found: Proportion | None) -> str:
    if found is None:
        return "–"
    low, high = found.interval
    return f"{100 * found.value:.1f} ({100 * low:.1f}–{100 * high:.1f})"


def _accuracy_record(contestant: Contestant, score: Score) -> Mapping[str, Cell]:
    """Shares from 0 to 1; figures of cards in %, as they are there."""
    record: dict[str, Cell] = {
        "model": contestant.name,
        "cases": len(score.answers),
        "without_answer": len(score.problems),
        "labels": len(score.labels),
    }
    for top in METRICS:
        found, card = accuracies(contestant, score, top)
        low, high = found.interval if found else (None, None)
        answered = score.within_answered(top) if found else None
        record |= {
            f"top{top}_right": found.count if found else None,
            f"top{top}": found.value if found else None,
            f"top{top}_low": low,
            f"top{top}_high": high,
            f"top{top}_of_answered": answered.value if answered else None,
            f"top{top}_card_percent": card.reported if card else None,
            f"top{top}_card_dataset": card.dataset if card else None,
        }
    seconds = score.seconds
    record["seconds_mean"] = statistics.fmean(seconds) if seconds else None
    record["seconds_median"] = statistics.median(seconds) if seconds else None
    return record


def _pairs(pairs: Sequence[Pair]) -> Table:
    return Table(
        "pairs",
        "Two models on the same cases.",
        ("First and second model", "Only first right", "Only second right", "p"),
        [[_both(each), str(each.only_first), str(each.only_second), p_words(each.p)] for each in pairs],
        [{**vars(each), "p": each.p} for each in pairs],
        ["p: exact two-sided test of McNemar on top-1, not adjusted for the number of pairs."],
    )


def _both(pair: Pair) -> str:
    return f"{pair.first}, {pair.second}"


def recalls(scores: Sequence[Score]) -> Iterator[Mapping[str, Cell]]:
    """Of each model and label, how many of its cases were right at once."""
    for score in scores:
        for label, found in score.recall().items():
            low, high = found.interval
            yield {
                "model": score.model,
                "label": label,
                "cases": found.total,
                "right": found.count,
                "recall": found.value,
                "low": low,
                "high": high,
            }


def confusions(scores: Sequence[Score]) -> Iterator[Mapping[str, Cell]]:
    """The confusion matrices, without their zeros and without cases that have no answer."""
    for score in scores:
        for (label, predicted), count in score.confusion().items():
            yield {"model": score.model, "label": label, "predicted": predicted, "cases": count}


def cases(scores: Sequence[Score]) -> Iterator[Mapping[str, Cell]]:
    """Every answer of every model."""
    for score in scores:
        for name, answer in score.answers.items():
            yield {
                "case": name,
                "model": score.model,
                "label": answer.truth,
                "predicted": answer.predicted or None,
                "rank": answer.rank,
                "seconds": answer.seconds,
                "problem": answer.problem or None,
            }
