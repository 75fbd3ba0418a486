"""The process that compiles: `python -m flaxdream.planning.child FOLDER`, with FOLDER/request.json.

It writes facts.json before it compiles, and afterwards compiled.json and module.txt; or error.json.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from flaxdream.planning.request import read_request


def main(folder: Path) -> None:
    """Carries out the request; settings that cannot be are error.json."""
    import jax

    from flaxdream.planning import compiling

    request = read_request(folder / "request.json")
    if request.config.compilation_cache_dir and request.topology in compiling.ATTACHED:
        cache = Path(request.config.compilation_cache_dir).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
    try:
        machine, devices = compiling.devices_of(request.topology)
        lowered, facts = compiling.lower(compiling.make_program(request, devices))
    except ValueError as error:
        _write(folder / "error.json", {"message": str(error)})
        return
    _write(folder / "facts.json", {"facts": dataclasses.asdict(facts), "machine": dataclasses.asdict(machine)})
    done = compiling.compile_lowered(lowered)
    if done.text is not None:
        (folder / "module.txt").write_text(done.text, encoding="utf-8")
    _write(folder / "compiled.json", dataclasses.asdict(dataclasses.replace(done, text=None)))


def _write(path: Path, values: object) -> None:
    """Whole or not at all: another process waits for the file."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(values), encoding="utf-8")
    part.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
