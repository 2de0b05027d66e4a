"""Runs the program `lns` and gives back what it said.

The program runs in a session of its own, so that an interrupt reaches it once, from here, and it can end in order: a
training run keeps a snapshot.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Union

Progress = Union[bool, Callable[[str], None]]
"""Where notes and progress go: `True` to standard error, `False` nowhere, or a function that is given each line."""


class LnsError(RuntimeError):
    """What the program could not do, in its own words."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """1: it failed; 2: the input or the options are wrong."""


class InputError(LnsError, ValueError):
    """Input or options that are wrong, with what to do about it."""


def find_program() -> Path:
    """The program: `LNS_BINARY` if that is set, the one that came with this package, or the first on the path.

    Raises FileNotFoundError when there is none.
    """
    if named := os.environ.get("LNS_BINARY"):
        return Path(named)
    name = "lns.exe" if os.name == "nt" else "lns"
    user = sysconfig.get_preferred_scheme("user")
    for folder in (sysconfig.get_path("scripts"), sysconfig.get_path("scripts", user), Path(sys.executable).parent):
        if (program := Path(folder) / name).is_file():
            return program
    if found := shutil.which("lns"):
        return Path(found)
    raise FileNotFoundError("the program lns was not found; install the wheel, or set LNS_BINARY to where lns is")


def run_json(arguments: Sequence[str], progress: Progress = True) -> Any:
    """Runs `lns ARGUMENTS --json` and gives what it printed.

    Raises LnsError with the program's own text, and KeyboardInterrupt after the program has ended in order.
    """
    command = [os.fspath(find_program()), *arguments, "--json"]
    if progress is False:
        command.append("--quiet")
    # Standard input is nobody's here; a program that waited for it would wait for ever.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    complaint: list[str] = []
    listener = threading.Thread(target=_listen, args=(process.stderr, progress, complaint), daemon=True)
    listener.start()
    try:
        output = process.stdout.read()
        code = process.wait()
    except BaseException:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.stdout.read()
        process.wait()
        raise
    finally:
        listener.join()
        process.stdout.close()
        process.stderr.close()
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if code != 0:
        message = "\n".join(complaint).strip() or f"lns ended with code {code}"
        raise (InputError if code == 2 else LnsError)(message, code)
    return json.loads(output)


def _listen(lines: Any, progress: Progress, complaint: list[str]) -> None:
    """Passes lines on until the program says what is wrong; that is kept for the exception."""
    for line in lines:
        line = line.rstrip("\n")
        if complaint:
            complaint.append(line)
        elif line.startswith("error: "):
            complaint.append(line.removeprefix("error: "))
        elif callable(progress):
            progress(line)
        elif progress:
            print(line, file=sys.stderr, flush=True)


def flag(name: str, value: Any) -> list[str]:
    """A flag as it is typed: nothing for `None` and `False`, the flag alone for `True`."""
    if value is None or value is False or (isinstance(value, (list, tuple)) and not value):
        return []
    if value is True:
        return [name]
    if isinstance(value, (list, tuple)):
        return [name, *map(str, value)]
    return [name, str(value)]


def names(value: str | Sequence[str] | None) -> str | None:
    """Names as the program takes them, separated by commas."""
    return value if value is None or isinstance(value, str) else ",".join(value)
