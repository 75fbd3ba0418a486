"""What config.json says about a CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flaxdream.models.config import choice, read_config

# Keys that transformers writes for every model and that change the network in some; here they must not.
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("clip_text_model", "clip"),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "pruned_heads": ({}, None),
    "chunk_size_feed_forward": (0,),
    "quantization_config": (None,),
    "attention_dropout": (0.0,),  # transformers would apply it in training
    "dropout": (0.0,),
}
# Bookkeeping, text generation, classification heads, initialization: nothing that a text encoder computes.
_IGNORED = (
    "transformers_version", "torch_dtype", "dtype", "return_dict", "return_dict_in_generate", "output_attentions",
    "output_hidden_states", "output_scores", "use_cache", "use_return_dict", "torchscript", "use_bfloat16",
    "tf_legacy_loss", "tie_word_embeddings", "tie_encoder_decoder", "initializer_factor", "initializer_range",
    "pad_token_id", "bos_token_id", "sep_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "begin_suppress_tokens", "suppress_tokens", "diversity_penalty",
    "do_sample", "early_stopping", "encoder_no_repeat_ngram_size", "exponential_decay_length_penalty",
    "length_penalty", "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams",
    "num_return_sequences", "remove_invalid_values", "repetition_penalty", "temperature", "top_k", "top_p",
    "typical_p", "finetuning_task", "id2label", "label2id", "num_labels", "problem_type", "prefix",
    "task_specific_params", "tokenizer_class", "num_hidden_groups", "attn_implementation", "gradient_checkpointing",
)  # fmt: skip
WITH_PROJECTION = "CLIPTextModelWithProjection"


@dataclass(frozen=True)
class CLIPTextConfig:
    """The keys of config.json under transformers' names and with transformers' defaults."""

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int | None = 512  # used only where `architectures` says that there is a projection
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = choice("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", default="quick_gelu")
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407
    architectures: tuple[str, ...] | None = None  # the class, perhaps with "Flax" before it

    @classmethod
    def from_dict(cls, source: Mapping[str, Any]) -> CLIPTextConfig:
        """From a config.json; one ValueError lists all that is not supported."""
        return read_config(cls, source, fixed=_FIXED, ignored=_IGNORED)

    @property
    def projected_width(self) -> int | None:
        """Width of the pooled state's projection; None where the model has none."""
        return self.projection_dim if WITH_PROJECTION in self._classes else None

    @property
    def _classes(self) -> list[str]:
        return [name.removeprefix("Flax") for name in self.architectures or ()]

    def problems(self) -> list[str]:
        """What is wrong between the fields, one sentence each."""
        found = []
        if self.hidden_size % self.num_attention_heads:
            found.append(
                f"num_attention_heads: {self.num_attention_heads} do not divide hidden_size ({self.hidden_size})."
            )
        if not set(self._classes) <= {"CLIPTextModel", WITH_PROJECTION}:
            found.append(
                f"architectures: {list(self.architectures or ())} is not supported; "
                f"supported: CLIPTextModel, {WITH_PROJECTION}."
            )
        if WITH_PROJECTION in self._classes and not self.projection_dim:
            found.append(f"projection_dim: {self.projection_dim}, but {WITH_PROJECTION} needs a width.")
        return found
