"""What lies on the devices while a run trains: the state, what the step reads, some batches, and nothing else."""

from __future__ import annotations

import gc

import jax
import pytest

from flaxdream.cli import main
from flaxdream.planning.told_step import ToldStep
from flaxdream.training.prefetch import AHEAD
from tests.training.whole_runs import arguments, make_inputs

SMALL = 4096  # bytes: losses, keys, counters
BATCHES = AHEAD + 1  # and one that is being made
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("memory"))


def buffers(arrays) -> dict[int, int]:
    """The bytes of each buffer of the arrays on the devices, by its address."""
    shards = [shard.data for array in arrays for shard in array.addressable_shards]
    return {shard.unsafe_buffer_pointer(): shard.nbytes for shard in shards}


@pytest.fixture
def beside_the_step(monkeypatch):
    """For each step the bytes on the devices that it was not handed, but for coming batches and other tests' arrays."""
    before, found = [*jax.live_arrays()], []
    step = ToldStep.__call__

    def call(self, state, frozen, batch):
        gc.collect()
        live = buffers(jax.live_arrays())
        known = buffers([*jax.tree.leaves((state, frozen, batch)), *before])
        coming = BATCHES * sum(buffers(batch.values()).values())
        found.append(sum(live[address] for address in live.keys() - known.keys()) - coming)
        return step(self, state, frozen, batch)

    monkeypatch.setattr(ToldStep, "__call__", call)
    return found


@pytest.mark.parametrize(
    "settings",
    [
        {"train_text_encoder": True},
        {"center_crop": True, "optimizer": "schedule_free", "params_dtype": "bfloat16"},
        {"center_crop": True, "use_ema": True, "validation_prompt": "a ball", "num_validation_images": 1},
    ],
    ids=["live", "cached", "validation"],
)
def test_nothing_lies_twice_and_nothing_idle(settings, inputs, tmp_path, beside_the_step):
    settings = settings | {"max_train_steps": 2, "checkpointing_steps": 2, "validation_num_inference_steps": 1}
    out = tmp_path / "out"
    assert main(arguments(inputs, out, **settings)) == 0
    assert main(arguments(inputs, out, **settings | {"max_train_steps": 4, "resume_from_checkpoint": "latest"})) == 0
    assert len(beside_the_step) == 4 and max(beside_the_step) < SMALL, beside_the_step
