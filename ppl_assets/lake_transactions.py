"""Transactions on the lake: tried again where they lost a race, rolled back where they failed."""

import duckdb
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

_ATTEMPTS = 12
"""A commit that lost a race, against another machine or a prompt, is tried again."""


def retrying(longest_wait: float) -> Retrying:
    """Tries again what lost a race against another writer, after at most ``longest_wait`` seconds each time."""
    return Retrying(
        retry=retry_if_exception(_is_conflict),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.05, max=longest_wait),
        reraise=True,
    )


def roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    """Roll back where a transaction is still open; a failed COMMIT has already ended it."""
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:
        return


def _is_conflict(error: BaseException) -> bool:
    """Whether repeating the transaction may succeed: it lost a race, or the catalog was busy."""
    if not isinstance(error, duckdb.Error):
        return False
    text = str(error).lower()
    return any(mark in text for mark in ("conflict", "locked", "busy", "already exists", "serializ"))
