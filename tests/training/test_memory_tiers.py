"""The ways to save memory, put together: the exact ones change no loss, the others stay near.

Each policy of gradient checkpointing has two runs, and each of the other settings has one value in the first and its
other value in the second, in a pattern of its own. So every two values of two settings meet in some run.
"""

from __future__ import annotations

import itertools

import jax
import numpy as np
import pytest

from flaxdream.cli import main
from flaxdream.models import attention, build
from flaxdream.models.attention_chunked import chunked
from flaxdream.training import adam_8bit, mesh
from flaxdream.training.recipes import step_inputs
from tests.training.smallest_model import CONFIGS
from tests.training.whole_runs import arguments, make_inputs, metrics, tensors

# 16 instance and 16 class rows a step, 4 on each device; what is not said here is at its default: nothing saved.
SETTINGS = {"center_crop": True, "use_ema": True, "max_train_steps": 4, "checkpointing_steps": 0}
TIERS = {
    "fsdp": ({"fsdp": 4}, {"fsdp": 8}),
    "accumulation": ({"train_batch_size": 2}, {"train_batch_size": 1, "gradient_accumulation_steps": 2}),
    "optimizer": ({}, {"offload_optimizer": True}),
    "average": ({}, {"offload_ema": True}),
    "attention": ({"attention": "xla"}, {"attention": "chunked"}),
    "latents": ({"cache_latents": "no", "vae_slicing": True}, {"latents_cache_dir": "latents"}),
    "text": ({}, {"text": "too many captions to keep their states on the device"}),
}
# Of each policy's two runs, which value every one of TIERS has in the first; no two columns are alike or opposite.
PATTERNS = {
    "dots": (0, 0, 0, 0, 0, 0, 0),
    "blocks": (0, 0, 1, 1, 0, 0, 1),
    "full": (0, 1, 0, 1, 0, 1, 0),
    "offload": (0, 1, 1, 0, 1, 0, 0),
}
RUNS = [(policy, tuple(bit ^ flip for bit in pattern)) for policy, pattern in PATTERNS.items() for flip in (0, 1)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("tiers"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is for large models alone also happens to the smallest one."""
    monkeypatch.setattr(mesh, "SMALLEST_SHARDED", 256)
    monkeypatch.setattr(adam_8bit, "MIN_SIZE", 256)
    monkeypatch.setattr(adam_8bit, "MIN_BLOCK", 8)
    monkeypatch.setattr(attention, "CHUNK", 16)
    monkeypatch.setattr(attention, "chunked", lambda q, k, v, scale: chunked(q, k, v, scale, 16))


@pytest.fixture
def run(inputs, tmp_path, monkeypatch):
    def run(policy, bits, **changes):
        for pair, bit in zip(TIERS.values(), bits, strict=True):
            changes |= pair[bit]
        if changes.pop("text", None):
            monkeypatch.setattr(step_inputs, "CONTEXT_ON_DEVICE", 0)
        if "latents_cache_dir" in changes:
            changes |= {"latents_cache_dir": tmp_path / "latents"}
        changes |= {"gradient_checkpointing_policy": policy}
        assert main(arguments(inputs, tmp_path / "out", **SETTINGS | changes)) == 0
        return tmp_path / "out"

    return run


@pytest.fixture(scope="module")
def plain(inputs):
    assert main(arguments(inputs, inputs / "plain", **SETTINGS, train_batch_size=2)) == 0
    return inputs / "plain"


def losses(folder):
    return np.array([row["loss"] for row in metrics(folder)])


def distance(inputs, folder, other):
    """How far the written weights are apart, as a share of the way that the training took them."""
    before, ours, theirs = (tensors(path) for path in (inputs / "model", folder, other))
    names = [name for name in ours if name.startswith("unet.")]

    def apart(a, b):
        return sum(float(np.abs(a[name].astype(np.float32) - b[name].astype(np.float32)).sum()) for name in names)

    return apart(ours, theirs) / apart(theirs, before)


def test_every_two_values_of_two_settings_meet_in_a_run():
    rows = [(policy, *bits) for policy, bits in RUNS]
    for a, b in itertools.combinations(range(1 + len(TIERS)), 2):
        values = ({row[a] for row in rows}, {row[b] for row in rows})
        assert {(row[a], row[b]) for row in rows} == set(itertools.product(*values))


def test_most_of_the_smallest_model_is_cut():
    shapes = build(CONFIGS["unet"]).shapes
    for parts in (4, 8):
        places = mesh.param_shardings(shapes, mesh.make_mesh(parts))
        pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True)
        sizes = [(leaf.size, place.is_fully_replicated) for leaf, place in pairs]
        assert sum(size for size, whole in sizes if not whole) > 0.9 * sum(size for size, _ in sizes)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "bits"), RUNS, ids=lambda value: value if isinstance(value, str) else str(value))
def test_exact_ways_put_together_change_nothing(inputs, plain, run, policy, bits):
    found, wanted = losses(folder := run(policy, bits)), losses(plain)
    apart = distance(inputs, folder, plain)
    print("losses", np.abs(found / wanted - 1).max(), "weights", apart)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert apart < 1e-3


# 8-bit moments: the first two steps start from moments of zero, which are exact; later ones are off by half a level, a
# few per cent of an element's step, and their mean stays (seen: 6e-5). bfloat16 parameters: 8 bits, so the weights
# differ by 0.2 % at most from the start, and each step's rounding is within one unit of the last place
# (seen: 3e-4 of the losses, a tenth of the way of the weights).
INEXACT = {
    "8-bit adam": ({"use_8bit_adam": True, "ema_dtype": "bfloat16"}, 3e-4, 0.3),
    "all": ({"use_8bit_adam": True, "ema_dtype": "bfloat16", "params_dtype": "bfloat16"}, 1.5e-3, 0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "kind"), [("full", "8-bit adam"), ("none", "all")])
def test_inexact_ways_on_top_of_all_others_stay_near(inputs, plain, run, policy, kind):
    changes, near, far = INEXACT[kind]
    folder = run(policy, (1, 1, 1, 1, 1, 0, 1), **changes)
    found, wanted = losses(folder), losses(plain)
    apart = distance(inputs, folder, plain)
    print("losses", np.abs(found / wanted - 1), "weights", apart)
    assert np.isfinite(found).all() and not np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, rtol=near)
    assert apart < far
