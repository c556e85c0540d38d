"""griffe extension: lists in docstrings, as our methods write their departures, become Markdown.

Departures
  An item, of a line or
    of more.
  Another one.
"""

import re

import griffe

TITLE = re.compile(r"[A-Z][\w ]*:?")
ITEM = re.compile(r"  (\S.*)")
REST = re.compile(r" {3,}(\S.*)")


def as_markdown(text: str) -> str:
    """The docstring with each title of a list in bold, and each of its items as a list's item."""
    lines: list[str] = []
    inside = False
    source = text.splitlines()
    for line, following in zip(source, [*source[1:], ""], strict=True):
        if TITLE.fullmatch(line) and ITEM.fullmatch(following):
            inside = True
            lines += [f"**{line}**", ""]
        elif inside and (item := ITEM.fullmatch(line)):
            lines.append(f"* {item[1]}")
        elif inside and (rest := REST.fullmatch(line)):
            lines.append(f"  {rest[1]}")
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)


class DeparturesAsList(griffe.Extension):
    """Rewrites the docstrings of modules."""

    def on_module(self, *, mod: griffe.Module, **kwargs: object) -> None:
        """Called for every module that is read."""
        if mod.docstring is not None:
            mod.docstring.value = as_markdown(mod.docstring.value)
