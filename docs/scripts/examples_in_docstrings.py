"""Shows an example in a docstring (`>>>`) as code: Markdown alone would take it for a quotation."""

import re
from typing import Any

import griffe

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)


class ExamplesInDocstrings(griffe.Extension):
    """Called by griffe, which reads the package for the Python reference."""

    def on_object(self, *, obj: Any, **_given: Any) -> None:
        """Put a fence around each example of an object's docstring."""
        if obj.docstring:
            obj.docstring.value = EXAMPLE.sub(lambda example: f"```pycon\n{example[0]}\n```", obj.docstring.value)
