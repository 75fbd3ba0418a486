"""The CLIP text encoder equals transformers' within 1e-4."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from tests.models.twins import assert_close, twin_of
from tests.twins import randomize

END = 49
LAYERS = 11  # more than ten: layer "10" must not be taken for layer "2"


def torch_clip(cls=CLIPTextModel, **changes):
    numbers = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": LAYERS,
        "num_attention_heads": 2, "max_position_embeddings": 10, "eos_token_id": END, "bos_token_id": 48,
        "pad_token_id": 1, "projection_dim": 6,
    }  # fmt: skip
    return randomize(cls(CLIPTextConfig(**(numbers | changes))), 0)


def texts() -> np.ndarray:
    """One end, two ends, none, the end in first place; padded with words."""
    ids = np.random.default_rng(0).integers(3, 48, (4, 10))
    ids[0, 5] = ids[1, 3] = ids[1, 7] = ids[3, 0] = END
    return ids


def expected(theirs, ids, **kwargs):
    with torch.no_grad():
        return theirs(torch.from_numpy(ids), output_hidden_states=True, **kwargs)


@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"])
def test_states_and_pooled_state_are_those_of_transformers(hidden_act):
    theirs = torch_clip(hidden_act=hidden_act)
    ours, params = twin_of(theirs)
    found, wanted = jax.jit(ours)(params, texts()), expected(theirs, texts())
    assert_close(found.states_bsd, wanted.last_hidden_state, 1e-4)
    assert_close(found.pooled_bd, wanted.pooler_output, 1e-4)


def test_projected_pooled_state_is_that_of_transformers():
    theirs = torch_clip(CLIPTextModelWithProjection, hidden_act="gelu")
    ours, params = twin_of(theirs)
    found, wanted = jax.jit(ours)(params, texts()), expected(theirs, texts())
    assert_close(found.states_bsd, wanted.last_hidden_state, 1e-4)
    assert_close(found.pooled_bd, wanted.text_embeds, 1e-4)


def test_legacy_end_token_pools_at_the_largest_id():
    theirs = torch_clip(eos_token_id=2)
    ours, params = twin_of(theirs)
    ids = texts()
    ids[2, 4] = 2
    assert_close(ours(params, ids).pooled_bd, expected(theirs, ids).pooler_output, 1e-4)


def test_a_text_without_end_is_pooled_at_its_first_token():
    ours, params = twin_of(torch_clip())
    found = ours(params, texts())
    assert_close(found.pooled_bd[2], found.states_bsd[2, 0], 1e-6)


@pytest.mark.parametrize("output_layer", [-1, -2, -LAYERS, -LAYERS - 1, 0, 1, LAYERS])
def test_any_layer_can_be_the_output_without_changing_the_pooled_state(output_layer):
    theirs = torch_clip()
    ours, params = twin_of(theirs)
    wanted = expected(theirs, texts())
    hidden = wanted.hidden_states[output_layer]
    with torch.no_grad():
        normed = theirs.final_layer_norm(hidden)
    found = ours(params, texts(), output_layer=output_layer)
    assert_close(found.states_bsd, normed, 1e-4)
    assert_close(found.pooled_bd, wanted.pooler_output, 1e-4)
    assert_close(ours(params, texts(), output_layer=output_layer, final_norm=False).states_bsd, hidden, 1e-4)


@pytest.mark.parametrize("output_layer", [LAYERS + 1, -LAYERS - 2])
def test_a_layer_that_does_not_exist_is_an_error_that_says_which_do(output_layer):
    ours, params = twin_of(torch_clip())
    with pytest.raises(ValueError, match=f"output_layer {output_layer} does not exist.* 1 to {LAYERS}"):
        ours(params, texts(), output_layer=output_layer)


def test_masked_tokens_are_not_looked_at():
    theirs = torch_clip()
    ours, params = twin_of(theirs)
    mask = np.ones((4, 10), np.int64)
    mask[0, 6:] = mask[1, 4:] = 0
    found = jax.jit(lambda p, ids, m: ours(p, ids, mask_bs=m))(params, texts(), mask)
    wanted = expected(theirs, texts(), attention_mask=torch.from_numpy(mask))
    assert_close(found.states_bsd, wanted.last_hidden_state, 1e-4)


def test_short_texts_and_single_texts_are_taken():
    theirs = torch_clip()
    ours, params = twin_of(theirs)
    assert_close(ours(params, texts()[:1, :4]).states_bsd, expected(theirs, texts()[:1, :4]).last_hidden_state, 1e-4)


def test_a_text_that_is_too_long_is_an_error_that_says_what_to_do():
    ours, params = twin_of(torch_clip())
    with pytest.raises(ValueError, match="11 tokens; this text encoder takes at most 10: truncate"):
        ours(params, np.zeros((1, 11), np.int32))


def test_later_tokens_do_not_change_earlier_states():
    ours, params = twin_of(torch_clip())
    ids, other = texts(), texts()
    other[:, 6:] = 7
    found, changed = (ours(params, i).states_bsd for i in (ids, other))
    np.testing.assert_array_equal(found[:, :6], changed[:, :6])
    assert np.abs(np.asarray(found - changed)[:, 6:]).max() > 0.1


def test_bfloat16_computation_stays_near_float32():
    theirs = torch_clip(num_hidden_layers=2)
    ours, params = twin_of(theirs, dtype="bfloat16")
    found = jax.jit(ours)(params, texts()).states_bsd
    assert found.dtype == jax.numpy.bfloat16
    assert_close(np.asarray(found, np.float32), expected(theirs, texts()).last_hidden_state, 0.05)
