"""The axis legend and the array types of every signature.

Axis letters: `b` rows, `H W` pixels, `h w` latent cells, `c` channels, `l` = h*w tokens, `s` text tokens,
`d` width, `n` heads, `k` head width, `T` noise levels. Signatures spell shapes with jaxtyping
(`Float[Array, "b h w c"]`); bodies carry them as suffixes (`x0_bhwc`, `q_blnk`, `loss_b`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array, ShapeDtypeStruct
from jaxtyping import Bool, Float, Int, Key, PyTree, Shaped

# A nested dict whose keys are all strings and whose leaves are arrays; the path joined by "." is the
# tensor's name in the state dict, but for the last word (kernel, scale and embedding are `weight` there).
Params = dict[str, Any]
Shapes = dict[str, Any]  # the same tree with jax.ShapeDtypeStruct leaves

LANES = 128  # columns of a TPU's register: the last axis of an array lies in whole ones

__all__ = [
    "LANES", "Array", "Bool", "Float", "Int", "Key", "Params", "PyTree", "ShapeDtypeStruct", "Shaped", "Shapes", "np",
]  # fmt: skip
