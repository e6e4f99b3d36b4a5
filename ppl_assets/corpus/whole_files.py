"""Files that are one document each: plain text, and the docstrings of a Python file."""

import ast
import warnings
from collections.abc import Iterator

from ppl_assets.corpus.compression import open_decompressed
from ppl_assets.corpus.files import SourceFile
from ppl_assets.corpus.rows import Plan, RejectedRow, Row

HEAD_BYTES = 8192
PYTHON_SUFFIXES = (".py", ".pyi")
_WIDE = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
"""Byte order marks of UTF-16, whose texts hold NUL bytes and are none the less text."""


def text_rows(file: SourceFile, plan: Plan) -> Iterator[Row | RejectedRow]:
    """The file as one document: UTF-8 with or without byte order mark, or UTF-16 with one."""
    if plan.skips(1):
        return
    content = _content(file, plan)
    if isinstance(content, RejectedRow):
        yield content
    elif content[:2] in _WIDE:
        try:
            text = content.decode(_WIDE[content[:2]])
        except UnicodeDecodeError as error:
            yield RejectedRow(file.relative, None, "invalid_utf8", f"The file is not UTF-16: {error}.")
        else:
            yield plan.check(file.relative, 1, text)
    else:
        yield plan.check(file.relative, 1, content)


def docstring_rows(file: SourceFile, plan: Plan) -> Iterator[Row | RejectedRow]:
    """All docstrings of a Python file as one document: module, classes and functions in the order of the source.

    One document a file, since single docstrings rarely fill a chunk. Docstrings are dedented and separated by a blank
    line. Files that are not Python by name are passed over.
    """
    if not file.url.lower().endswith(PYTHON_SUFFIXES) or plan.skips(1):
        return
    content = _content(file, plan)
    if isinstance(content, RejectedRow):
        yield content
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # invalid escapes in other people's sources
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield RejectedRow(file.relative, None, "invalid_python", f"The file does not parse as Python: {error}.")
        return
    yield plan.check(file.relative, 1, "\n\n".join(docstrings(tree)))


def docstrings(tree: ast.Module) -> list[str]:
    """The docstrings below a module, itself included, in source order."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(tree) if isinstance(node, documented)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    return [text for node in nodes if (text := ast.get_docstring(node))]


def _content(file: SourceFile, plan: Plan) -> bytes | RejectedRow:
    """The bytes of a text file of bounded size, or why it is none."""
    with open_decompressed(file) as stream:
        head = stream.read(HEAD_BYTES)
        if b"\0" in head and head[:2] not in _WIDE:
            return RejectedRow(file.relative, None, "binary_file", "NUL bytes in the first 8 KiB: not a text file.")
        longest = 4 * plan.limit + 4
        content = head + stream.read(max(0, longest + 1 - len(head)))
        if len(content) > longest:
            over_long = plan.over_long(file.relative, 1, f"More than {longest:,} bytes")
            return RejectedRow(over_long.source, None, over_long.reason, over_long.detail)
    return content
