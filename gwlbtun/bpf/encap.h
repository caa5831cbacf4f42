/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * To the GWLB: find the flow of a packet that the stack gave to gwo or gwi, put the outer headers
 * around it that it came with, and send it to where it came from. The twin of datapath/encap.py.
 * What has no entry here goes on to the TUN descriptor, untouched.
 */
#ifndef GWLBTUN_ENCAP_H
#define GWLBTUN_ENCAP_H

#include <linux/pkt_cls.h>

#include "flows.h"
#include "outer.h"

#define INNER_MTU 8500
#define MAX_SEGMENT_HEADERS 120 /* IPv4 or IPv6 and TCP, with options */
#define ENCAP_FLAGS                                                                                \
	(BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |   \
	 BPF_F_ADJ_ROOM_NO_CSUM_RESET)

/* Exact direction first, then the reverse: AWS does not say whether both carry one cookie. */
static __always_inline struct flow *find_either(struct found *f, __u16 tag, int is_ipv6)
{
	struct flow *flow = find_flow(f, tag, is_ipv6);

	if (!flow) {
		mirror(f);
		flow = find_flow(f, tag, is_ipv6);
		mirror(f);
	}
	return flow;
}

/* A first fragment on its way out tells the flow of all that follow. */
static __always_inline void learn_fragment(const struct flow *flow, const struct found *f,
					   __u16 tag, int is_ipv6)
{
	struct flow copy = *flow;

	copy.seen_s = now_s();
	store_fragment(f, tag, is_ipv6, &copy);
}

static __always_inline struct flow *find_unusual(struct __sk_buff *skb, __u16 tag,
						 int is_ipv6)
{
	struct flow *flow = NULL;
	struct found f, quote;

	if (parse_inner(skb, 0, is_ipv6, 0, &f))
		return NULL;
	if (f.is_error) {
		if (parse_inner(skb, f.quote, is_ipv6, 1, &quote))
			return NULL;
		flow = find_error(&f, &quote, tag, is_ipv6);
	} else if (!f.is_later) {
		flow = find_either(&f, tag, is_ipv6);
	}
	if (!f.is_fragment)
		return flow;
	if (!flow)
		return find_fragment(&f, tag, is_ipv6);
	learn_fragment(flow, &f, tag, is_ipv6);
	return flow;
}

static __always_inline struct flow *find(struct __sk_buff *skb, __u16 tag, int is_ipv6)
{
	struct found f = {};

	if (parse_usual((void *)(long)skb->data, (void *)(long)skb->data_end, skb->len, is_ipv6,
			&f))
		return find_unusual(skb, tag, is_ipv6);
	return find_either(&f, tag, is_ipv6);
}

/* The checksum of the outer IPv4 header, whose other fields are constants. */
static __always_inline __sum16 outer_checksum(const struct flow *flow, __be16 total)
{
	__u32 sum = bpf_htons(0x4500) + bpf_htons(OUTER_TTL << 8 | IPPROTO_UDP) + total;

	sum += (flow->appliance & 0xffff) + (flow->appliance >> 16);
	sum += (flow->gwlb & 0xffff) + (flow->gwlb >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

static __always_inline void fill_outer(struct outer *o, const struct flow *flow, __u32 length,
				       int is_ipv6)
{
	__builtin_memcpy(o->eth.h_dest, flow->gwlb_mac, ETH_ALEN);
	__builtin_memcpy(o->eth.h_source, flow->uplink_mac, ETH_ALEN);
	o->eth.h_proto = bpf_htons(ETH_P_IP);
	*(__be16 *)&o->ip = bpf_htons(0x4500);
	o->ip.tot_len = bpf_htons(length + TUNNEL_BYTES);
	o->ip.id = 0;
	o->ip.frag_off = 0;
	o->ip.ttl = OUTER_TTL;
	o->ip.protocol = IPPROTO_UDP;
	o->ip.saddr = flow->appliance;
	o->ip.daddr = flow->gwlb;
	o->ip.check = outer_checksum(flow, o->ip.tot_len);
	o->udp.source = flow->port;
	o->udp.dest = bpf_htons(GENEVE_PORT);
	o->udp.len = bpf_htons(length + TUNNEL_BYTES - sizeof(o->ip));
	o->udp.check = 0;
	o->geneve.version_and_words = GENEVE_OPT_WORDS;
	o->geneve.flags = 0;
	o->geneve.protocol = is_ipv6 ? bpf_htons(ETH_P_IPV6) : bpf_htons(ETH_P_IP);
	o->geneve.vni = 0;
	copy_words(&o->options, flow->options, OPTIONS_BYTES);
}

/*
 * What came in by gwi and is no super-packet has a finished checksum: IPv4 is just pushed along. For
 * all else the stack has to know that this is a tunnel, and that IPv6 has become IPv4.
 */
static __always_inline int is_finished(const struct __sk_buff *skb, const struct device *device,
				       int is_ipv6)
{
	return !is_ipv6 && !skb->gso_size && skb->ingress_ifindex == device->gwi;
}

static __always_inline int encap_packet(struct __sk_buff *skb)
{
	__u32 ifindex = skb->ifindex, length = skb->len, room = sizeof(struct outer), now, mtu = 0;
	struct device *device;
	struct flow *flow;
	struct outer *o;
	int is_ipv6;

	device = bpf_map_lookup_elem(&devices, &ifindex);
	if (!device || (!skb->gso_size && length > INNER_MTU))
		return TC_ACT_UNSPEC;
	is_ipv6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	if (!is_ipv6 && skb->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_UNSPEC;
	flow = is_ipv6 ? find(skb, device->tag, 1) : find(skb, device->tag, 0);
	if (!flow || flow->flags & FLOW_IN_USER_SPACE)
		return TC_ACT_UNSPEC;
	if (bpf_check_mtu(skb, flow->uplink, &mtu, sizeof(*o), 0))
		return TC_ACT_UNSPEC;
	if (skb->gso_size && skb->gso_size + MAX_SEGMENT_HEADERS + TUNNEL_BYTES > mtu)
		return TC_ACT_UNSPEC; /* of super-packets only the segments have to fit */
	now = now_s();
	if (flow->seen_s != now)
		flow->seen_s = now;
	if (!is_finished(skb, device, is_ipv6)) {
		if (bpf_skb_adjust_room(skb, TUNNEL_BYTES, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS))
			return TC_ACT_UNSPEC;
		room = sizeof(struct ethhdr);
	}
	if (bpf_skb_change_head(skb, room, 0))
		return drop(DROP_SEND_FAILED);
	o = (void *)(long)skb->data;
	if ((void *)(o + 1) > (void *)(long)skb->data_end)
		return drop(DROP_SEND_FAILED);
	fill_outer(o, flow, length, is_ipv6);
	count_out(device->index, length);
	return bpf_redirect(flow->uplink, 0);
}

#endif
