"""How help texts show examples."""


def epilog(*examples: str) -> str:
    """The closing lines of a help page: commands that can be typed as they stand."""
    return "\n".join(["[bold]Examples[/bold]", *(f"  [cyan]$ {example}[/cyan]" for example in examples)])
