"""Ways of getting a store into trouble, for the tests."""

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


def in_child(work: Callable[[], None]) -> int:
    """Run in a forked process; its id. It ends with 0, or with 1 and a traceback."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def ended(pid: int) -> int:
    """Wait for it; its exit code, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert ended(pid) == -signal.SIGKILL


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder that every user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user to whom permissions apply; the superuser becomes nobody for a while."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if mine == 0:
            os.seteuid(mine)
