"""`flaxdream export`: a checkpoint of a training in, a model folder out."""

from __future__ import annotations

from collections.abc import Sequence

from flaxdream.cli.flags import parse, refusal
from flaxdream.config.export import ExportConfig, export_problems


def main(argv: Sequence[str]) -> int:
    config: ExportConfig = parse(ExportConfig, argv, "export")
    if problems := export_problems(config):
        raise refusal(problems)
    import jax

    jax.config.update("jax_platforms", "cpu")  # no accelerator is needed, and the training may be holding it
    from flaxdream.training.export import export_checkpoint

    done = export_checkpoint(config)
    print(f"{done.folder}: the model of step {done.step} ({done.weights}), from {done.checkpoint}")
    for note in done.notes:
        print(f"note: {note}")
    return 0
