"""What pictures there are: counts and ranges, for a report."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from flaxdream.data.examined import Examined

SQUARE = 1.05  # longer to shorter side up to which a picture counts as square


def picture_facts(seen: Examined) -> dict[str, Any]:
    """Numbers by name; ranges are least, median and most. Nothing but counts if no picture can be read."""
    readable = seen.readable
    formats = Counter(header.format for header in seen.headers if header is not None)
    facts: dict[str, Any] = {"readable": len(readable), "formats": dict(formats.most_common())}
    if not len(readable):
        return facts
    sizes = seen.sizes[readable]
    ratios = sizes[:, 1] / sizes[:, 0]
    facts["shorter_side"] = spread(sizes.min(axis=1))
    facts["longer_side"] = spread(sizes.max(axis=1))
    facts["width_to_height"] = spread(ratios)
    facts["shapes"] = {
        "landscape": int((ratios > SQUARE).sum()),
        "square": int(((ratios <= SQUARE) & (ratios >= 1 / SQUARE)).sum()),
        "portrait": int((ratios < 1 / SQUARE).sum()),
    }
    facts["sharpness"] = spread(seen.sharpness[np.isfinite(seen.sharpness)])
    return facts


def spread(values: np.ndarray) -> dict[str, float]:
    """Least, median and most, rounded to what can be read; nothing of nothing."""
    if not len(values):
        return {}
    numbers = (values.min(), np.median(values), values.max())
    return {name: round(float(number), 2) for name, number in zip(("least", "median", "most"), numbers)}
