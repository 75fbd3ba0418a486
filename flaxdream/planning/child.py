"""The process that compiles: `python -m flaxdream.planning.child FOLDER`, with FOLDER/request.json.

It writes facts.json before it compiles, and afterwards compiled.json and module.txt; or error.json. Its standard input
is open as long as someone waits for that.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

from flaxdream.planning.request import read_request


def main(folder: Path) -> None:
    """Carries out the request; settings that cannot be are error.json."""
    from flaxdream.compiler_options import configure_compiler
    from flaxdream.planning import compiling
    from flaxdream.planning.programs import make_program

    request = read_request(folder / "request.json")
    cache_dir = request.config.compilation_cache_dir if request.topology in compiling.ATTACHED else None
    configure_compiler(cache_dir=cache_dir, fast=request.config.fast_compile)
    try:
        machine, devices = compiling.devices_of(request.topology)
        lowered, facts = compiling.lower(make_program(request, devices))
    except ValueError as error:
        compiling.write(folder / "error.json", {"message": str(error)})
        return
    compiling.answer(folder, machine, lowered, facts, devices[0])


def end_when_left(folder: Path) -> None:
    """From now on this process ends, and the folder goes, when the one that started it does, however that ends."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_when_left(Path(sys.argv[1]))
    main(Path(sys.argv[1]))
