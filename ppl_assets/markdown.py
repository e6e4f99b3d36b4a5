"""Tables as Markdown, for Dagster metadata."""

import polars as pl


def as_markdown_table(rows: pl.DataFrame) -> str:
    """A Markdown table: integers with thousands separators, reals with four significant digits."""
    header = "| " + " | ".join(rows.columns) + " |"
    rule = "|" + "|".join("---:" if kind.is_numeric() else "---" for kind in rows.dtypes) + "|"
    body = ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows.iter_rows()]
    return "\n".join([header, rule, *body])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")
