"""The whole command in half precision: losses near float32's, and resumed as exactly as in float32.

Each run is a process: XLA takes 2.8 GB to compile the float16 step for a CPU.
"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from tests.training.whole_runs import arguments, finish, make_inputs, metrics, tensors, weight_files

pytestmark = pytest.mark.slow

SETTINGS = {"max_train_steps": 6, "checkpointing_steps": 3, "train_text_encoder": True, "learning_rate": 1e-5}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return make_inputs(tmp_path_factory.mktemp("precision"))


@pytest.fixture(scope="module")
def exact(inputs):
    finish(arguments(inputs, inputs / "float32", **SETTINGS))
    return inputs / "float32"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_follows_float32_and_goes_on_where_it_was_stopped(inputs, exact, tmp_path, precision):
    settings = SETTINGS | {"mixed_precision": precision}
    finish(arguments(inputs, tmp_path / "whole", **settings))
    rows, wanted = metrics(tmp_path / "whole"), metrics(exact)
    losses = np.array([row["loss"] for row in rows])
    assert np.isfinite(losses).all()
    # float16 has 11 bits, bfloat16 has 8; the networks are a few dozen layers deep
    np.testing.assert_allclose(losses, [row["loss"] for row in wanted], rtol={"fp16": 0.005, "bf16": 0.04}[precision])
    scales = [row.get("loss_scale") for row in rows]
    assert scales == ([65536] * 6 if precision == "fp16" else [None] * 6)
    assert {array.dtype for array in tensors(tmp_path / "whole").values()} == {np.dtype(np.float32)}

    shutil.copytree(tmp_path / "whole/checkpoint-3", tmp_path / "resumed/checkpoint-3")
    finish(arguments(inputs, tmp_path / "resumed", resume_from_checkpoint="latest", **settings))
    assert [row["loss"] for row in metrics(tmp_path / "resumed")] == losses[3:].tolist()
    assert weight_files(tmp_path / "resumed") == weight_files(tmp_path / "whole")
