#!/bin/sh
# One-arm inspection: what comes out of gwi is routed, filtered by your rules, and leaves by gwo.
#
#   inspect.sh CREATE|DESTROY gwi-<X> gwo-<X> <endpoint id>
#
# Endpoints may use the same inner addresses, so each has a mark and a routing table of its own, both
# numbered after the index of its gwi. fwmark_reflect makes what the appliance answers itself (resets,
# ICMP errors) follow the endpoint of the packet that it answers. Put your rules into FORWARD:
#
#   iptables -I FORWARD -i gwi-<X> -p tcp --dport 23 -j REJECT
#
# A firewall that tracks connections also wants a zone per endpoint, or equal addresses meet there:
#
#   iptables -t raw -A PREROUTING -i gwi-<X> -j CT --zone <number>
set -eu

action=$1 gwi=$2 gwo=$3
chain=GWLBTUN-$gwi
index=$(ip -o link show dev "$gwi" | cut -d: -f1)
[ -n "$index" ] || exit 1
table=$((10000 + index))

set_sysctl() {
	echo "$2" >"/proc/sys/net/$1"
}

forget_rules() {
	for family in -4 -6; do
		while ip "$family" rule del priority "$table" 2>/dev/null; do :; done
	done
}

mark_packets() {
	"$1" -w -t mangle -N "$chain" 2>/dev/null || "$1" -w -t mangle -F "$chain"
	"$1" -w -t mangle -A "$chain" -j MARK --set-mark "$table"
	"$1" -w -t mangle -C PREROUTING -i "$gwi" -j "$chain" 2>/dev/null ||
		"$1" -w -t mangle -A PREROUTING -i "$gwi" -j "$chain"
}

unmark_packets() {
	"$1" -w -t mangle -D PREROUTING -i "$gwi" -j "$chain" 2>/dev/null || :
	"$1" -w -t mangle -F "$chain" 2>/dev/null || :
	"$1" -w -t mangle -X "$chain" 2>/dev/null || :
}

create() {
	for family in ipv4 ipv6; do
		set_sysctl "$family/fwmark_reflect" 1
	done
	set_sysctl ipv4/ip_forward 1
	set_sysctl ipv6/conf/all/forwarding 1
	forget_rules
	for family in -4 -6; do
		ip "$family" rule add fwmark "$table" lookup "$table" priority "$table"
		ip "$family" route replace default dev "$gwo" table "$table"
	done
	mark_packets iptables
	mark_packets ip6tables
}

destroy() {
	unmark_packets iptables
	unmark_packets ip6tables
	forget_rules
	for family in -4 -6; do
		ip "$family" route flush table "$table" 2>/dev/null || :
	done
}

case $action in
CREATE) create ;;
DESTROY) destroy ;;
*)
	echo "usage: $0 CREATE|DESTROY gwi gwo endpoint-id" >&2
	exit 2
	;;
esac
