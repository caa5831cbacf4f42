"""The kernel path: the decisions of ``datapath`` in C, for the usual shapes of packets.

``abi.h`` holds what kernel and user side share and ``abi.py`` mirrors it; ``parse.h`` finds a
packet's flow, ``flows.h`` remembers and finds it, ``decap.h`` and ``encap.h`` are the two ways of a
packet, ``gwlbtun.bpf.c`` makes programs of them.
"""
