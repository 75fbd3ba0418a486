"""The work of Pallas kernels."""

from __future__ import annotations

import pytest

from flaxdream.planning.hlo_text import parse
from flaxdream.planning.hlo_work import operations

CALL = """HloModule jit_f

ENTRY %main (q: bf16[2,8,1024,128], k: bf16[2,8,512,128]) -> bf16[2,8,1024,128] {{
  %q = bf16[2,8,1024,128]{{3,2,1,0}} parameter(0)
  %k = bf16[2,8,512,128]{{3,2,1,0}} parameter(1)
  ROOT %call.1 = bf16[2,8,1024,128]{{3,2,1,0}} custom-call(%q, %k, %k), custom_call_target="{target}", \
metadata={{op_name="{name}"}}, backend_config={{"custom_call_config":{{"cost_estimate":{{"flops":"12345"}}}}}}
}}
"""
PRODUCT = 2 * 2 * 8 * 1024 * 512 * 128


@pytest.mark.parametrize(
    ("name", "flops"),
    [
        ("jit(f)/jvp(jit(flash_attention))/pallas_call", 2 * PRODUCT),
        ("jit(f)/transpose(jvp(jit(flash_attention)))/flash_mha_bwd_dq_block_q_major=512/pallas_call", 3 * PRODUCT),
        ("jit(f)/transpose(jvp(jit(flash_attention)))/flash_mha_bwd_dkv_block_q_major=512/pallas_call", 4 * PRODUCT),
        ("jit(f)/group_norm/pallas_call", 12345),
    ],
)
def test_attention_kernels_count_their_products_and_others_what_they_declare(name, flops):
    (call,) = operations(parse(CALL.format(target="tpu_custom_call", name=name)))
    assert call.flops == call.kernel_flops == flops


def test_other_custom_calls_are_no_kernels():
    (call,) = operations(parse(CALL.format(target="AsyncCollectiveStart", name="flash_attention")))
    assert call.flops == 0


@pytest.mark.parametrize(("target", "products"), [("__cudnn$fmhaSoftmax", 2), ("__cudnn$fmhaSoftmaxBackward", 5)])
def test_cudnns_attention_counts_the_products_of_its_scores(target, products):
    text = CALL.format(target=target, name="attention")
    shape = '"intermediate_tensor_shape":{"element_type":"BF16","dimensions":["2","8","1024","512"],"tuple_shapes":[]}'
    (call,) = operations(parse(text.replace('"custom_call_config":{', shape + ',"custom_call_config":{')))
    assert call.flops == products * PRODUCT
