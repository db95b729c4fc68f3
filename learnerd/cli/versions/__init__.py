"""``learnerd versions``: what has been published, and going back; a module a command, loaded when called."""

from learnerd.cli.lazily import lazily, new_typer

COMMANDS = ("list", "show", "diff", "pin", "unpin", "promote", "rollback")
"""Each is ``learnerd.cli.versions.<name>`` with a function ``command``."""

app = new_typer(
    cls=lazily(__name__, COMMANDS),
    no_args_is_help=True,
    help="List, show and compare published versions; pin one, let it act, or go back to it.",
)


@app.callback()
def _versions() -> None:
    """List, show and compare published versions; pin one, let it act, or go back to it."""
