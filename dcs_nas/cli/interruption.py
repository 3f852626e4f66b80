"""Ctrl-C and SIGTERM end a command: once, wherever they arrive."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

_SECONDS = 0.5  # between two looks at whether an interruption still travels


class _Ended(KeyboardInterrupt):
    """Raised by a signal. Of a plain KeyboardInterrupt that leaves code made from a string, such as a dataclass's,
    CPython remembers that it was there, and ends by SIGINT instead of with our exit code."""


@contextlib.contextmanager
def end_by_signals() -> Iterator[None]:
    """Within it, SIGTERM ends a command as Ctrl-C does: half-written files go, and the exit code is 2.

    An interruption can be lost: Python drops it in a destructor or the callback of a weak reference, and so do
    libraries that look for an attribute from C. A thread therefore looks every half second whether the main thread
    is handling it, and repeats the signal if not. Lightning has a handler of SIGTERM while it trains, which ends the
    step first and then calls ours.
    """
    main, left = threading.get_ident(), threading.Event()
    watch = threading.Thread(target=_repeat_if_lost, args=(main, left), daemon=True)

    def end(number: int, frame: Any) -> None:
        if not watch.is_alive() and not left.is_set():
            watch.start()
        if signal.getsignal(number) is end:
            raise _Ended

    def unraisable(dropped: Any) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            hook(dropped)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook, sys.unraisablehook = sys.unraisablehook, unraisable
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        left.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.unraisablehook = hook


def _repeat_if_lost(main: int, left: threading.Event) -> None:
    """Send SIGTERM to the thread ``main`` whenever it handles no interruption, until ``left`` is set."""
    while not left.wait(_SECONDS):
        if not _is_ending(sys._current_exceptions().get(main)):
            signal.pthread_kill(main, signal.SIGTERM)


def _is_ending(handled: Any) -> bool:
    """Return whether an exception is an interruption or follows from one.

    It is a triple (type, value, traceback) in Python 3.10 and 3.11."""
    error = handled[1] if isinstance(handled, tuple) else handled
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False
