"""Holds the quick start's losses against those that are kept: `python -m tests.golden_quickstart OUT [--write]`.

OUT is the folder that `quickstart.sh` wrote. A change of the numbers that is meant is kept with `--write`, and said in
the change log. Rounding differs between machines, and grows: with another number of threads the first ten losses were
the same to 2e-6, means of 20 steps to 3e-5 within the first hundred, and single ones later were others altogether.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

KEPT = Path(__file__).parent / "golden_quickstart.json"
FIRST, BLOCK, HELD = 10, 20, 100  # steps: one by one, at a time, and from which on only the mean counts
FIRST_TOLERANCE, BLOCK_TOLERANCE, REST_TOLERANCE = 5e-4, 5e-3, 0.15  # relative


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
    blocks = [slice(start, start + BLOCK) for start in range(0, HELD, BLOCK)]
    for steps, tolerance in [*((block, BLOCK_TOLERANCE) for block in blocks), (slice(HELD, None), REST_TOLERANCE)]:
        mean, wanted = fmean(found[steps]), fmean(kept[steps])
        if abs(mean / wanted - 1) > tolerance:
            said.append(
                f"steps {steps.start + 1} to {steps.stop or len(kept)}: mean loss {mean:.5f}; {wanted:.5f} is kept"
            )
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
