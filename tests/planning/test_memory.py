"""A device's memory by kind."""

from __future__ import annotations

import dataclasses

import pytest

from flaxdream.planning.buffers import Buffers, from_dump
from flaxdream.planning.memory import kind_of, memory
from tests.planning.programs_text import ROW, WEIGHT

ASSIGNMENT = """BufferAssignment:
allocation 0: size 512, thread-local:
allocation 1: size 2097152, parameter 4, shape |f32[4,32,32,128]| at ShapeIndex {}:
 value: <607 param.3 @0> (size=2097152,offset=0): f32[4,32,32,128]{3,2,1,0:T(8,128)}
allocation 2: size 294912, parameter 1, shape |f32[3,3,128,64]| at ShapeIndex {}, maybe-live-out:
allocation 6: size 512, color 5, parameter 0, shape |f32[128]| at ShapeIndex {}, maybe-live-out:
allocation 7: size 1024, output shape is |(f32[128], f32[3,3,128,64])|, maybe-live-out:
allocation 33: size 393728, preallocated-temp:
allocation 37: size 11649536, color 1, preallocated-temp:
"""
# The compiler's own table of the tuple is no argument.
IN_A_TUPLE = """BufferAssignment:
allocation 1: size 2097152, parameter 0, shape |f32[4,32,32,128]| at ShapeIndex {2065}, maybe-live-out:
allocation 2: size 294912, parameter 0, shape |f32[3,3,128,64]| at ShapeIndex {1}, maybe-live-out:
allocation 3: size 16536, parameter 0, shape |(f32[128], f32[3,3,128,64], f32[4,32,32,128])| at ShapeIndex {}:
allocation 6: size 512, color 5, parameter 0, shape |f32[128]| at ShapeIndex {0}, maybe-live-out:
allocation 7: size 1024, output shape is |(f32[128], f32[3,3,128,64])|, maybe-live-out:
"""
USAGE = """Memory Space: default (color=0)
Total bytes: 2800000 (2.67MiB)
  cumulative_size;       size;
Memory Space: vmem (color=1)
Total bytes: 11649536 (11.11MiB)
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("state['params']['unet']['conv_in']['kernel']", "parameters"),
        ("state['opt_state'].inner[0].mu['unet']", "optimizer"),
        ("state['ema'].params['unet']", "EMA"),
        ("state['step']", "counters"),
        ("frozen['vae']['encoder']", "frozen"),
        ("batch['pixels']", "batch"),
        ("params['unet']", "parameters"),
        ("ids_bs", "inputs"),
    ],
)
def test_an_arguments_path_says_what_it_is(path, kind):
    assert kind_of(path) == kind


def test_buffers_are_those_of_the_devices_own_memory():
    found = from_dump(ASSIGNMENT, USAGE)
    assert found.arguments == {4: 2097152, 1: 294912}
    assert found.host_arguments == {0: 512}
    assert (found.results, found.temporaries, found.code) == (1024, 2800000 - 2097152 - 294912 - 1024, None)
    assert found.host_temporaries == 0


def test_what_a_program_keeps_in_the_hosts_memory_for_a_while_is_counted_there():
    kept = ASSIGNMENT + "allocation 38: size 245760, color 5, preallocated-temp:\n"
    found, without = from_dump(kept, USAGE), from_dump(ASSIGNMENT, USAGE)
    assert found == dataclasses.replace(without, host_temporaries=245760)
    paths = [f"state['params']['{number}']" for number in range(5)]
    assert memory(found, dict.fromkeys(paths, 1), paths).host == 512 + 245760


def test_arguments_that_the_program_drops_lie_on_the_device_all_the_same():
    buffers = Buffers({0: WEIGHT, 1: ROW}, {}, 10, 100, 7)
    arguments = {"frozen['vae']['decoder']": 5000, "state['params']['w']": WEIGHT, "batch['x']": ROW}
    found = memory(buffers, arguments, ("state['params']['w']", "batch['x']"))
    assert found.kinds == {"parameters": WEIGHT, "batch": ROW}
    assert (found.unused, found.total) == (5000, WEIGHT + ROW + 5000 + 10 + 100 + 7)


def test_batches_that_wait_are_counted_with_the_one_in_use():
    buffers = Buffers({0: WEIGHT, 1: ROW}, {}, 10, 100, 7)
    arguments = {"state['params']['w']": WEIGHT, "batch['x']": ROW, "waiting[0]['x']": ROW, "waiting[1]['x']": ROW}
    found = memory(buffers, arguments, ("state['params']['w']", "batch['x']"))
    assert found.kinds == {"parameters": WEIGHT, "batch": 3 * ROW} and found.unused == 0


def test_thousands_of_arguments_are_one_tuple_whose_places_are_their_numbers():
    found = from_dump(IN_A_TUPLE, USAGE)
    assert found.arguments == {2065: 2097152, 1: 294912}
    assert found.host_arguments == {0: 512}
    assert (found.results, found.temporaries) == (1024, 2800000 - 2097152 - 294912 - 1024)
