"""Work done ahead of time in one background thread."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")

_END = object()


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """The same items in the same order, each made in a thread while earlier ones are used.

    Args:
        items: iterated in the thread alone; what it raises is raised here.
        depth: how many may wait.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[Item | object]] = deque(pool.submit(next, source, _END) for _ in range(depth))
        try:
            while (made := waiting.popleft().result()) is not _END:
                waiting.append(pool.submit(next, source, _END))
                yield made  # type: ignore[misc]
        finally:
            for future in waiting:
                future.cancel()
