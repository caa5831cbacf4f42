#!/bin/sh
# What enters by gwi is routed to gwo, with connection tracking and ten rules before the accept.
set -eu
[ "$1" = CREATE ] || exit 0
sysctl -qw net.ipv4.ip_forward=1
ip route replace default dev "$3" table 100
ip rule add iif "$2" table 100
"$(dirname "$0")/rules.sh"
