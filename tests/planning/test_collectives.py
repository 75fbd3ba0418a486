"""Transfers between devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from flaxdream.planning.collectives import Collective, collectives, group_size, totals
from flaxdream.planning.hlo_text import parse
from tests.planning.programs_text import LOOP, LOOPS, ROW


def test_a_transfer_in_a_loop_counts_each_time():
    (found,) = collectives(parse(LOOP))
    assert found == Collective("all-reduce", ROW, 4, LOOPS)
    assert totals([found]) == {"all-reduce": (LOOPS, LOOPS * ROW)}


SENT = next(line for line in LOOP.splitlines() if "%sent = " in line)


def test_one_transfer_spread_over_several_fusions_counts_once():
    parts = "".join(
        f"""%part.{n} (p{n}: f32[8,16]) -> f32[8,16] {{
  %p{n} = f32[8,16]{{1,0}} parameter(0)
  {SENT.strip().replace("%sent", f"ROOT %r{n}").replace("(%y)", f"(%p{n})")}
}}

"""
        for n in range(2)
    )
    fusions = "".join(
        f"  %{name} = f32[8,16]{{1,0}} fusion(%y), kind=kLoop, calls=%part.{n}\n"
        for n, name in enumerate(("started", "sent"))
    )
    spread = LOOP.replace(SENT + "\n", fusions).replace("%sum (", parts + "%sum (", 1)
    assert "all-reduce(%y)" not in spread and collectives(parse(spread)) == collectives(parse(LOOP))


def test_transfers_with_one_channel_that_are_not_in_fusions_are_several():
    """The compiler gives the number 1 to all that it makes itself."""
    twice = LOOP.replace(SENT, SENT + "\n" + SENT.replace("%sent", "%other"))
    assert collectives(parse(twice)) == 2 * collectives(parse(LOOP))


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("replica_groups={{0,1},{2,3}}", 2),
        ("replica_groups=[2,4]<=[8]", 4),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", 2),
        ("replica_groups=mesh['a'=1,'b'=2,'c'=4], device_ids=([4,2]T(1,0)) {'b','c'}, dimensions={3}", 8),
        ("source_target_pairs={{0,1},{1,2},{2,0}}", 3),
        ("", 1),
    ],
)
def test_the_devices_of_a_group_are_read_from_every_notation(text, devices):
    assert group_size(text) == devices


def test_a_ring_sends_twice_for_an_all_reduce_and_once_for_the_others():
    assert Collective("all-reduce", 100.0, 4, 1.0).sent == 150
    assert Collective("all-gather", 100.0, 4, 2.0).sent == 150
    assert Collective("reduce-scatter", 100.0, 4, 1.0).sent == 75


def test_the_gradient_of_a_replicated_weight_is_reduced_over_all_devices_once():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    x = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    w = jax.ShapeDtypeStruct((32, 64), jnp.float32, sharding=NamedSharding(mesh, P()))
    gradient = jax.jit(jax.grad(lambda w, x: jnp.square(x @ w).sum()), out_shardings=NamedSharding(mesh, P()))
    assert totals(collectives(parse(gradient.lower(w, x).compile().as_text()))) == {"all-reduce": (1, 32 * 64 * 4)}
