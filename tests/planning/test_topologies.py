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
        ("v5p", 4, "v5p:2x2x1"),
        ("v5litepod", 8, "v5e:2x4"),
        ("v4-4096", 2048, "v4:8x16x16"),
        ("v5p-12288", 6144, "v5p:16x16x24"),
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


@pytest.mark.parametrize(
    ("kind", "name", "bandwidth"),
    [
        ("NVIDIA A100-SXM4-40GB", "A100", 1555e9),
        ("NVIDIA A100-SXM4-80GB", "A100 80 GB", 2039e9),
        ("NVIDIA A100-SXM-80GB", "A100 80 GB", 2039e9),
        ("NVIDIA A100 80GB PCIe", "A100 80 GB PCIe", 1935e9),
        ("NVIDIA H100 PCIe", "H100 PCIe", 2000e9),
        ("NVIDIA L40", "L40", 864e9),
        ("NVIDIA L40S", "L40S", 864e9),
        ("NVIDIA L4", "L4", 300e9),
        ("Tesla T4", "T4", 320e9),
        ("Tesla V100-SXM2-16GB", "V100", 900e9),
    ],
)
def test_a_card_has_the_figures_of_its_own_model(kind, name, bandwidth):
    chip = attached("gpu", kind, 1, None).chip
    assert (chip.name, chip.bandwidth) == (name, bandwidth)


@pytest.mark.parametrize("kind", ["NVIDIA RTX A1000 Laptop GPU", "NVIDIA T400 4GB", "NVIDIA GH200 480GB"])
def test_a_card_whose_name_only_begins_or_ends_as_a_known_one_is_not_known(kind):
    chip = attached("gpu", kind, 1, None).chip
    assert chip.name == kind and math.isnan(chip.peak)
