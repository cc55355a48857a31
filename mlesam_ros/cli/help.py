"""How help texts are laid out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def epilog(*examples: str) -> str:
    """The closing lines of a help page: commands that can be typed as they stand."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]$ {example}[/cyan]" for example in examples)])


def format_help(command: Callable[..., Any]) -> str:
    """A command's docstring with each paragraph on one line, so that the terminal's width decides where it breaks."""
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
