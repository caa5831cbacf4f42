#!/bin/sh
# Connection tracking and ten rules before the accept; for plain forwarding and for a handler alike.
set -eu
iptables -w -A FORWARD -m conntrack --ctstate INVALID -j DROP
for port in 1 2 3 4 5 6 7 8 9; do
    iptables -w -A FORWARD -p udp --dport "$port" -j DROP
done
iptables -w -A FORWARD -j ACCEPT
