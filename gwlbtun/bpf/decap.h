/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * From the GWLB: take the outer headers off a packet of a known endpoint, remember them for the
 * way back, and hand the inner packet to the stack on gwi. The twin of datapath/decap.py. What is
 * not the usual packet of a known endpoint goes on to the UDP socket, untouched.
 */
#ifndef GWLBTUN_DECAP_H
#define GWLBTUN_DECAP_H

#include <linux/pkt_cls.h>

#include "flows.h"
#include "hairpin.h"
#include "outer.h"

#ifndef BPF_F_ADJ_ROOM_DECAP_L3_IPV6
#define BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)
#endif

static __always_inline void remember_outer(struct flow *seen, const struct outer *o,
					   const struct __sk_buff *skb)
{
	copy_words(seen->options, &o->options, OPTIONS_BYTES);
	seen->gwlb = o->ip.saddr;
	seen->appliance = o->ip.daddr;
	seen->port = o->udp.source;
	__builtin_memcpy(seen->gwlb_mac, o->eth.h_source, ETH_ALEN);
	__builtin_memcpy(seen->uplink_mac, o->eth.h_dest, ETH_ALEN);
	seen->flags = 0;
	seen->uplink = skb->ifindex;
	seen->seen_s = now_s();
}

/* Learn the packet's flow, its fragment id, or both. Returns 0, or LEAVE. */
static __always_inline int learn(struct __sk_buff *skb, const struct flow *seen, __u16 tag,
				 int is_ipv6)
{
	struct found f, quote;

	if (parse_inner(skb, sizeof(struct outer), is_ipv6, 0, &f))
		return LEAVE;
	if (f.is_error) {
		if (parse_inner(skb, f.quote, is_ipv6, 1, &quote))
			return LEAVE;
		if (put_error(&f, &quote, tag, is_ipv6, seen))
			return LEAVE;
	} else if (!f.is_later && put_flow(&f, tag, is_ipv6, seen)) {
		return LEAVE;
	}
	return f.is_fragment ? put_fragment(&f, tag, is_ipv6, seen) : 0;
}

static __always_inline int learn_usual(struct __sk_buff *skb, void *inner, const struct flow *seen,
				       __u16 tag, int is_ipv6)
{
	struct found f = {};

	if (parse_usual(inner, (void *)(long)skb->data_end, skb->len - sizeof(struct outer),
			is_ipv6, &f))
		return learn(skb, seen, tag, is_ipv6);
	return put_flow(&f, tag, is_ipv6, seen);
}

/* Remove everything between the Ethernet header and the inner packet, whose family may differ. */
static __always_inline int strip_outer(struct __sk_buff *skb, int is_ipv6)
{
	__s32 room = -(__s32)TUNNEL_BYTES;
	__u64 flags = 0;

	if (is_ipv6 && settings.has_decap_l3) {
		flags = BPF_F_ADJ_ROOM_DECAP_L3_IPV6;
	} else if (is_ipv6) {
		/* Older kernels: let it be IPv6 first, which adds the 20 bytes that IPv6 is longer. */
		if (bpf_skb_change_proto(skb, bpf_htons(ETH_P_IPV6), 0))
			return -1;
		room -= 20;
	}
	return bpf_skb_adjust_room(skb, room, BPF_ADJ_ROOM_MAC, flags);
}

/* After a crash a device may be gone while its entry is still here: then nobody may vanish in it. */
static __always_inline int is_device_gone(struct __sk_buff *skb, __u32 ifindex)
{
	__u32 mtu = 0;

	return bpf_check_mtu(skb, ifindex, &mtu, 0, 0) < 0;
}

static __always_inline int decap_packet(struct __sk_buff *skb)
{
	__u32 inner_bytes = skb->len - sizeof(struct outer);
	struct endpoint *endpoint;
	struct flow seen;
	__u8 is_ipv6;
	struct outer *o;
	__be64 id;

	if (skb->protocol != bpf_htons(ETH_P_IP) || skb->pkt_type != 0 || skb->gso_size ||
	    skb->len <= sizeof(*o))
		return TC_ACT_UNSPEC;
	o = (void *)(long)skb->data;
	if ((void *)(o + 1) > (void *)(long)skb->data_end || o->udp.dest != bpf_htons(GENEVE_PORT))
		return TC_ACT_UNSPEC;
	if (!is_usual(o, skb->len))
		return TC_ACT_UNSPEC;
	id = o->options.endpoint_id;
	endpoint = bpf_map_lookup_elem(&endpoints, &id);
	if (!endpoint || is_device_gone(skb, endpoint->gwi))
		return TC_ACT_UNSPEC;
	is_ipv6 = o->geneve.protocol == bpf_htons(ETH_P_IPV6);
	if (!is_ipv6 && o->geneve.protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	if (endpoint->flags & ENDPOINT_HAIRPIN) {
		if (!is_permitted(o->ip.saddr, o->ip.daddr))
			return TC_ACT_UNSPEC;
		count_in(endpoint, inner_bytes);
		count_out(endpoint->index, inner_bytes);
		reflect(o);
		return bpf_redirect(skb->ifindex, 0);
	}
	remember_outer(&seen, o, skb);
	if (is_ipv6 ? learn_usual(skb, o + 1, &seen, endpoint->tag, 1)
		    : learn_usual(skb, o + 1, &seen, endpoint->tag, 0))
		return TC_ACT_UNSPEC;
	if (strip_outer(skb, is_ipv6))
		return drop(DROP_TUN_WRITE_FAILED);
	count_in(endpoint, inner_bytes);
	return bpf_redirect(endpoint->gwi, BPF_F_INGRESS);
}

#endif
