"""What training cuts away from each picture: as squares, or in aspect-ratio buckets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flaxdream.data.buckets import BucketPlan

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class Cuts:
    """By picture: the size it is cut to (0, 0 where it is not trained on), the share that is lost, and the scale."""

    targets: Int[np.ndarray, "n 2"]
    cropped: Float[np.ndarray, " n"]
    scales: Float[np.ndarray, " n"]
    """Over 1 the picture is enlarged; 0 where it is not trained on."""

    @property
    def trained(self) -> Int[np.ndarray, " k"]:
        """The pictures that are trained on."""
        return np.flatnonzero(self.targets.min(axis=1) > 0)

    @property
    def mean_cropped(self) -> float:
        """Of the pictures that are trained on; 0 if there are none."""
        return float(self.cropped[self.trained].mean()) if len(self.trained) else 0.0


def square_cuts(sizes: Int[np.ndarray, "n 2"], resolution: int) -> Cuts:
    """Every picture that can be read (size above 0), cut to a square."""
    targets = np.where(sizes.min(axis=1, keepdims=True) > 0, resolution, 0) * np.ones(2, np.int64)
    return _cuts(sizes, targets)


def bucket_cuts(sizes: Int[np.ndarray, "n 2"], plan: BucketPlan) -> Cuts:
    """Every picture that the plan does not leave out, cut to its bucket."""
    targets = np.array([*(use.size for use in plan.buckets), (0, 0)], np.int64)[plan.bucket_of]
    return _cuts(sizes, targets)


def _cuts(sizes: Int[np.ndarray, "n 2"], targets: Int[np.ndarray, "n 2"]) -> Cuts:
    trained = targets.min(axis=1) > 0
    whole = np.where(trained[:, None], sizes, 1).astype(np.float64)
    scales = (targets / whole).max(axis=1)
    kept = targets.prod(axis=1) / (whole.prod(axis=1) * np.maximum(scales, 1e-9) ** 2)
    return Cuts(targets, np.where(trained, np.maximum(0.0, 1 - kept), 0.0), np.where(trained, scales, 0.0))
