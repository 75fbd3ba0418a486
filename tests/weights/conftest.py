"""A tiny model: its networks, random parameters and its folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from flaxdream.arrays import Params, Shapes
from flaxdream.models import Network, build
from flaxdream.models.architectures import ARCHITECTURES
from flaxdream.weights.model_dir import write_model_dir
from flaxdream.weights.tokenizer import write_clip_tokenizer

NETWORKS = ("unet", "vae", "text_encoder")


def random_params(shapes: Shapes, seed: int = 0, dtype: type = np.float32) -> Params:
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jax.numpy.asarray(generator.standard_normal(leaf.shape).astype(dtype)), shapes)


def assert_equal(left: Params, right: Params) -> None:
    """Same keys, same types, same bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right)):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


@pytest.fixture(scope="session")
def networks() -> dict[str, Network]:
    return {name: build(ARCHITECTURES["tiny"][name]) for name in NETWORKS}


@pytest.fixture(scope="session")
def params(networks) -> dict[str, Params]:
    return {name: random_params(network.shapes, seed) for seed, (name, network) in enumerate(networks.items())}


@pytest.fixture(scope="session")
def model_source(tmp_path_factory, params) -> Path:
    folder = tmp_path_factory.mktemp("source") / "model"
    write_model_dir(
        folder,
        params=params,
        configs=ARCHITECTURES["tiny"],
        extra=lambda new: write_clip_tokenizer(new / "tokenizer"),
    )
    return folder


@pytest.fixture
def model(tmp_path, model_source) -> Path:
    """A copy of the tiny model's folder, to be damaged."""
    return Path(shutil.copytree(model_source, tmp_path / "model"))
