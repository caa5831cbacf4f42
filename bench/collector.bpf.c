// SPDX-License-Identifier: MIT-0 OR GPL-2.0-only
/*
 * The GWLB's receiving side, XDP on its veth: checks each packet that returns, counts it, notes how
 * long it was on its way, and drops it. What is no UDP (address resolution, ping) passes.
 */
#include <linux/in.h>

#include "packets.h"

#define SUB_BITS 5 /* 32 buckets for each power of two: 3 % wide at most */
#define BUCKETS 1024

struct counts {
	__u64 good;
	__u64 wrong;
	__u64 latency[BUCKETS];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct counts);
	__uint(max_entries, 1);
} counts SEC(".maps");

static __always_inline __u16 header_sum(const struct iphdr *ip)
{
	const __u16 *words = (const void *)ip;
	__u32 sum = 0;
	int i;

#pragma unroll
	for (i = 0; i < (int)(sizeof(*ip) / 2); i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Version and header length, total length and addresses; TOS, id and TTL are free. */
static __always_inline int is_ip(const void *returned, const void *expected, __be32 saddr)
{
	const struct iphdr *a = returned, *b = expected;

	return a->version == 4 && a->ihl == 5 && a->tot_len == b->tot_len &&
	       a->protocol == b->protocol && a->saddr == saddr && a->daddr == b->daddr &&
	       header_sum(a) == 0xffff;
}

/* All of Geneve but the cookie: base header and options, in words. */
static __always_inline int is_geneve(const struct outer *a, const struct outer *b)
{
	const __u32 *x = (const void *)&a->geneve, *y = (const void *)&b->geneve;
	int i;

#pragma unroll
	for (i = 0; i < (int)(sizeof(a->geneve) + OPTIONS_BYTES) / 4 - 1; i++)
		if (x[i] != y[i])
			return 0;
	return 1;
}

static __always_inline int is_outer(const struct outer *a, const struct outer *b, __u32 flow)
{
	return is_ip(&a->ip, &b->ip, b->ip.saddr) && a->udp.source == b->udp.source &&
	       a->udp.dest == b->udp.dest && a->udp.len == b->udp.len && is_geneve(a, b) &&
	       a->options.cookie == bpf_htonl(flow);
}

static __always_inline int is_inner(const struct inner *a, const struct load *load)
{
	const struct inner *b = &load->inner;

	return is_ip(&a->ip, &b->ip, flow_source(load, a->flow)) &&
	       a->udp.source == flow_port(a->flow) && a->udp.dest == b->udp.dest &&
	       a->udp.len == b->udp.len;
}

/* Values below 32 have a bucket each; above, the power of two and the five bits behind it count. */
static __always_inline __u32 to_bucket(__u64 value)
{
	__u32 power = 0;
	int i;

#pragma unroll
	for (i = 5; i >= 0; i--)
		if (value >> (power + (1 << i)))
			power += 1 << i;
	if (power < SUB_BITS)
		return value;
	return ((power - SUB_BITS) << SUB_BITS) + (value >> (power - SUB_BITS));
}

static __always_inline void note_latency(struct counts *counts, __u64 sent_ns)
{
	__u32 bucket = to_bucket(bpf_ktime_get_ns() - sent_ns);

	if (bucket < BUCKETS)
		counts->latency[bucket]++;
}

SEC("xdp")
int collect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct outer *outer = data;
	struct counts *count;
	struct inner *inner;
	struct load *load;
	__u32 zero = 0;

	load = bpf_map_lookup_elem(&loads, &zero);
	count = bpf_map_lookup_elem(&counts, &zero);
	if (!load || !count)
		return XDP_PASS;
	inner = load->is_tunnel ? (void *)(outer + 1) : (void *)(&outer->eth + 1);
	if ((void *)&outer->geneve > end || outer->eth.h_proto != bpf_htons(ETH_P_IP) ||
	    outer->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	if ((void *)(inner + 1) > end || !is_inner(inner, load) ||
	    (load->is_tunnel &&
	     ((void *)(outer + 1) > end || !is_outer(outer, &load->outer, inner->flow)))) {
		count->wrong++;
		return XDP_DROP;
	}
	count->good++;
	note_latency(count, inner->sent_ns);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
