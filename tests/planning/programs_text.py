"""Small programs in the compiler's language, as the tests read them."""

from __future__ import annotations

# A loop of four steps; each adds to one row of a stack, multiplies and sends.
LOOP = """HloModule jit_step, entry_computation_layout={(f32[8,16]{1,0})->f32[8,16]{1,0}}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}

%take_and_put (p0: f32[4,8,16], p1: s32[], p2: f32[8,16]) -> f32[4,8,16] {
  %p0 = f32[4,8,16]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[8,16]{1,0} parameter(2)
  %zero = s32[] constant(0)
  %row = f32[1,8,16]{2,1,0} dynamic-slice(%p0, %p1, %zero, %zero), dynamic_slice_sizes={1,8,16}
  %flat = f32[8,16]{1,0} bitcast(%row)
  %more = f32[8,16]{1,0} add(%flat, %p2)
  %again = f32[1,8,16]{2,1,0} bitcast(%more)
  ROOT %put = f32[4,8,16]{2,1,0} dynamic-update-slice(%p0, %again, %p1, %zero, %zero)
}

%product (q0: f32[8,16], q1: f32[16,16]) -> f32[8,16] {
  %q0 = f32[8,16]{1,0} parameter(0)
  %q1 = f32[16,16]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,16]{1,0} dot(%q0, %q1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[4,8,16], f32[8,16], f32[16,16])) -> (s32[], f32[4,8,16], f32[8,16], f32[16,16]) {
  %state = (s32[], f32[4,8,16]{2,1,0}, f32[8,16]{1,0}, /*index=3*/f32[16,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[4,8,16]{2,1,0} get-tuple-element(%state), index=1
  %x = f32[8,16]{1,0} get-tuple-element(%state), index=2
  %w = f32[16,16]{1,0} get-tuple-element(%state), index=3
  %y = f32[8,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%product
  %sent = f32[8,16]{1,0} all-reduce(%y), channel_id=3, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%sum
  %stack.2 = f32[4,8,16]{2,1,0} fusion(%stack, %i, %sent), kind=kLoop, calls=%take_and_put
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  ROOT %out = (s32[], f32[4,8,16]{2,1,0}, f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%next, %stack.2, %sent, %w)
}

%condition (c: (s32[], f32[4,8,16], f32[8,16], f32[16,16])) -> pred[] {
  %c = (s32[], f32[4,8,16]{2,1,0}, f32[8,16]{1,0}, f32[16,16]{1,0}) parameter(0)
  %at = s32[] get-tuple-element(%c), index=0
  %end = s32[] constant(4)
  ROOT %less = pred[] compare(%at, %end), direction=LT
}

ENTRY %main (w: f32[16,16], x: f32[8,16]) -> f32[8,16] {
  %w.1 = f32[16,16]{1,0} parameter(0), sharding={replicated}, metadata={op_name="state[\\'params\\'][\\'w\\']"}
  %x.1 = f32[8,16]{1,0} parameter(1), metadata={op_name="batch[\\'x\\']"}
  %start = s32[] constant(0)
  %none = f32[] constant(0)
  %stack.1 = f32[4,8,16]{2,1,0} broadcast(%none), dimensions={}
  %begin = (s32[], f32[4,8,16]{2,1,0}, f32[8,16]{1,0}, f32[16,16]{1,0}) tuple(%start, %stack.1, %x.1, %w.1)
  %loop = (s32[], f32[4,8,16]{2,1,0}, f32[8,16]{1,0}, f32[16,16]{1,0}) while(%begin), condition=%condition, body=%body
  ROOT %end.1 = f32[8,16]{1,0} get-tuple-element(%loop), index=2
}
"""
ROW, STACK, WEIGHT = 8 * 16 * 4, 4 * 8 * 16 * 4, 16 * 16 * 4  # bytes
LOOPS = 4
