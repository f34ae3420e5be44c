"""How many cases a model computes together."""

from __future__ import annotations

from collections.abc import Iterator

AUTO = "auto"
LARGEST = 64
_GAIN = 0.9  # of the seconds per case that a batch of twice the size must not exceed to be worth its memory
_LOOKS = 2  # batches of each size: the first one of a size often pays for what the framework prepares


class Batches:
    """Sizes of the batches to come: as asked for; or, for "auto", doubled for as long as that saves time.

    After a batch ended its session, its cases come one by one, so that the one to blame is found.
    """

    def __init__(self, wanted: str) -> None:
        """wanted: a whole number, or "auto"."""
        self.size = 1 if wanted == AUTO else int(wanted)
        self._growing = wanted == AUTO
        self._seconds: list[float] = []  # per case, of the batches of this size
        self._answered = 0  # cases of this size
        self._best = float("inf")
        self._alone = 0

    def sizes(self) -> Iterator[int]:
        """The size of the next batch, for ever."""
        while True:
            self._alone -= self._alone > 0
            yield 1 if self._alone else self.size

    def split(self, cases: int) -> None:
        """Let the next cases come one by one."""
        self._alone = cases + 1

    def no_more(self) -> None:
        """The model takes one case at a time."""
        self.size, self._growing = 1, False

    def took(self, asked: int, batch: int, seconds: float | None) -> None:
        """One case was asked for with `asked` cases and computed with `batch`.

        seconds: its share of their time; None for one that failed, which tells nothing.
        """
        if not self._growing or asked != self.size or seconds is None:
            return
        if batch < asked:  # too much for the model, which took one after the other
            self.size, self._growing = max(1, self.size // 2), False
            return
        self._answered += 1
        if self._answered % self.size == 0:
            self._seconds.append(seconds)
        if len(self._seconds) == _LOOKS:
            self._judge(min(self._seconds))
            self._answered = 0
            self._seconds.clear()

    def _judge(self, seconds: float) -> None:
        if seconds > _GAIN * self._best:
            self.size, self._growing = self.size // 2, False
            return
        self._best = seconds
        self._growing = self.size < LARGEST
        self.size = min(2 * self.size, LARGEST)
