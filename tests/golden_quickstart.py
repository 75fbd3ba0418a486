"""Holds the quick start's losses against those that are kept: `python -m tests.golden_quickstart OUT [--write]`.

OUT is the folder that `quickstart.sh` wrote. A change of the numbers that is meant is kept with `--write`, and said in
the change log. The first steps differ by rounding only, between machines too; later ones by what rounding grows to.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

KEPT = Path(__file__).parent / "golden_quickstart.json"
FIRST, BLOCK = 10, 20  # steps
FIRST_TOLERANCE, BLOCK_TOLERANCE = 1e-3, 2e-2  # relative


def losses(out: Path) -> list[float]:
    """The loss of each step of a run."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [round(row["loss"], 6) for row in rows if "loss" in row]


def differences(found: list[float], kept: list[float]) -> list[str]:
    """What is not as it was; nothing if all is."""
    if len(found) != len(kept):
        return [f"{len(found)} steps; {len(kept)} are kept"]
    said = []
    for step, (loss, wanted) in enumerate(zip(found[:FIRST], kept), 1):
        if abs(loss / wanted - 1) > FIRST_TOLERANCE:
            said.append(f"step {step}: loss {loss}; {wanted} is kept")
    for start in range(0, len(kept), BLOCK):
        mean, wanted = (
            sum(values[start : start + BLOCK]) / len(values[start : start + BLOCK]) for values in (found, kept)
        )
        if abs(mean / wanted - 1) > BLOCK_TOLERANCE:
            said.append(f"steps {start + 1} to {start + BLOCK}: mean loss {mean:.5f}; {wanted:.5f} is kept")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--write", action="store_true", help="keep the losses of this run")
    options = parser.parse_args()
    found = losses(options.out)
    if options.write:
        KEPT.write_text(json.dumps(found) + "\n", encoding="utf-8")
    said = differences(found, json.loads(KEPT.read_text(encoding="utf-8")))
    print("\n".join(said) or f"the losses of {len(found)} steps are those that are kept")
    raise SystemExit(bool(said))


if __name__ == "__main__":
    main()
