"""What the compiler says when a program does not fit."""

from __future__ import annotations

import pytest

from flaxdream.planning.refusals import refusal

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (40.25G) "
            "exceeds available HBM (15.75G).",
            40.25 * GIB,
            15.75 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 17.62G "
            "of 15.75G hbm. Exceeded hbm capacity by 1.87G.\n\nTotal hbm usage >= 17.87G:",
            17.62 * GIB,
            15.75 * GIB,
        ),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1234 bytes.", None, None),
    ],
)
def test_the_bytes_that_it_needs_and_has_are_read(message, needed, available):
    found = refusal(message)
    assert (found.needed, found.available) == (needed, available)


def test_other_errors_are_no_refusal():
    assert refusal("INVALID_ARGUMENT: Mosaic failed to compile: bf16 operands") is None
