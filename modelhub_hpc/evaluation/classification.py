"""Label lists against the labels that the cases have: top-1 and top-5, case by case."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from modelhub_hpc.errors import InvalidError, count_of, shown
from modelhub_hpc.evaluation.contestants import Contestant
from modelhub_hpc.evaluation.proportions import Proportion, mcnemar
from modelhub_hpc.evaluation.truth import Row, Truth, few, matched
from modelhub_hpc.record import CaseResult, LabelList

_SYNSET = re.compile(r"(n\d{8})(?:[\s,:]+(.*))?", re.DOTALL)  # of ImageNet, before the words
TOP = 5
_NO_CASE = "its run has no such case"


@dataclass(frozen=True)
class Answer:
    """What a model said of a case. rank: of the right label, 1 for the most probable one; None: it is not among them.

    Labels that have the same score come before the right one: who says nothing must not be right. tied: there are such.
    problem: why there is no answer that could be judged, "" if there is one; then everything else is empty.
    """

    truth: str
    rank: int | None = None
    predicted: str = ""
    seconds: float | None = None
    tied: bool = False
    problem: str = ""

    def within(self, top: int) -> bool:
        return self.rank is not None and self.rank <= top


@dataclass(frozen=True)
class Score:
    """A model's answers by the name of the row; the same rows in the same order for all models.

    labels: of the model; outside: the labels of rows that are none of them, which it cannot get right.
    """

    model: str
    answers: Mapping[str, Answer]
    labels: tuple[str, ...]
    outside: tuple[str, ...] = ()

    def within(self, top: int) -> Proportion:
        """Of all cases; those that have failed are wrong."""
        return Proportion(sum(each.within(top) for each in self.answers.values()), len(self.answers))

    def within_answered(self, top: int) -> Proportion | None:
        """Of the cases that have an answer; None where there is none."""
        found = [each.within(top) for each in self.answers.values() if not each.problem]
        return Proportion(sum(found), len(found)) if found else None

    @property
    def problems(self) -> dict[str, str]:
        return {name: each.problem for name, each in self.answers.items() if each.problem}

    @property
    def seconds(self) -> list[float]:
        return [each.seconds for each in self.answers.values() if each.seconds is not None]

    def confusion(self) -> dict[tuple[str, str], int]:
        """How often a label (first) was taken for another one, or for itself; cases with an answer only."""
        found: dict[tuple[str, str], int] = {}
        for each in self.answers.values():
            if not each.problem:
                found[each.truth, each.predicted] = found.get((each.truth, each.predicted), 0) + 1
        return dict(sorted(found.items()))

    def recall(self) -> dict[str, Proportion]:
        """Of the cases of each label, how many the model got right; failed ones are wrong."""
        right: dict[str, list[bool]] = {}
        for each in self.answers.values():
            right.setdefault(each.truth, []).append(each.within(1))
        return {label: Proportion(sum(found), len(found)) for label, found in sorted(right.items())}


@dataclass(frozen=True)
class Pair:
    """Two models on the same cases, of which only the first, or only the second, got so many right.

    p: of McNemar's test, exact and two-sided.
    """

    first: str
    second: str
    only_first: int
    only_second: int

    @property
    def p(self) -> float:
        return mcnemar(self.only_first, self.only_second)


class Vocabulary:
    """The labels of a model, as it prints them, found by what people write.

    A label is its text in any case; or, of ImageNet, its synset (n01440764), its words, or one of them; or its number:
    by the table that the model declares.
    """

    def __init__(self, names: Sequence[str], declared: Mapping[str, str]) -> None:
        self.names = tuple(names)
        self._declared = declared
        self._whole, self._parts = dict[str, list[int]](), dict[str, list[int]]()
        for place, name in enumerate(self.names):
            whole, *parts = _forms(name)
            self._whole.setdefault(whole, []).append(place)
            for part in dict.fromkeys(parts):
                self._parts.setdefault(part, []).append(place)

    def place(self, text: str) -> int | None:
        """Where the label stands in the list, None where it does not; InvalidError for one that may be several."""
        forms = _forms(text)[: 3 if _SYNSET.match(text.casefold()) else 1]
        tried = (index.get(form) for form in forms for index in (self._whole, self._parts))
        found = next(filter(None, tried), None) or self._of_number(text)
        if len(found) > 1:
            some = few([f"{place} ({self.names[place]})" for place in found])
            raise InvalidError(f"the label {shown(text)!r} may be any of {some}. Write its number or its synset.")
        return found[0] if found else None

    def _of_number(self, text: str) -> list[int]:
        name = self._declared.get(str(int(text))) if text.isascii() and text.isdigit() else None
        return self._whole.get(_forms(name)[0], []) if name else []


@lru_cache(maxsize=1 << 16)
def _forms(name: str) -> tuple[str, ...]:
    """What a label may be called: as a whole; synset and words; each of the words.

    >>> _forms("n01440764 tench, Tinca tinca")
    ('n01440764 tench, tinca tinca', 'n01440764', 'tench, tinca tinca', 'tench', 'tinca tinca')
    """
    whole = " ".join(name.casefold().split())
    synset = _SYNSET.fullmatch(whole)
    words = (synset[2] or "") if synset else whole
    single = [each.strip() for each in words.split(",")] if "," in words else []
    return tuple(filter(None, (whole, synset[1] if synset else "", words if synset else "", *single)))


def score(contestants: Sequence[Contestant], truth: Truth) -> tuple[list[Score], list[str]]:
    """Every model's answers to the cases that have a label, and what is to be said of the others.

    InvalidError where no case has a label, or where a label is none of any model's.
    """
    for row in truth.rows.values():
        if any("\ud800" <= each <= "\udfff" for each in row.value):
            raise InvalidError(f"{truth}, line {row.line}: {shown(row.value)!r} is no UTF-8. Save it as 'CSV UTF-8'.")
    judges = [_Judge(each, truth) for each in contestants]
    rows = [row for row in truth.rows.values() if any(row.name in each.answers for each in judges)]
    if not rows:
        found = f"its rows are of {few(list(truth.rows))}; the cases are {few(judges[0].unlabelled)}"
        raise InvalidError(f"None of the cases has a label in {truth}: {found}.")
    scores = [each.score(rows) for each in judges]
    _refuse_unknown(truth, rows, [each for each in scores if each.labels])
    unlabelled = list(dict.fromkeys(name for each in judges for name in each.unlabelled))
    return scores, [*_left_out(truth, rows, unlabelled), *(note for each in scores for note in _notes(each))]


class _Judge:
    """Reads the run of a model once, and judges its answers.

    unlabelled: cases that have no row. names: every label that the model has printed. outside: the labels of rows
    that were not among those that it printed.
    """

    def __init__(self, contestant: Contestant, truth: Truth) -> None:
        self.contestant = contestant
        self._truth = truth
        self.answers: dict[str, Answer] = {}
        self.unlabelled: list[str] = []
        self.names: dict[str, None] = {}
        self.outside: dict[str, None] = {}
        self._vocabulary = Vocabulary((), {})
        self._in_order = True  # as long as every list has the same labels in the same places
        self._by_place: dict[str, int] = {}  # labels that are numbers, with their lines
        for row, case, result in matched(truth, contestant.reading.joined()):
            if row is None:
                self.unlabelled.append(case.id)
            else:
                self.answers[row.name] = self._answer(row, result)
        for label, line in () if self._in_order else self._by_place.items():
            raise InvalidError(
                f"{truth}, line {line}: which label is {label}? {contestant.name} gives its labels in another order "
                "for each case, and declares no numbers. Write the labels as it prints them."
            )

    def score(self, rows: Sequence[Row]) -> Score:
        declared = self.contestant.labels
        known = Vocabulary(tuple(dict.fromkeys([*self.names, *declared.values()])), declared)
        answers = {row.name: self.answers.get(row.name) or Answer(row.value, problem=_NO_CASE) for row in rows}
        # of the recall of a label, cases without an answer are a part, so their labels are called as the model does
        called = {text: self._called(text, known) for text in {each.truth for each in answers.values() if each.problem}}
        for name, answer in answers.items():
            if answer.problem:
                answers[name] = dataclasses.replace(answer, truth=called[answer.truth])
        outside = [text for text in self.outside if known.place(text) is None] if self.names else []
        return Score(self.contestant.name, answers, tuple(self.names), tuple(outside))

    def _called(self, text: str, known: Vocabulary) -> str:
        try:
            place = known.place(text)
        except InvalidError:
            return text
        if place is None and not self.contestant.labels:
            place = _number(text, len(self._vocabulary.names))
        return text if place is None else known.names[place]

    def _answer(self, row: Row, result: CaseResult | None) -> Answer:
        if result is None or result.error is not None:
            why = f"{result.error.kind}: {result.error.message}" if result and result.error else "not computed"
            return Answer(row.value, problem=why)
        output = self.contestant.given(result)
        found = _scores(output.value if output else None)
        if isinstance(found, str):
            return Answer(row.value, problem=found)
        return self._ranked(row, *found, result.seconds)

    def _ranked(self, row: Row, names: tuple[str, ...], scores: npt.NDArray[np.float64], seconds: float) -> Answer:
        place = self._place(row, names)
        if place is None:
            return Answer(row.value, None, names[int(scores.argmax())], seconds)
        others = np.delete(scores, place)
        rank = 1 + int(np.count_nonzero(others >= scores[place]))
        best = place if rank == 1 else int(np.where(np.arange(len(names)) == place, -np.inf, scores).argmax())
        return Answer(names[place], rank, names[best], seconds, bool((others == scores[place]).any()))

    def _place(self, row: Row, names: tuple[str, ...]) -> int | None:
        """Where the label of a row stands in a list; notes it where it does not."""
        if not self.names:
            self._vocabulary = Vocabulary(names, self.contestant.labels)
        if names != self._vocabulary.names or not self.names:
            self._in_order = not self.names
            self.names.update(dict.fromkeys(names))
        try:
            place = self._named_place(row.value, names)
        except InvalidError as error:
            raise InvalidError(f"{self._truth}, line {row.line}, for {self.contestant.name}: {error}") from error
        if place is None and not self.contestant.labels:
            place = _number(row.value, len(names))
            self._by_place |= {row.value: row.line} if place is not None else {}
        if place is None:
            self.outside[row.value] = None
        return place

    def _named_place(self, text: str, names: tuple[str, ...]) -> int | None:
        first = self._vocabulary
        place = first.place(text)
        if names == first.names:
            return place
        # most lists are the first one in another order; to look all labels up in each takes a hundred times as long
        if place is not None and names.count(first.names[place]) == 1:
            return names.index(first.names[place])
        return Vocabulary(names, self.contestant.labels).place(text)


def _number(text: str, count: int) -> int | None:
    """A place in a list, from 0."""
    return int(text) if text.isascii() and text.isdigit() and int(text) < count else None


def _scores(prediction: Any) -> tuple[tuple[str, ...], npt.NDArray[np.float64]] | str:
    """The labels of a label list and their scores; or why it cannot be judged."""
    if isinstance(prediction, LabelList):
        names, values = prediction.labels, list[Any](prediction.probabilities)
    else:
        rows = prediction
        if isinstance(rows, list) and len(rows) == 1 and isinstance(rows[0], list):
            rows = rows[0]  # some models give a list for each of their inputs
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) and "label" in row for row in rows):
            return "its answer is no list of labels"
        names, values = tuple(str(row["label"]) for row in rows), [row.get("probability") for row in rows]
    try:
        scores = np.array(values, np.float64)
    except (TypeError, ValueError):
        return "a score is not a number"
    return (names, scores) if np.isfinite(scores).all() else "a score is not a number"


def _refuse_unknown(truth: Truth, rows: Sequence[Row], scores: Sequence[Score]) -> None:
    """InvalidError for a label that is none of any model's."""
    unknown = [row for row in rows if scores and all(row.value in each.outside for each in scores)]
    if unknown:
        first, names = unknown[0], list(scores[0].labels)
        near = difflib.get_close_matches(first.value, names, 1)
        guess = f"Did you mean {shown(near[0])!r}?" if near else f"{scores[0].model} has {len(names):,}: {few(names)}."
        others = f" So are those of {len(unknown) - 1:,} more rows." if len(unknown) > 1 else ""
        raise InvalidError(
            f"{truth}, line {first.line}: {shown(first.value)!r} is no label of any of these models. {guess}{others}"
        )


def _left_out(truth: Truth, rows: Sequence[Row], unlabelled: Sequence[str]) -> Iterator[str]:
    if unlabelled:
        yield f"{count_of(len(unlabelled), 'case')} without a label in {truth}, left out: {few(unlabelled)}."
    used = {row.name for row in rows}
    unused = [name for name in truth.rows if name not in used]
    if unused:
        yield f"{count_of(len(unused), 'label')} in {truth} without a case: {few(unused)}."


def _notes(score: Score) -> Iterator[str]:
    if score.problems:
        name, why = next(iter(score.problems.items()))
        cases = count_of(len(score.problems), "case")
        yield f"{score.model} has no answer to {cases}, which count as wrong, such as {shown(name)}: {shown(why)}."
    if score.outside:
        cases = count_of(sum(each.truth in score.outside for each in score.answers.values()), "case")
        yield f"{score.model} does not have the labels of {cases}, which count as wrong: {few(score.outside)}."
    ties = sum(each.tied for each in score.answers.values())
    if ties:
        yield f"{score.model} gives the right label the score of another one in {count_of(ties, 'case')}."


def pairs(scores: Sequence[Score]) -> list[Pair]:
    """Every two models, compared by the cases that only one of them got right at once."""
    return [_pair(first, second) for first, second in combinations(scores, 2)]


def _pair(first: Score, second: Score) -> Pair:
    right = [(first.answers[name].within(1), second.answers[name].within(1)) for name in first.answers]
    return Pair(first.model, second.model, right.count((True, False)), right.count((False, True)))
