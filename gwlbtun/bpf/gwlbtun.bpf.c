// SPDX-License-Identifier: MIT-0 OR GPL-2.0-only
/*
 * The programs of the kernel path.
 *
 *   uplink, ingress:   decap      gwi, gwo, egress:  encap      uplink, driver: hairpin
 */
#include "decap.h"
#include "encap.h"

SEC("tc")
int decap(struct __sk_buff *skb)
{
	return decap_packet(skb);
}

SEC("tc")
int encap(struct __sk_buff *skb)
{
	return encap_packet(skb);
}

SEC("xdp.frags")
int hairpin(struct xdp_md *xdp)
{
	return reflect_frame(xdp);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
