// SPDX-License-Identifier: MIT-0 OR GPL-2.0-only
/*
 * The GWLB's sending side, run by BPF_PROG_TEST_RUN with live frames on its veth: XDP_TX sends a
 * frame, XDP_DROP lets it pass unused. Frames are used again with whatever the last receiver left
 * in them, therefore all headers are written each time. It keeps its own pace: when nothing is due,
 * nothing is sent.
 */
#include "packets.h"

#define FRACTION_BITS 8

struct pace {
	__u64 interval; /* between two packets, in 1/256 ns; 0 = as fast as it goes */
	__u64 due;	/* CLOCK_MONOTONIC, in 1/256 ns */
	__u64 end_ns;
	__u64 sent;
	__u64 limit; /* packets to send at most */
	__u32 flow;  /* of the next packet */
	__u32 burst; /* packets to catch up at most after a pause */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct pace);
	__uint(max_entries, 1);
} paces SEC(".maps");

static __always_inline int is_due(struct pace *p, __u64 now_ns)
{
	__u64 now = now_ns << FRACTION_BITS;

	if (now_ns >= p->end_ns || p->sent >= p->limit || now < p->due)
		return 0;
	if (p->due + p->interval * p->burst < now)
		p->due = now - p->interval * p->burst;
	p->due += p->interval;
	return 1;
}

static __always_inline __u32 next_flow(struct pace *p, __u32 flows)
{
	__u32 flow = p->flow;

	p->flow = flow + 1 >= flows ? 0 : flow + 1;
	return flow;
}

/* The checksum of flow 0 and what differs from it (RFC 1624). */
static __always_inline __sum16 flow_checksum(__sum16 of_flow_0, __u32 flow)
{
	__u32 sum = (__u16)~of_flow_0 + bpf_htons((flow >> 16) << 8);

	sum = (sum & 0xffff) + (sum >> 16);
	return (__sum16)~sum;
}

static __always_inline void fill_inner(struct inner *i, const struct load *load, __u32 flow,
				       __u64 now_ns)
{
	copy(i, &load->inner, sizeof(*i));
	i->ip.saddr = flow_source(load, flow);
	i->ip.check = flow_checksum(load->inner.ip.check, flow);
	i->udp.source = flow_port(flow);
	i->sent_ns = now_ns;
	i->flow = flow;
}

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct outer *outer = data;
	struct inner *inner;
	struct load *load;
	struct pace *pace;
	__u32 zero = 0, flow;
	__u64 now_ns;

	load = bpf_map_lookup_elem(&loads, &zero);
	pace = bpf_map_lookup_elem(&paces, &zero);
	if (!load || !pace)
		return XDP_ABORTED;
	now_ns = bpf_ktime_get_ns();
	if (!is_due(pace, now_ns))
		return XDP_DROP;
	inner = load->is_tunnel ? (void *)(outer + 1) : (void *)(&outer->eth + 1);
	if ((void *)(inner + 1) > end)
		return XDP_ABORTED;
	flow = next_flow(pace, load->flows);
	if (!load->is_tunnel) {
		copy(&outer->eth, &load->outer.eth, sizeof(outer->eth));
	} else if ((void *)(outer + 1) <= end) {
		copy(outer, &load->outer, sizeof(*outer));
		outer->options.cookie = bpf_htonl(flow);
	}
	fill_inner(inner, load, flow, now_ns);
	pace->sent++;
	return XDP_TX;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
