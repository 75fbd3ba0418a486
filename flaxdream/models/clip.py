"""The text encoder of CLIP, as Stable Diffusion uses it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx

from flaxdream.arrays import Array, Bool, Float, Int
from flaxdream.models import remat
from flaxdream.models.attention import attention
from flaxdream.models.clip_config import CLIPTextConfig
from flaxdream.models.layers import ACTIVATIONS, Compute, Embed, LayerNorm, Linear
from flaxdream.models.network import Network, network

LEGACY_EOS = 2


class CLIPTextOutput(NamedTuple):
    """`states_bsd`: one vector a token. `pooled_bd`: one a text, projected where the model has a projection."""

    states_bsd: Float[Array, "b s d"]
    pooled_bd: Float[Array, "b p"]


def clip_text(config: CLIPTextConfig | Mapping[str, Any], **compute: Any) -> Network:
    """The text encoder of a config (or of the dict of a config.json); options as `layers.Compute`'s fields."""
    if not isinstance(config, CLIPTextConfig):
        config = CLIPTextConfig.from_dict(config)
    how = Compute(**compute)
    return network(lambda: CLIPTextModel(config, how), config)


class CLIPTextModel(nnx.Module):
    """Equal to transformers' CLIPTextModel, and with `text_projection` to CLIPTextModelWithProjection.

    Attribute names lack the prefix `text_model.` that most files have.
    """

    def __init__(self, config: CLIPTextConfig, compute: Compute):
        self.embeddings = CLIPTextEmbeddings(config, compute)
        self.encoder = CLIPEncoder(config, compute)
        self.final_layer_norm = LayerNorm(config.hidden_size, compute, eps=config.layer_norm_eps)
        width = config.projected_width
        self.text_projection = Linear(config.hidden_size, width, compute, use_bias=False) if width else None
        self.config, self.remat = config, compute.remat

    def __call__(
        self,
        ids_bs: Int[Array, "b s"],
        output_layer: int = -1,
        final_norm: bool = True,
        mask_bs: Bool[Array, "b s"] | None = None,
    ) -> CLIPTextOutput:
        """The states after layer `output_layer` and the pooled state of the last layer.

        `output_layer` counts as transformers' `hidden_states` do: 0 are the embeddings, -1 the last layer,
        -2 the one before ("clip skip 2"). `final_norm` applies the last layer norm to the states; the pooled
        state always has it. Tokens where `mask_bs` is False are not looked at.
        """
        layers = len(self.encoder.layers)
        if not -layers - 1 <= output_layer <= layers:
            raise ValueError(
                f"output_layer {output_layer} does not exist: this text encoder has layers 1 to {layers} "
                f"(or -1 to {-layers} from the end), and 0 for the embeddings."
            )
        length = ids_bs.shape[1]
        visible = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if mask_bs is not None:
            visible = jnp.logical_and(visible, mask_bs.astype(bool)[:, None, None])

        states = [self.embeddings(ids_bs)]
        for layer in self.encoder.layers:
            states.append(remat.block(self.remat, layer, states[-1], visible))
        chosen_bsd = states[output_layer]
        if final_norm:
            chosen_bsd = self.final_layer_norm(chosen_bsd)
        return CLIPTextOutput(chosen_bsd, self._pooled(states[-1], ids_bs))

    def _pooled(self, last_bsd: Float[Array, "b s d"], ids_bs: Int[Array, "b s"]) -> Float[Array, "b p"]:
        """The state of the end-of-text token.

        Configs from before transformers 4.31 say eos_token_id 2, which is another token; with them the largest
        id is taken, which is the end of text unless tokens were added. Otherwise the first end counts, and the
        first token where there is none.
        """
        eos = self.config.eos_token_id
        place_b = jnp.argmax(ids_bs if eos == LEGACY_EOS else (ids_bs == eos), axis=-1)
        pooled_bd = self.final_layer_norm(jnp.take_along_axis(last_bsd, place_b[:, None, None], axis=1)[:, 0])
        return pooled_bd if self.text_projection is None else self.text_projection(pooled_bd)


class CLIPTextEmbeddings(nnx.Module):
    """The sum of what a token is and where it stands."""

    def __init__(self, config: CLIPTextConfig, compute: Compute):
        self.token_embedding = Embed(config.vocab_size, config.hidden_size, compute)
        self.position_embedding = Embed(config.max_position_embeddings, config.hidden_size, compute)
        self.longest = config.max_position_embeddings

    def __call__(self, ids_bs: Int[Array, "b s"]) -> Float[Array, "b s d"]:
        length = ids_bs.shape[1]
        if length > self.longest:
            raise ValueError(
                f"a text has {length} tokens; this text encoder takes at most {self.longest}: "
                "truncate it or encode it in pieces."
            )
        return self.token_embedding(ids_bs) + self.position_embedding(jnp.arange(length))[None]


class CLIPEncoder(nnx.Module):
    """The list of layers, under the name that files give it."""

    def __init__(self, config: CLIPTextConfig, compute: Compute):
        self.layers = nnx.List(CLIPEncoderLayer(config, compute) for _ in range(config.num_hidden_layers))


class CLIPEncoderLayer(nnx.Module):
    """Causal self-attention and a feed-forward, each behind a layer norm and around a shortcut."""

    def __init__(self, config: CLIPTextConfig, compute: Compute):
        width, eps = config.hidden_size, config.layer_norm_eps
        self.layer_norm1 = LayerNorm(width, compute, eps=eps)
        self.self_attn = CLIPAttention(width, config.num_attention_heads, compute)
        self.layer_norm2 = LayerNorm(width, compute, eps=eps)
        self.mlp = CLIPMLP(width, config.intermediate_size, config.hidden_act, compute)

    def __call__(self, x_bsd: Float[Array, "b s d"], visible: Bool[Array, "bb 1 s s"]) -> Float[Array, "b s d"]:
        x_bsd = x_bsd + self.self_attn(self.layer_norm1(x_bsd), visible)
        return x_bsd + self.mlp(self.layer_norm2(x_bsd))


class CLIPAttention(nnx.Module):
    """Multi-head self-attention with biases."""

    def __init__(self, width: int, heads: int, compute: Compute):
        self.q_proj = Linear(width, width, compute)
        self.k_proj = Linear(width, width, compute)
        self.v_proj = Linear(width, width, compute)
        self.out_proj = Linear(width, width, compute)
        self.heads, self.implementation = heads, compute.attention

    def __call__(self, x_bsd: Float[Array, "b s d"], visible: Bool[Array, "bb 1 s s"]) -> Float[Array, "b s d"]:
        q, k, v = (
            layer(x_bsd).reshape(*x_bsd.shape[:2], self.heads, -1) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        o = attention(q, k, v, mask=visible, implementation=self.implementation)
        return self.out_proj(o.reshape(x_bsd.shape))


class CLIPMLP(nnx.Module):
    """Two linear layers with the config's activation between them."""

    def __init__(self, width: int, inner: int, act_fn: str, compute: Compute):
        self.fc1 = Linear(width, inner, compute)
        self.fc2 = Linear(inner, width, compute)
        self.act_fn = act_fn

    def __call__(self, x_bsd: Float[Array, "b s d"]) -> Float[Array, "b s d"]:
        return self.fc2(ACTIVATIONS[self.act_fn](self.fc1(x_bsd)))
