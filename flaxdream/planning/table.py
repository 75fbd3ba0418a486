"""Plans as text."""

from __future__ import annotations

import math
import textwrap

from flaxdream.planning.memory import Memory
from flaxdream.planning.plan import Plan
from flaxdream.planning.roofline import SOURCE
from flaxdream.planning.search import LARGEST, Attempt, best

WIDTH, NAME, NUMBER = 118, 30, 16
_WORDS = {
    "parameters": "parameters", "optimizer": "optimizer", "EMA": "moving average", "frozen": "what does not train",
    "batch": "batch, and two that wait", "inputs": "inputs", "counters": "counters",
}  # fmt: skip
_ANSWERS = {True: "yes", False: "NO", None: "not known"}
LIMITS = (
    "The memory is the compiler's own; the size of the code is guessed by the program's products where --full is not "
    f"asked for. The time is an estimate by {SOURCE}"
)


def plan_text(plan: Plan) -> str:
    """The table of one program."""
    head = f"{plan.program} on {plan.machine}: {plan.devices} x {plan.chip}, {plan.images} pictures a step"
    return "\n".join([head, *_memory_lines(plan), *_work_lines(plan), ""])


def limits_text() -> str:
    """Where the numbers come from and what they do not know."""
    return textwrap.fill(LIMITS, WIDTH)


def attempt_line(attempt: Attempt) -> str:
    """One line: what was tried, whether it fits, memory and time; or the last line of the error."""
    words = _words(attempt)
    plan = attempt.plan
    if plan is None:
        return f"failed   {words}: {(attempt.error or '').splitlines()[-1]}"
    needed = "" if plan.needed is None else f", {_needed(plan)}"
    where = "" if plan.program == "train" else f" ({plan.program})"
    return f"{'fits    ' if plan.fits else 'too big '} {words}{where}{needed}{_speed(plan)}"


def largest_text(attempts: list[Attempt]) -> str:
    """What the search for the largest batch found."""
    found = best(attempts)
    if found is None or found.plan is None:
        if any(one.plan is None for one in attempts):
            return "No batch is known to fit: the compiler failed."
        return "No batch fits, not even --train_batch_size 1; --advise tries what to change."
    batch = found.changes["train_batch_size"]
    if batch == LARGEST:
        return f"At least --train_batch_size {batch} fits{_speed(found.plan)}; larger ones were not tried."
    return f"Largest that fits: --train_batch_size {batch}{_speed(found.plan)}."


def advice_text(attempts: list[Attempt]) -> str:
    """What the search for advice found."""
    if not attempts:
        return "It fits as it is: nothing to advise."
    fitting = [_words(one) for one in attempts if one.fits]
    return f"Enough: {'; or '.join(fitting)}." if fitting else "None of these is enough: a larger machine is needed."


def size(count: float) -> str:
    """Bytes in GiB, MiB or KiB."""
    for unit, step in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= step:
            return f"{count / step:.2f} {unit}"
    return f"{count:.0f} B"


def _memory_lines(plan: Plan) -> list[str]:
    lines = [_line("fits", _ANSWERS[plan.fits], f"{_needed(plan)} a device{_unknown(plan)}")]
    if plan.refusal is not None:
        lines += textwrap.wrap(f"the compiler: {plan.refusal}", WIDTH, initial_indent="  ")
    if plan.memory is None:
        return lines
    what = "gradients, activations" if plan.program == "train" else "activations"
    return lines + memory_lines(plan.memory, what)


def memory_lines(lies: Memory, temporaries: str) -> list[str]:
    """A line for each kind of what lies on a device; `temporaries` says what those are."""
    lines = [_line(_WORDS.get(kind, kind), size(count)) for kind, count in lies.kinds.items()]
    if lies.unused:
        lines.append(_line("not used by this program", size(lies.unused), "but on the device"))
    lines.append(_line("temporaries", size(lies.temporaries), temporaries))
    lines.append(_line("results", size(lies.results), "that take no argument's place"))
    lines.append(_line("program code", "not known without --full" if lies.code is None else size(lies.code)))
    if lies.host:
        lines.append(_line("in the host's memory", size(lies.host), "for each device"))
    return lines


def _work_lines(plan: Plan) -> list[str]:
    cost = plan.estimate
    if cost is None:
        return []
    kernels = f"{_count(cost.kernel_flops)} of them in kernels" if cost.kernel_flops else ""
    lines = [
        _line("operations", f"{_count(cost.flops)}FLOP", kernels or "matrix products and convolutions, a device"),
        _line("memory traffic", f"{cost.bytes / 1e9:.1f} GB", "a device"),
    ]
    for kind, (count, total) in plan.collectives.items():
        lines.append(_line(kind, size(total), f"in {count:.0f}"))
    if math.isfinite(cost.seconds):
        share = f"{cost.peak_share:.0%} of the peak"
        lines.append(_line("estimated step", _time(cost.seconds), f"{plan.images_per_second:.3g} pictures/s, {share}"))
        if cost.scheduled_seconds is not None:
            lines.append(_line("  the compiler's schedule", _time(cost.scheduled_seconds), "for ranking"))
        if plan.collectives:
            longer = ", which they outlast: they are the bound" if cost.link_seconds > cost.seconds else ""
            remark = f"if nothing hides them; at best within the step{longer}"
            lines.append(_line("  transfers beside it", _time(cost.link_seconds), remark))
        if plan.memory is not None and plan.memory.host:
            lines.append(
                _line("  the host beside it", "not known", f"{size(plan.memory.host)} come and go in each step")
            )
    else:
        lines.append(_line("estimated step", "none", "the speed of this device is in no table"))
    part = "" if plan.has_code else "until the memory was planned; code generation takes several times that"
    lines.append(_line("compile time", _time(plan.compile_seconds), part))
    return lines


def _line(name: str, value: str, remark: str = "") -> str:
    return f"  {name:<{NAME}}{value:>{NUMBER}}  {remark}".rstrip()


def _needed(plan: Plan) -> str:
    needed = "an amount that the compiler does not name" if plan.needed is None else size(plan.needed)
    code = f" and about {size(plan.code_guess)} of code" if plan.code_guess else ""
    return f"{needed}{code}{_of(plan.limit)}"


def _unknown(plan: Plan) -> str:
    return f"; the memory of {plan.chip} is not known" if plan.fits is None else ""


def _of(limit: float) -> str:
    return f" of {size(limit)}" if math.isfinite(limit) else ""


def _speed(plan: Plan) -> str:
    cost = plan.estimate
    if cost is None or not math.isfinite(cost.seconds):
        return ""
    left_out = " without what comes from the host" if plan.memory is not None and plan.memory.host else ""
    return f", about {_time(cost.seconds)} a step, {plan.images_per_second:.3g} pictures/s{left_out}"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def _count(value: float) -> str:
    for unit, step in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= step:
            return f"{value / step:.3g} {unit}"
    return f"{value:.3g} "


def _words(attempt: Attempt) -> str:
    return " ".join(_flag(name, value) for name, value in attempt.changes.items())


def _flag(name: str, value: object) -> str:
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no_{name}"
    return f"--{name} {value}"
