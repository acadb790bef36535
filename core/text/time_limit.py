"""A limit of time for Python code that comes with a model, such as a chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class OutOfTime(Exception):
    """What was called took longer than it may."""


def within(seconds: float, call: Callable[[], T]) -> T:
    """What `call` gives, or raises; OutOfTime after `seconds`. It runs in a thread, which is ended then."""
    running = _Running(call)
    running.join(seconds)
    if running.is_alive():
        running.end()
        raise OutOfTime(f"it took more than {seconds:g} s")
    return running.result()


class _Running(threading.Thread, Generic[T]):
    def __init__(self, call: Callable[[], T]) -> None:
        super().__init__(daemon=True, name="limited")
        self._call = call
        self._found: list[T] = []
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found.append(self._call())
        except BaseException as error:  # it is raised again where the result is waited for
            self._error = error

    def end(self) -> None:
        """Raises an exception where the thread runs next; code that is not Python's goes on to its end first."""
        assert self.ident is not None
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self.ident), ctypes.py_object(SystemExit))

    def result(self) -> T:
        if self._error is not None:
            raise self._error
        return self._found[0]
