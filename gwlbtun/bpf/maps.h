/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * The state of the kernel path. Sizes are defaults, the loader sets them from the configuration.
 * Flow maps are LRU: a full one forgets the oldest, and ingress relearns just before egress.
 */
#ifndef GWLBTUN_MAPS_H
#define GWLBTUN_MAPS_H

#include <linux/bpf.h>
#include <linux/pkt_cls.h>

#include <bpf/bpf_helpers.h>

#include "abi.h"

#define MAP(name_, type_, key_, value_, max_)                                                      \
	struct {                                                                                   \
		__uint(type, type_);                                                               \
		__type(key, key_);                                                                 \
		__type(value, value_);                                                             \
		__uint(max_entries, max_);                                                         \
	} name_ SEC(".maps")

MAP(endpoints, BPF_MAP_TYPE_HASH, __be64, struct endpoint, 128);
MAP(devices, BPF_MAP_TYPE_HASH, __u32, struct device, 256);
MAP(tunnels, BPF_MAP_TYPE_LRU_HASH, struct tunnel_key, __u8, 4096);
MAP(flows4, BPF_MAP_TYPE_LRU_HASH, struct flow_key4, struct flow, 1000000);
MAP(flows6, BPF_MAP_TYPE_LRU_HASH, struct flow_key6, struct flow, 1000000);
MAP(fragments4, BPF_MAP_TYPE_LRU_HASH, struct flow_key4, struct flow, 16384);
MAP(fragments6, BPF_MAP_TYPE_LRU_HASH, struct flow_key6, struct flow, 16384);
MAP(errors4, BPF_MAP_TYPE_LRU_HASH, struct error_key4, struct flow, 16384);
MAP(errors6, BPF_MAP_TYPE_LRU_HASH, struct error_key6, struct flow, 16384);
MAP(counts, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct counters, 128);
MAP(drops, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, __u64, MAX_DROP_REASONS);

static __always_inline int drop(__u32 reason)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &reason);

	if (count)
		*count += 1;
	return TC_ACT_SHOT;
}

static __always_inline void count_in(const struct endpoint *endpoint, __u32 bytes)
{
	struct counters *c = bpf_map_lookup_elem(&counts, &endpoint->index);

	if (c) {
		c->packets_in++;
		c->bytes_in += bytes;
	}
}

static __always_inline void count_out(__u32 index, __u32 bytes)
{
	struct counters *c = bpf_map_lookup_elem(&counts, &index);

	if (c) {
		c->packets_out++;
		c->bytes_out += bytes;
	}
}

#endif
