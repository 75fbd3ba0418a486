"""DreamBooth steps compiled for TPUs, ours beside the peer's: `python -m tests.benchmarks.tpu`.

`--cases sd15:v5e-8:1,2,4 sd15+text:v3-8:1` are architecture, machine and pictures per device; `--sides peer ours fsdp`
which steps. The peer is diffusers 0.38's Flax script (tpu_peer.py), under the interpreter `--peer PYTHON`. Both are
compiled by the same TPU compiler until the memory is planned, and read by the code of `flaxdream plan`. Each answer is
put into `--results` at once, by default the file that the README's table is from: an interrupted matrix goes on,
`--again` compiles anew, `--table` only prints (all that is there, without `--cases`), and so does `--readme`, as the
README shows it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flaxdream.config import DreamBoothConfig
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.planning.measuring import CompileError, measure, measured_by
from flaxdream.planning.plan import Plan
from flaxdream.planning.remembered import from_dict
from flaxdream.planning.request import Request
from flaxdream.planning.topologies import find
from tests.benchmarks.tpu_table import BATCHES, NAMES, milliseconds, readme_table

PEER = "peer"
# What a user of this project would set; `fsdp` is put in as the number of devices.
SIDES: dict[str, dict[str, Any]] = {
    "ours": {},
    "fsdp": {"fsdp": 0},
    "blocks": {"gradient_checkpointing": True},
    "fsdp+blocks": {"fsdp": 0, "gradient_checkpointing": True},
    "fsdp+full": {"fsdp": 0, "gradient_checkpointing_policy": "full"},
    "fsdp8": {"fsdp": 8},
    "8bit": {"use_8bit_adam": True},
    "8bit+blocks": {"use_8bit_adam": True, "gradient_checkpointing": True},
    "8bit+full": {"use_8bit_adam": True, "gradient_checkpointing_policy": "full"},
    "bf16+8bit": {"params_dtype": "bfloat16", "use_8bit_adam": True},
    "bf16+8bit+full": {
        "params_dtype": "bfloat16",
        "use_8bit_adam": True,
        "gradient_checkpointing_policy": "full",
    },
    "offload+full": {"offload_optimizer": True, "gradient_checkpointing_policy": "full"},
    "bf16+offload+full": {
        "params_dtype": "bfloat16",
        "offload_optimizer": True,
        "gradient_checkpointing_policy": "full",
    },
    "bf16+8bit+offload+full": {
        "params_dtype": "bfloat16",
        "use_8bit_adam": True,
        "offload_optimizer": True,
        "gradient_checkpointing_policy": "full",
    },
}
MACHINES = ("v3-8", "v4-8", "v5e-8", "v6e-8")
DEFAULT = [f"{model}:{machine}:{','.join(map(str, BATCHES))}" for model in NAMES for machine in MACHINES]
ROOT = Path(__file__).parents[2]


class Case(NamedTuple):
    model: str
    train_text_encoder: bool
    machine: str
    batch: int

    @property
    def name(self) -> str:
        return f"{self.model}{'+text' if self.train_text_encoder else ''}:{self.machine}:{self.batch}"


def read_cases(words: list[str]) -> list[Case]:
    """From words such as sd15+text:v5e-8:1,2."""
    found = []
    for word in words:
        model, machine, batches = word.split(":")
        architecture, _, trains = model.partition("+")
        found += [Case(architecture, trains == "text", machine, int(batch)) for batch in batches.split(",")]
    return found


def config_of(case: Case, side: str) -> DreamBoothConfig:
    """The run's settings: bfloat16, cached latents (center crops), and what the side is named for."""
    changes = dict(SIDES[side])
    if "fsdp" in changes:
        changes["fsdp"] = find(case.machine).devices
    return DreamBoothConfig(
        pretrained_model_name_or_path=case.model,
        instance_data_dir="pictures",
        instance_prompt="a photo of sks",
        mixed_precision="bf16",
        center_crop=True,
        train_batch_size=case.batch,
        train_text_encoder=case.train_text_encoder,
        compilation_cache_dir="",
        **changes,
    )


def plan_of(case: Case, side: str, peer: str) -> Plan:
    configs = {name: dict(values) for name, values in ARCHITECTURES[case.model].items()}
    if side != PEER:
        return measure(Request("dreambooth", config_of(case, side), configs, case.machine, "train", 1, False))
    asked = {"configs": configs, "topology": case.machine, "batch": case.batch}
    asked |= {"train_text_encoder": case.train_text_encoder}
    command = [peer, str(ROOT / "tests/benchmarks/tpu_peer.py")]
    return measured_by(command, json.dumps(asked), "bf16", for_tpu=True, full=False)


def line(case: Case, side: str, plan: Plan, peer: Plan | None) -> str:
    """A row of the table: memory, time and share of the peak; the ratio is of the times per picture."""
    needed = "" if plan.needed is None else f"{plan.needed / 2**30:.2f} of {plan.limit / 2**30:.2f}"
    row = [case.name, side, "yes" if plan.fits else "no", needed]
    if plan.estimate is None:
        return "| " + " | ".join([*row, "", "", "", "", ""]) + " |"
    cost = plan.estimate
    ratio = ""
    if peer is not None and peer.estimate is not None:
        ratio = f"{milliseconds(peer) / milliseconds(plan):.2f}"
    times = [f"{cost.seconds * 1e3:.0f}", f"{milliseconds(plan):.1f}", f"{cost.peak_share:.0%}"]
    return "| " + " | ".join([*row, *times, f"{cost.link_seconds * 1e3:.0f}", ratio]) + " |"


def table(cases: list[Case], sides: list[str], results: dict[str, Any]) -> str:
    head = "| case | side | fits | GiB a device | ms a step | ms a picture | of the peak | ms of transfers | ratio |"
    lines = [head, "|" + "---|" * 9]
    for case in cases:
        plans = {side: from_dict(results[f"{case.name} {side}"]) for side in sides if f"{case.name} {side}" in results}
        lines += [line(case, side, plan, plans.get(PEER)) for side, plan in plans.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+")
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, PEER])
    parser.add_argument("--peer", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--results", type=Path, default=ROOT / "tests/benchmarks/tpu_results.json")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--readme", action="store_true")
    options = parser.parse_args()
    compiler = importlib.util.find_spec("libtpu")
    if compiler is not None and compiler.origin:  # the peer's interpreter may have none
        os.environ.setdefault("TPU_LIBRARY_PATH", str(Path(compiler.origin).parent / "libtpu.so"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    results = json.loads(options.results.read_text()) if options.results.exists() else {}
    if options.readme:
        print(readme_table(results))
        return
    known = sorted({name.split()[0] for name in results})
    cases = read_cases(options.cases or (known if options.table else DEFAULT))
    sides = options.sides or ([*SIDES, PEER] if options.table else ["fsdp", PEER])
    for case in [] if options.table else cases:
        for side in sides:
            key = f"{case.name} {side}"
            if key in results and not options.again:
                continue
            try:
                plan = plan_of(case, side, options.peer)
            except CompileError as error:
                print(f"{key}: {error}", file=sys.stderr, flush=True)
                continue
            results[key] = plan.as_dict()
            options.results.write_text(json.dumps(results, indent=1), encoding="utf-8")
            print(line(case, side, plan, None), file=sys.stderr, flush=True)
    print(table(cases, sides, results))


if __name__ == "__main__":
    main()
