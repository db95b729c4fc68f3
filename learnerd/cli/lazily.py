"""Commands that are imported when they are called, so that ``status`` does not pay for ``demo``."""

import importlib
import keyword
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup


def lazily(package: str, names: Sequence[str]) -> type[TyperGroup]:
    """A group of commands, one module each.

    Args:
        package: where the modules are.
        names: each is ``<package>.<name>`` with a function ``command``, or a ``typer.Typer`` named ``app``;
            a word of Python's own has an underscore behind it there.
    """

    class Commands(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - typer's signature
            return list(names)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - typer's signature
            if cmd_name not in names:
                return None
            name = f"{cmd_name}_" if keyword.iskeyword(cmd_name) else cmd_name
            module = importlib.import_module(f"{package}.{name}")
            app: typer.Typer | None = getattr(module, "app", None)
            if app is None:
                app = new_typer()
                app.command(name=cmd_name)(module.command)
            command = typer.main.get_command(app)
            command.name = cmd_name
            command.help = _unwrapped(command.help)
            return command

    return Commands


def _unwrapped(text: str | None) -> str | None:
    """Help whose paragraphs are one line each: the terminal, not the source, says where a line ends."""
    if text is None:
        return None
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def new_typer(**options: Any) -> typer.Typer:
    """A typer app as all of ours are: no completion, no tracebacks of its own."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, **options)
