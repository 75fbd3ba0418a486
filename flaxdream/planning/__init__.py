"""Ahead-of-time compilation: does a run fit a machine that is not here, and how fast will it be?

`topologies` names machines, `programs` builds what runs from shapes alone, `compiling` compiles it in a process of its
own, `hlo_*` read the compiler's text, `memory` and `roofline` make numbers of it, `search` tries settings.
"""
