"""How long-running work tells a person where it is: amount done, rate, time left.

The work calls :meth:`Progress.update`; who listens is decided outside: a Dagster run writes a line to its log now and
then, and the command line draws bars besides.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Listener = Callable[["Progress"], None]


@dataclass
class Progress:
    """Amount of one piece of work.

    Attributes:
        unit: what is counted, e.g. tokens.
        listener: called after every update.
        done: amount done.
        total: amount there is, or None where unknown.
        note: a short remark, e.g. the current loss.
        started: monotonic seconds at the start.
    """

    unit: str
    listener: Listener
    done: float = 0.0
    total: float | None = None
    note: str = ""
    started: float = field(default_factory=time.monotonic)

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Say how much is done by now."""
        self.done, self.note = done, note
        self.total = total if total is not None else self.total
        self.listener(self)

    @property
    def rate(self) -> float:
        """Units a second since the start."""
        return self.done / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Expected seconds to the end, where the total is known."""
        if self.total is None or self.done <= 0:
            return None
        return max(self.total - self.done, 0.0) / self.rate

    def sentence(self) -> str:
        """The state as one line."""
        amount = f"{self.done:,.0f}" + (f" of {self.total:,.0f}" if self.total else "")
        left = "" if self.seconds_left is None else f", {self.seconds_left:,.0f} s left"
        return f"{amount} {self.unit}, {self.rate:,.0f} {self.unit}/s{left}{', ' + self.note if self.note else ''}"


def every(seconds: float, write: Callable[[str], None]) -> Listener:
    """A listener that writes a line at most every ``seconds``."""
    last = time.monotonic()

    def listen(progress: Progress) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            write(progress.sentence())

    return listen


_listeners: list[Listener] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send the progress of everything in this process to ``listener`` too, besides the run's log."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def start(unit: str, write: Callable[[str], None]) -> Progress:
    """Begin a piece of work: ``write`` gets a line every ten seconds, and whoever is listening hears of everything."""
    log, others = every(10.0, write), _listeners[-1:]

    def listen(progress: Progress) -> None:
        for listener in (log, *others):
            listener(progress)

    return Progress(unit, listen)
