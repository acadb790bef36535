"""Completion in bash, which takes a word apart at its `=`."""

from __future__ import annotations

from click.shell_completion import BashComplete, add_completion_class


class BashCompletion(BashComplete):
    """Completes the value of `--option=value` as that of `--option value`; click does so for an empty value only."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that word."""
        args, incomplete = super().get_completion_args()
        return [word for word in args if word != "="], incomplete


def register_completion() -> None:
    """From now on, click completes for bash in this way."""
    add_completion_class(BashCompletion)
