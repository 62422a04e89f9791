"""Commands that other plugins add to ``echostream``.

A plugin offers a component of the kind ``command``; its factory is called with an application of its own,
``factory(application: typer.Typer)``, and adds commands to it. They are asked for only when the built-in commands do
not answer: for the list in the help, for completion, and for a name that is none of ours. A broken one is told on
standard error and left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_group

from echostream_cli.screen import note

if TYPE_CHECKING:
    from echostream_core.kernel import Kernel

__all__ = ["CommandGroup", "ReaderGone"]

INDEX_GROUP: Final = "echostream.v1.command"
PANEL: Final = "Commands of plugins"


class ReaderGone(Exception):
    """Whoever read our output went away; typer would end the process itself for a BrokenPipeError."""


class CommandGroup(TyperGroup):
    """The built-in commands, and behind them those of the plugins."""

    _asked = False

    def list_commands(self, ctx: Any) -> list[str]:
        """All names: ours in their order, then the plugins'."""
        self._ask_plugins()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name not in self.commands:
            self._ask_plugins()
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. That the reader of our output went away is told by an error that typer lets pass."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGone from error

    def _ask_plugins(self) -> None:
        # Looking here first spares `--help` the import of the kernel, which takes longer than all the rest.
        if self._asked or not entry_points(group=INDEX_GROUP):
            return
        self._asked = True
        from echostream_core.commands import make_kernel

        for plugin, name, command in _commands(make_kernel()):
            if name in self.commands:
                note(f"warning: {plugin} offers the command {name!r}, which exists already: left out")
                continue
            command.rich_help_panel = PANEL
            self.commands[name] = command


def _commands(kernel: Kernel) -> Iterator[tuple[str, str, Any]]:
    """Who offers, name and command, of every plugin that works."""
    from echostream_core.errors import EchoStreamError

    for key in kernel.known("command"):
        try:
            component = kernel.component("command", key)
            application = typer.Typer(add_completion=False, rich_markup_mode=None)
            component.factory(application)
            group = get_group(application)
        except EchoStreamError as error:
            note(f"warning: the command {key!r} is left out: {error}")
        except (Exception, SystemExit) as error:
            reason = f"its plugin raised {type(error).__name__}: {error}"
            note(f"warning: the command {key!r} is left out: {reason}")
        else:
            if not group.commands:
                note(f"warning: the command {key!r} is left out: its plugin has added no command")
            for name, command in group.commands.items():
                yield key, name, command
