/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * An endpoint that wants no inspection: its packets go back at once, past the IP stack. The outer
 * addresses change places and the TTL becomes our own; the UDP checksum, if there is one, stays
 * right because a sum does not care about order.
 */
#ifndef GWLBTUN_HAIRPIN_H
#define GWLBTUN_HAIRPIN_H

#include "flows.h"
#include "outer.h"

/* RFC 1624: the header checksum after one of its words has changed. */
static __always_inline __sum16 update_checksum(__sum16 check, __be16 old, __be16 new)
{
	__u32 sum = (__u16)~check + (__u16)~old + new;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

static __always_inline void reflect(struct outer *o)
{
	__be16 old = bpf_htons(o->ip.ttl << 8 | IPPROTO_UDP);
	__u8 mac[ETH_ALEN];
	__be32 address = o->ip.saddr;

	__builtin_memcpy(mac, o->eth.h_source, ETH_ALEN);
	__builtin_memcpy(o->eth.h_source, o->eth.h_dest, ETH_ALEN);
	__builtin_memcpy(o->eth.h_dest, mac, ETH_ALEN);
	o->ip.saddr = o->ip.daddr;
	o->ip.daddr = address;
	o->ip.ttl = OUTER_TTL;
	o->ip.check = update_checksum(o->ip.check, old, bpf_htons(OUTER_TTL << 8 | IPPROTO_UDP));
}

/* The same at the driver, where it allows native XDP: about three times as fast. */
static __always_inline int reflect_frame(struct xdp_md *xdp)
{
	struct outer *o = (void *)(long)xdp->data;
	void *end = (void *)(long)xdp->data_end;
	__u32 length = bpf_xdp_get_buff_len(xdp), inner_bytes = length - sizeof(*o);
	struct endpoint *endpoint;
	__be64 id;

	if ((void *)(o + 1) > end || o->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    o->udp.dest != bpf_htons(GENEVE_PORT) || !is_usual(o, length))
		return XDP_PASS;
	id = o->options.endpoint_id;
	endpoint = bpf_map_lookup_elem(&endpoints, &id);
	if (!endpoint || !(endpoint->flags & ENDPOINT_HAIRPIN))
		return XDP_PASS;
	if (!is_permitted(o->ip.saddr, o->ip.daddr))
		return XDP_PASS;
	count_in(endpoint, inner_bytes);
	count_out(endpoint->index, inner_bytes);
	reflect(o);
	return XDP_TX;
}

#endif
