"""Names of machines."""

from __future__ import annotations

import math

import pytest

from flaxdream.planning.topologies import MACHINES, attached, find


@pytest.mark.parametrize(
    ("name", "devices", "layout"),
    [
        ("v2-8", 8, "v2:2x2x1"),
        ("v3-8", 8, "v3:2x2"),
        ("v3-32", 32, "v3:4x4"),
        ("v4-8", 4, "v4:2x2x1"),
        ("v5e-1", 1, "v5e:1x1"),
        ("V5E-8", 8, "v5e:2x4"),
        ("v5litepod-16", 16, "v5e:4x4"),
        ("v5p-8", 4, "v5p:2x2x1"),
        ("v6e-4", 4, "v6e:2x2"),
        ("v6e-256", 256, "v6e:16x16"),
    ],
)
def test_cloud_names_are_machines(name, devices, layout):
    found = find(name)
    assert (found.devices, found.layout) == (devices, layout)


def test_a_machines_layout_has_its_chips():
    for machine in MACHINES.values():
        chips = math.prod(map(int, machine.layout.partition(":")[2].split("x")))
        assert machine.devices == chips * (2 if machine.name.startswith(("v2", "v3")) else 1), machine


def test_a_wrong_name_is_answered_with_the_list():
    with pytest.raises(ValueError, match=r"'v5e-9' is not known; perhaps you meant 'v5e-\d+'. TPUs: v2-8, .*gpu"):
        find("v5e-9")


def test_attached_cards_are_known_by_their_kind_and_others_have_no_peak():
    card = attached("gpu", "NVIDIA H100 80GB HBM3", 1, 70e9)
    assert (card.chip.peak, card.chip.memory) == (989e12, 70e9)
    assert math.isnan(attached("cpu", "cpu", 8, None).chip.peak)
