"""`flaxdream dataset check`: what is there, what is wrong with it, and what training will make of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from flaxdream.cli.flags import parse, refusal
from flaxdream.config.dataset import DatasetCheckConfig, dataset_check_problems

ACTION = "check"


def main(argv: Sequence[str]) -> int:
    """0: nothing is broken; 1: there are errors. ValueError if the settings are wrong or there is no data."""
    if not argv or argv[0] in ("-h", "--help"):
        argv = [ACTION, "--help"]
    if argv[0] != ACTION:
        raise ValueError(f"unknown action {argv[0]!r}; expected: flaxdream dataset {ACTION} FOLDER [flags]")
    config: DatasetCheckConfig = parse(DatasetCheckConfig, _with_folder(argv[1:]), f"dataset {ACTION}")
    if problems := dataset_check_problems(config):
        raise refusal(problems)
    from flaxdream.cli.dataset_report import check
    from flaxdream.cli.dataset_text import report_text

    report = check(config)
    if config.json:
        json.dump(report, sys.stdout, indent=1, ensure_ascii=False)
        print()
    else:
        print(report_text(report, config.names_shown))
    return report["exit_code"]


def _with_folder(argv: Sequence[str]) -> list[str]:
    """A first word without dashes as --train_data_dir."""
    return ["--train_data_dir", *argv] if argv and not argv[0].startswith("-") else list(argv)
