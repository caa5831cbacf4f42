#!/bin/sh
# What enters by gwi is routed to gwo, with connection tracking and ten rules before the accept.
set -eu
[ "$1" = CREATE ] || exit 0
sysctl -qw net.ipv4.ip_forward=1
ip route replace default dev "$3" table 100
ip rule add iif "$2" table 100
iptables -w -A FORWARD -m conntrack --ctstate INVALID -j DROP
for port in 1 2 3 4 5 6 7 8 9; do
    iptables -w -A FORWARD -p udp --dport "$port" -j DROP
done
iptables -w -A FORWARD -j ACCEPT
