"""Problems of plugins: raised at once, or noted."""

from __future__ import annotations

from maxserve.core.interfaces.errors import PluginError


class Complaints:
    """Takes plugin errors: raises them at once when strict, else keeps them to be asked for.

    `tolerant` is the operator's word that a broken plugin never stops anything.
    """

    def __init__(self, *, strict: bool, tolerant: bool = False) -> None:
        self.strict = strict and not tolerant
        self.tolerant = tolerant
        self.errors: list[PluginError] = []
        self.warnings: list[str] = []

    def report(self, error: PluginError) -> None:
        if self.strict:
            raise error
        if str(error) not in map(str, self.errors):  # what is looked at twice is wrong only once
            self.errors.append(error)

    def warn(self, text: str) -> None:
        """Notes what the operator should know but which stops nothing."""
        self.warnings.append(text)

    def insist(self) -> None:
        """Raises the first error that was noted, unless all are tolerated."""
        if self.errors and not self.tolerant:
            raise self.errors[0]
