"""`flaxdream plan`: whether a training fits a machine that is not here, and how fast it will be."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from flaxdream.cli.flags import parse, parse_training
from flaxdream.config.checks import compile_notes
from flaxdream.config.plan import RECIPES, PlanConfig, plan_problems, stand_ins
from flaxdream.config.vae import VaeConfig

USAGE = (
    f"usage: flaxdream plan {{{','.join(RECIPES)}}} [the flags of that command, --config too] --topology v5e-8\n"
    "What that command's flags are, its own --help says: flaxdream dreambooth --help.\n"
    "No pictures and no weights are needed; --pretrained_model_name_or_path may be an architecture: sd15, sd21."
)


def main(argv: Sequence[str]) -> int:
    recipe, own, rest = split(argv)
    plan_config: PlanConfig = parse(PlanConfig, own, f"plan {recipe}")
    cls, problems = RECIPES[recipe]

    def check(config: Any) -> list[str]:
        return plan_problems(plan_config, recipe) + problems(_filled(recipe, config))

    parsed = parse_training(cls, rest, f"plan {recipe}", check)
    for line in (*parsed.sources, *parsed.notes):
        print(line, file=sys.stderr)
    return _plan(recipe, _filled(recipe, parsed.config), plan_config)


def split(argv: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """The recipe (dreambooth if none is named), the plan's own flags, and the training's."""
    words = list(argv)
    recipe = words.pop(0).replace("-", "_") if words and not words[0].startswith("-") else "dreambooth"
    if recipe not in RECIPES:
        raise ValueError(f"{recipe!r} cannot be planned. {USAGE}")
    if "--help" in words or "-h" in words:
        print(f"{USAGE}\n")
        return recipe, ["--help"], []
    fields = {field.name: field.type for field in dataclasses.fields(PlanConfig)}
    own: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        name, equals, _ = words[at].partition("=")
        field = name.removeprefix("--").replace("-", "_")
        mine = name.startswith("--") and field.removeprefix("no_") in fields
        takes = 2 if mine and not equals and fields.get(field) != "bool" and field in fields else 1
        (own if mine else rest).extend(words[at : at + takes])
        at += takes
    return recipe, own, rest


def _filled(recipe: str, config: Any) -> Any:
    return dataclasses.replace(config, **stand_ins(recipe, vars(config)))


def _plan(recipe: str, config: Any, asked: PlanConfig) -> int:
    from flaxdream.planning import search, table
    from flaxdream.planning.measuring import measure, require_tpu_compiler
    from flaxdream.planning.model import read_configs
    from flaxdream.planning.plan import Plan
    from flaxdream.planning.remembered import remembering
    from flaxdream.planning.request import Request
    from flaxdream.planning.topologies import ATTACHED, find

    if asked.topology not in ATTACHED:
        devices = find(asked.topology).devices
        batch = _batch_problems(config, devices)
        if batch:
            raise ValueError("\n".join(batch))
        require_tpu_compiler()
        if config.fast_compile:
            _say("--fast_compile: steps take longer than without; the estimate, which knows no tiles, does not see it.")
    else:
        for line in compile_notes(config, asked.topology):
            _say(line)
    configs = read_configs(config)
    for line in assumptions(config, asked):
        _say(line)

    def answer(changed: Any, program: str) -> Plan:
        request = Request(
            recipe, changed, configs, asked.topology, program, asked.caption_count, asked.full, asked.image_count
        )
        with _stopped_by_signals():
            return remembering(measure, request)

    plans, failed = _plans(asked, lambda program: answer(config, program))
    in_order = ["train", *(program for program in asked.programs if program != "train" and program not in failed)]

    def answer_all(changed: Any) -> Plan:
        return search.first_that_does_not_fit(answer(changed, program) for program in in_order)

    tried = search.largest_batch(config, _told(answer_all)) if asked.largest_batch else []
    if asked.largest_batch and not asked.json:
        print("\n".join([*map(table.attempt_line, tried), table.largest_text(tried)]))
    too_big = next((plan for plan in plans if not plan.fits), None)
    advice: list[search.Attempt] = []
    if asked.advise and too_big is not None:
        for attempt in search.advise(config, too_big, answer_all):
            advice.append(attempt)
            print(table.attempt_line(attempt), file=sys.stderr if asked.json else sys.stdout, flush=True)
    if asked.json:
        print(json.dumps(_as_json(plans, failed, tried, advice), indent=1))
        return 1 if failed else 0
    if advice or (asked.advise and not failed):
        print(table.advice_text(advice))
    print(table.limits_text())
    return 1 if failed else 0


def assumptions(config: Any, asked: PlanConfig) -> list[str]:
    """What the plan takes for granted of the pictures, which it does not look at."""
    from flaxdream.planning.image_size import largest_size

    few = asked.image_count == asked.caption_count == 1
    if isinstance(config, VaeConfig):
        return [] if few else ["--image_count and --caption_count have no effect: a VAE's training keeps no latents."]
    if few:
        lines = ["Few pictures and captions are assumed; --image_count and --caption_count say otherwise."]
    else:
        lines = [f"Assumed: {asked.image_count} pictures with {asked.caption_count} different captions."]
    height, width = largest_size(config)
    if height * width != config.resolution**2:
        lines.append(
            f"Every picture is taken to be of the largest bucket, {width} x {height}: that is the most memory and time "
            "that a step can need."
        )
    return lines


def _plans(asked: PlanConfig, answer: Callable[[str], Any]) -> tuple[list[Any], dict[str, str]]:
    """The plans of the programs, printed as they come, and the errors of those that the compiler failed at."""
    from flaxdream.planning import table
    from flaxdream.planning.measuring import CompileError

    plans: list[Any] = []
    failed: dict[str, str] = {}
    for program in asked.programs:
        _say(f"compiling {program} for {asked.topology} ...")
        try:
            plans.append(answer(program))
        except CompileError as error:
            failed[program] = str(error)
            _say(f"flaxdream plan: {program}: {error}")
            continue
        if not asked.json:
            print(table.plan_text(plans[-1]))
    return plans, failed


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the process by an exception: the one that compiles is ended too, and its folder goes."""
    numbers = [number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) != signal.SIG_IGN]
    if threading.current_thread() is not threading.main_thread():  # which alone is told of signals
        numbers = []
    before = {number: signal.signal(number, _stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, frame: Any) -> NoReturn:
    _say(f"flaxdream plan: {'interrupted' if number == signal.SIGINT else 'told to end'}")
    raise SystemExit(128 + number)


def _batch_problems(config: Any, devices: int) -> list[str]:
    from flaxdream.config.run_checks import batch_problems

    return batch_problems(config, devices)


def _told(answer: Any) -> Any:
    """`answer`, with a line for each batch size that is tried."""

    def measure(config: Any) -> Any:
        _say(f"trying --train_batch_size {config.train_batch_size} ...")
        return answer(config)

    return measure


def _as_json(plans: list[Any], failed: dict[str, str], tried: list[Any], advice: list[Any]) -> dict[str, Any]:
    from flaxdream.planning import search, table

    largest = search.best(tried)
    return {
        "plans": [plan.as_dict() for plan in plans],
        "failed": failed,
        "largest_batch": None if largest is None else largest.changes["train_batch_size"],
        "tried": [one.as_dict() for one in tried],
        "advice": [one.as_dict() for one in advice],
        "limits": table.LIMITS,
    }


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
