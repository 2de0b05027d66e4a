"""Puts a finished `lns` into the wheel.

`LNS_BINARY` names the program and `LNS_WHEEL_PLATFORM` the machines it runs on (`manylinux_2_34_x86_64`); `scripts/wheel`
finds out the second from the first.
"""

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ProgramHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        binary, platform = os.environ.get("LNS_BINARY"), os.environ.get("LNS_WHEEL_PLATFORM")
        if not binary or not platform:
            raise SystemExit(
                "set LNS_BINARY to a release build of lns and LNS_WHEEL_PLATFORM to the platform it was built for, "
                "or use scripts/wheel, which does"
            )
        program = Path(binary).resolve()
        if not os.access(program, os.X_OK) or not program.is_file():
            raise SystemExit(f"LNS_BINARY is {program}, which is no program")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"
        build_data["shared_scripts"][str(program)] = "lns.exe" if program.suffix == ".exe" else "lns"
