#!/bin/sh
# What enters by gwi leaves by gwo at once, without the IP stack: as most users of the reference do.
set -eu
[ "$1" = CREATE ] || exit 0
tc qdisc add dev "$2" clsact
tc filter add dev "$2" ingress protocol all u32 match u32 0 0 \
    action mirred egress redirect dev "$3"
