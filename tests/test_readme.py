"""The README shows what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from tests.benchmarks.tpu_table import readme_table

ROOT = Path(__file__).parents[1]


def test_the_tpu_table_is_the_kept_results():
    results = json.loads((ROOT / "tests/benchmarks/tpu_results.json").read_text())
    shown = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme_table(results) in shown, "put what `python -m tests.benchmarks.tpu --readme` prints into the README"
