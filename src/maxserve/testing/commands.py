"""Checks of commands of `max`.

class TestHello(CommandChecks):
    plugin = hello_plugin  # the module with the hook
    cases = [(["hello", "--name", "you"], "hello, you")]
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any, ClassVar

import click
from click.testing import CliRunner

from maxserve.core.registry.host import PluginHost, PluginOptions
from maxserve.core.registry.protocol import Invocation


class CommandChecks:
    """Subclass it and give the `plugin`, a module with `maxserve_commands`.

    `cases` are arguments of `max` and what is printed among other things, with exit status 0; `wrong` are arguments
    that are refused with status 2. `environ` is the environment that commands know of.
    """

    plugin: ClassVar[ModuleType]
    cases: ClassVar[Sequence[tuple[Sequence[str], str]]] = ()
    wrong: ClassVar[Sequence[Sequence[str]]] = ()
    environ: ClassVar[dict[str, str]] = {}

    def group(self, *, plugin: bool = True) -> click.Group:
        """`max` with the plugin's commands, or as it is without them."""
        options = PluginOptions(autoload=False, plugin=(self.plugin.__name__,) if plugin else ())
        host = PluginHost.discover(options, strict=True)
        cli = click.Group("max")
        host.add_commands(cli, Invocation(host=host, options=options, environ=self.environ))
        return cli

    def added(self) -> dict[str, click.Command]:
        """The commands that the plugin adds, by name."""
        before = set(self.group(plugin=False).commands)
        return {name: command for name, command in self.group().commands.items() if name not in before}

    def run(self, *argv: str) -> Any:
        """How `max ARGV` ended: `exit_code`, and `output`, which has what went to stderr, too."""
        return CliRunner().invoke(self.group(), argv, env=self.environ, prog_name="max")

    def test_it_adds_commands(self) -> None:
        assert self.added(), "the hook added nothing to the group it was given"

    def test_commands_say_what_they_do(self) -> None:
        for name, command in self.added().items():
            assert command.get_short_help_str(), f"{name} has no docstring and no help"
            ran = self.run(name, "--help")
            assert ran.exit_code == 0, ran.output

    def test_commands_do_what_they_say(self) -> None:
        assert self.cases, f"{type(self).__name__} has no cases"
        for argv, printed in self.cases:
            ran = self.run(*argv)
            assert ran.exit_code == 0, f"max {' '.join(argv)}: {ran.output} {ran.exception}"
            assert printed in ran.output, f"max {' '.join(argv)}"

    def test_what_is_wrong_is_refused(self) -> None:
        for argv in (*self.wrong, *([name, "--no-such-option"] for name in self.added())):
            assert self.run(*argv).exit_code == 2, f"max {' '.join(argv)}"
