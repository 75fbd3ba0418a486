"""What the tests of the kernels share."""

from __future__ import annotations

import jax
import pytest
from jax import lax


@pytest.fixture(scope="module", params=["cpu", "elsewhere"])
def platform(request):
    """Runs a module's tests twice: with the forms that CPUs get and, on this CPU too, those of TPUs and GPUs."""
    if request.param == "cpu":
        yield request.param
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "platform_dependent", lambda *args, default, **others: default(*args))
        jax.clear_caches()
        yield request.param
    jax.clear_caches()


@pytest.fixture
def spread():
    """Puts an array's first axis on eight devices."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    return lambda array: jax.device_put(array, rows)
