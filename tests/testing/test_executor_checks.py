"""The checks of executors take what is right and find what is wrong."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from maxserve.core.interfaces.executor import Executor, ExecutorContext
from maxserve.plugins.executors.local import LocalLauncher, LocalWorker
from maxserve.testing.executor import ExecutorChecks


class TestLocal(ExecutorChecks):
    executor = "local"


class Bare(LocalLauncher):
    """Leaves the variables out."""

    def __init__(self, context: ExecutorContext) -> None:
        super().__init__(ExecutorContext(command=context.command, environ={}, relay=context.relay))


class Silent(LocalLauncher):
    """Passes nothing on of what the worker writes."""

    def __init__(self, context: ExecutorContext) -> None:
        super().__init__(ExecutorContext(command=context.command, environ=context.environ))


class Hasty(LocalLauncher):
    """Closes the standard input at once."""

    def launch(self, start: bytes) -> LocalWorker:
        worker = super().launch(start)
        worker.cut()
        return worker


class Once(LocalLauncher):
    """Starts one worker and no other."""

    def launch(self, start: bytes) -> LocalWorker:
        assert not self.__dict__.get("started")
        self.__dict__["started"] = True
        return super().launch(start)


class Hidden(LocalLauncher):
    """Takes a program that is not there for one that ended."""

    def launch(self, start: bytes) -> LocalWorker:
        try:
            return super().launch(start)
        except OSError:
            return LocalWorker(ExecutorContext(command=("false",), environ={}), start)


@pytest.mark.parametrize(
    ("wrong", "check"),
    [
        (Bare, "test_the_worker_gets_its_start_and_its_variables"),
        (Silent, "test_what_the_worker_writes_goes_to_the_relay"),
        (Hasty, "test_the_worker_runs_until_its_lifeline_is_cut"),
        (Once, "test_a_second_worker_can_be_started"),
        (Hidden, "test_what_cannot_be_started_is_an_error"),
    ],
)
def test_wrong_executors_are_found(wrong: Any, check: str) -> None:
    class Checks(ExecutorChecks):
        component = Executor(name="wrong", build=wrong)

    with pytest.raises((AssertionError, pytest.fail.Exception)):
        getattr(Checks(), check)()


def test_a_kill_that_does_not_wait_is_found() -> None:
    """The worker that hears nothing must be gone."""

    class Mild(LocalWorker):
        def kill(self) -> None:
            self.cut()

    class Launcher(LocalLauncher):
        def launch(self, start: bytes) -> LocalWorker:
            return Mild(self._context, start)

    class Checks(ExecutorChecks):
        component = Executor(name="mild", build=Launcher)

        def status(self, word: str, then: Any, launcher: Any = None) -> int:
            worker: Any = self.launcher().launch(word.encode() + b"\n")
            try:
                then(worker)
                with pytest.raises(subprocess.TimeoutExpired):
                    worker._process.wait(0.5)
                return 0
            finally:
                LocalWorker.kill(worker)

    with pytest.raises(AssertionError):
        Checks().test_a_worker_that_is_deaf_is_killed()
