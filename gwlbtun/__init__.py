"""gwlbtun: an open appliance for AWS Gateway Load Balancer.

A packet's way, by folder:

    host/udp ─→ forwarder ─→ datapath/decap ─→ host/tun  gwi-<X> ─→ IP stack: iptables, routing …
    host/udp ←─ forwarder ←─ datapath/encap ←─ host/tun  gwo-<X> ←──────────┘

``wire`` turns bytes into values, ``datapath`` decides, ``host`` touches the operating system,
``control`` gives endpoints their life, ``lab`` plays the Gateway Load Balancer.
"""

__version__ = "0.1.0"
