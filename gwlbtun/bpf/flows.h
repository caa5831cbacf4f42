/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * Remembering flows and finding them; the twin of datapath/flows.py and of the look-ups in
 * datapath/encap.py. An entry is written only when something in it changed, and its age once a
 * second: a write per packet would cost twice as much.
 */
#ifndef GWLBTUN_FLOWS_H
#define GWLBTUN_FLOWS_H

#include "maps.h"
#include "parse.h"

#ifndef offsetof
#define offsetof(type, member) __builtin_offsetof(type, member)
#endif

#define NS_PER_S 1000000000ull

static __always_inline __u32 now_s(void)
{
	return bpf_ktime_get_coarse_ns() / NS_PER_S;
}

static __always_inline void fill_key4(struct flow_key4 *k, const struct found *f, __u16 tag)
{
	k->src = f->src[0];
	k->dst = f->dst[0];
	k->sport = f->sport;
	k->dport = f->dport;
	k->tag = tag;
	k->protocol = f->protocol;
	k->kind = KEY_FLOW;
}

static __always_inline void fill_key6(struct flow_key6 *k, const struct found *f, __u16 tag)
{
	__builtin_memcpy(k->src, f->src, sizeof(k->src));
	__builtin_memcpy(k->dst, f->dst, sizeof(k->dst));
	k->sport = f->sport;
	k->dport = f->dport;
	k->tag = tag;
	k->protocol = f->protocol;
	k->kind = KEY_FLOW;
}

static __always_inline void fill_fragment4(struct flow_key4 *k, const struct found *f,
					   __u16 tag)
{
	fill_key4(k, f, tag);
	k->sport = (__be16)f->fragment_id;
	k->dport = 0;
	k->kind = KEY_FRAGMENT;
}

/* The protocol is no part of it (RFC 8200, section 4.5): only the first fragment's is reliable. */
static __always_inline void fill_fragment6(struct flow_key6 *k, const struct found *f,
					   __u16 tag)
{
	fill_key6(k, f, tag);
	__builtin_memcpy(&k->sport, &f->fragment_id, sizeof(f->fragment_id));
	k->protocol = 0;
	k->kind = KEY_FRAGMENT;
}

static __always_inline void mirror(struct found *f)
{
	__be16 port = f->sport;
	int i;

	f->sport = f->dport;
	f->dport = port;
	for (i = 0; i < 4; i++) {
		__be32 word = f->src[i];

		f->src[i] = f->dst[i];
		f->dst[i] = word;
	}
}

static __always_inline struct flow *find_flow(const struct found *f, __u16 tag, int is_ipv6)
{
	if (is_ipv6) {
		struct flow_key6 k;

		fill_key6(&k, f, tag);
		return bpf_map_lookup_elem(&flows6, &k);
	} else {
		struct flow_key4 k;

		fill_key4(&k, f, tag);
		return bpf_map_lookup_elem(&flows4, &k);
	}
}

static __always_inline struct flow *find_fragment(const struct found *f, __u16 tag,
						  int is_ipv6)
{
	if (is_ipv6) {
		struct flow_key6 k;

		fill_fragment6(&k, f, tag);
		return bpf_map_lookup_elem(&fragments6, &k);
	} else {
		struct flow_key4 k;

		fill_fragment4(&k, f, tag);
		return bpf_map_lookup_elem(&fragments4, &k);
	}
}

/* Everything but the age, in words of 8 bytes and one of 4. */
static __always_inline int is_same(const struct flow *a, const struct flow *b)
{
	const __u64 *x = (const void *)a, *y = (const void *)b;
	int i;

#pragma unroll
	for (i = 0; i < (int)offsetof(struct flow, uplink) / 8; i++)
		if (x[i] != y[i])
			return 0;
	return a->uplink == b->uplink;
}

/* Whether a GWLB node may send to one of our addresses. */
static __always_inline int is_permitted(__be32 gwlb, __be32 appliance)
{
	struct tunnel_key tunnel = {.gwlb = gwlb, .appliance = appliance};

	return bpf_map_lookup_elem(&tunnels, &tunnel) != NULL;
}

/*
 * Let the map say what the newest packet carried. Who sent it is asked only when that is something
 * new: what is known came from a permitted node. Returns 0, or LEAVE.
 */
static __always_inline int put(void *map, const void *key, const struct flow *seen)
{
	struct flow *known = bpf_map_lookup_elem(map, key);

	if (known && is_same(known, seen)) {
		if (known->seen_s != seen->seen_s)
			known->seen_s = seen->seen_s;
		return 0;
	}
	if (!is_permitted(seen->gwlb, seen->appliance))
		return LEAVE;
	bpf_map_update_elem(map, key, seen, BPF_ANY);
	return 0;
}

static __always_inline int put_flow(const struct found *f, __u16 tag, int is_ipv6,
				     const struct flow *seen)
{
	if (is_ipv6) {
		struct flow_key6 k;

		fill_key6(&k, f, tag);
		return put(&flows6, &k, seen);
	} else {
		struct flow_key4 k;

		fill_key4(&k, f, tag);
		return put(&flows4, &k, seen);
	}
}

static __always_inline int put_fragment(const struct found *f, __u16 tag, int is_ipv6,
					 const struct flow *seen)
{
	if (is_ipv6) {
		struct flow_key6 k;

		fill_fragment6(&k, f, tag);
		return put(&fragments6, &k, seen);
	} else {
		struct flow_key4 k;

		fill_fragment4(&k, f, tag);
		return put(&fragments4, &k, seen);
	}
}

/* The same for what a flow in the maps already says, wherever its packets are served. */
static __always_inline void store_fragment(const struct found *f, __u16 tag, int is_ipv6,
					   const struct flow *known)
{
	if (is_ipv6) {
		struct flow_key6 k;

		fill_fragment6(&k, f, tag);
		bpf_map_update_elem(&fragments6, &k, known, BPF_ANY);
	} else {
		struct flow_key4 k;

		fill_fragment4(&k, f, tag);
		bpf_map_update_elem(&fragments4, &k, known, BPF_ANY);
	}
}

/* The key of an error is that of its quote and who tells whom. */
static __always_inline void fill_error4(struct error_key4 *k, const struct found *error,
					const struct found *quote, __u16 tag)
{
	k->src = error->src[0];
	k->dst = error->dst[0];
	if (quote->is_later)
		fill_fragment4(&k->quote, quote, tag);
	else
		fill_key4(&k->quote, quote, tag);
}

static __always_inline void fill_error6(struct error_key6 *k, const struct found *error,
					const struct found *quote, __u16 tag)
{
	__builtin_memcpy(k->src, error->src, sizeof(k->src));
	__builtin_memcpy(k->dst, error->dst, sizeof(k->dst));
	if (quote->is_later)
		fill_fragment6(&k->quote, quote, tag);
	else
		fill_key6(&k->quote, quote, tag);
}

static __always_inline int put_error(const struct found *error, const struct found *quote,
				      __u16 tag, int is_ipv6, const struct flow *seen)
{
	if (is_ipv6) {
		struct error_key6 k;

		fill_error6(&k, error, quote, tag);
		return put(&errors6, &k, seen);
	} else {
		struct error_key4 k;

		fill_error4(&k, error, quote, tag);
		return put(&errors4, &k, seen);
	}
}

/*
 * An error by itself if it came in as such, else by its quote. It travels against the packet that
 * it quotes: that direction is the exact one.
 */
static __always_inline struct flow *find_error(const struct found *error, struct found *quote,
					       __u16 tag, int is_ipv6)
{
	struct flow *flow;

	if (is_ipv6) {
		struct error_key6 k;

		fill_error6(&k, error, quote, tag);
		flow = bpf_map_lookup_elem(&errors6, &k);
	} else {
		struct error_key4 k;

		fill_error4(&k, error, quote, tag);
		flow = bpf_map_lookup_elem(&errors4, &k);
	}
	if (flow)
		return flow;
	if (!quote->is_later) {
		mirror(quote);
		flow = find_flow(quote, tag, is_ipv6);
		mirror(quote);
		if (!flow)
			flow = find_flow(quote, tag, is_ipv6);
	}
	if (!flow && quote->is_fragment)
		flow = find_fragment(quote, tag, is_ipv6);
	return flow;
}

#endif
