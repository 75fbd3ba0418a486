"""Where each host stands in a stream of pictures, for checkpoints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from flaxdream.data.rows import RowSource
from flaxdream.data.streamed import StreamedRows

Place = Mapping[str, Any]  # what `StreamedRows.state` gives


def of_all_hosts(source: StreamedRows, step: int) -> list[Place]:
    """Each host's place at the start of a step, the same list on all of them; all have to ask."""
    here = source.state(step)
    if jax.process_count() == 1:
        return [here]
    text = np.frombuffer(json.dumps(here).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(text)))
    texts = multihost_utils.process_allgather(np.pad(text, (0, int(lengths.max()) - len(text))))
    return [json.loads(bytes(text[:length])) for text, length in zip(texts, lengths)]


def go_on(source: RowSource, places: Sequence[Place] | None) -> None:
    """Puts the stream back to where a checkpoint found it; nothing to do for sources of random access.

    Raises ValueError where the checkpoint was made without a stream, or by another number of hosts.
    """
    if not isinstance(source, StreamedRows):
        return
    if places is None:
        raise ValueError("The checkpoint was made without --streaming and knows no place in the stream: leave it out.")
    if len(places) != jax.process_count():
        raise ValueError(
            f"{source.name}: the places in the stream were stored by {len(places)} hosts; here are "
            f"{jax.process_count()}. Go on with as many, or start anew."
        )
    source.restore(places[jax.process_index()])
