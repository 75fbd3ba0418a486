"""What is read of a lowered program."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flaxdream.planning.buffers import from_analysis
from flaxdream.planning.compiling import kept_arguments
from flaxdream.planning.held_bytes import bytes_by_path
from flaxdream.planning.hlo_text import parse
from flaxdream.planning.memory import memory


def lowered():
    def step(state, frozen):
        return {"b": state["b"] * 2, 'a "c"': state['a "c"'] + frozen["x"][1].sum()}

    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    rows = {size: jax.ShapeDtypeStruct((size,), jnp.float32, sharding=device) for size in (3, 5, 7, 11)}
    arguments = {'a "c"': rows[3], "b": rows[5], "dropped": rows[7]}, {"x": (rows[7], rows[11])}
    return jax.jit(step).lower(*arguments), bytes_by_path(dict(zip(("state", "frozen"), arguments)))


def test_the_arguments_that_a_program_reads_are_named_in_its_order():
    program, held = lowered()
    kept = kept_arguments(program)
    assert kept == ("state['a \"c\"']", "state['b']", "frozen['x'][1]")
    assert set(kept) < set(held)


def test_their_bytes_are_told_by_the_compiled_program():
    program, held = lowered()
    done = program.compile()
    buffers = from_analysis(done.memory_analysis(), parse(done.as_text()))
    assert buffers.arguments == {0: 12, 1: 20, 2: 44}
    found = memory(buffers, held, kept_arguments(program))
    assert (found.kinds, found.unused) == ({"counters": 32, "frozen": 44}, 2 * 28)
