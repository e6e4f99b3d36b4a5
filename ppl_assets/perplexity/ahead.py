"""Work done ahead of time in one background thread."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")


def ahead(make: Callable[[Given], Made], items: Iterable[Given], depth: int = 2) -> Iterator[Made]:
    """``make(item)`` of each item in order, computed in a thread while earlier ones are used.

    Args:
        make: called in the thread, one item at a time; what it raises is raised here.
        items: read in the caller's thread, ``depth`` items ahead.
        depth: how many results may wait.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Made]] = deque(pool.submit(make, item) for item in islice(remaining, depth))
        try:
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(remaining, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()
