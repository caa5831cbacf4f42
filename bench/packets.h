/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * What generator and collector agree on. Flow n has the cookie n, an inner source address and port
 * made from n, and n once more in the payload, behind the time of sending. load.py mirrors it.
 */
#ifndef BENCH_PACKETS_H
#define BENCH_PACKETS_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "outer.h"

struct inner {
	struct iphdr ip;
	struct udphdr udp;
	__u64 sent_ns;
	__u32 flow;
} __attribute__((packed));

/* One kind of traffic, as templates of flow 0. Without a tunnel only `outer.eth` is used. */
struct load {
	__u32 flows; /* that take turns */
	__u32 is_tunnel;
	struct outer outer;
	struct inner inner;
} __attribute__((packed, aligned(2)));

/* In words of 8 bytes: a packed struct would be copied byte by byte. */
static __always_inline void copy(void *to, const void *from, int bytes)
{
	int i;

#pragma unroll
	for (i = 0; i + 8 <= bytes; i += 8)
		*(__u64 *)(to + i) = *(const __u64 *)(from + i);
#pragma unroll
	for (; i < bytes; i += 2)
		*(__u16 *)(to + i) = *(const __u16 *)(from + i);
}

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct load);
	__uint(max_entries, 1);
} loads SEC(".maps");

/* 10.77.<flow / 65536>.1, port <flow % 65536> */
static __always_inline __be32 flow_source(const struct load *load, __u32 flow)
{
	return load->inner.ip.saddr + bpf_htonl((flow >> 16) << 8);
}

static __always_inline __be16 flow_port(__u32 flow)
{
	return bpf_htons((__u16)flow);
}

#endif
