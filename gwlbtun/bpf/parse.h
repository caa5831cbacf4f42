/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * Which flow an inner packet belongs to; the twin of wire/inet.py. Whatever is malformed or beyond
 * the bounds here is left to user space (-1): this file never drops and never guesses.
 *
 * parse_usual reads headers where they lie and takes the packets that come by the million: TCP and
 * UDP without options. parse_inner copies headers out and takes everything else; as a global
 * function it is verified once, by itself, whatever its callers do.
 */
#ifndef GWLBTUN_PARSE_H
#define GWLBTUN_PARSE_H

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define IPV4_MORE_FRAGMENTS 0x2000
#define IPV4_OFFSET 0x1fff
#define IPV6_MORE_FRAGMENTS 0x0001
#define IPV6_OFFSET 0xfff8
#define MAX_EXTENSIONS 8
#define LEAST_PORTS 4
#define LEAST_ICMP 8
#define LEAVE (-1)

/* RFC 792; linux/icmp.h needs the C library's headers, which BPF has no use for. */
enum icmp_type {
	ICMP_ECHO_REPLY = 0,
	ICMP_UNREACHABLE = 3,
	ICMP_REDIRECT_HOST = 5,
	ICMP_ECHO_REQUEST = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETER = 12,
	ICMP_TIMESTAMP = 13,
	ICMP_MASK_REPLY = 18,
};

/* RFC 4443. */
enum icmpv6_type {
	ICMPV6_UNREACHABLE = 1,
	ICMPV6_PARAMETER = 4,
	ICMPV6_ECHO_QUERY = 128,
	ICMPV6_ECHO_ANSWER = 129,
};

/* What the walk has found; an IPv4 address is the first word. */
struct found {
	__be32 src[4];
	__be32 dst[4];
	__be32 fragment_id;
	__be16 sport;
	__be16 dport;
	__u32 quote; /* of an ICMP error: where the packet that it is about starts */
	__u8 protocol;
	__u8 is_fragment; /* first or later */
	__u8 is_later;	  /* without ports */
	__u8 is_error;
};

struct ports {
	__be16 src;
	__be16 dst;
};

struct icmp_start {
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be16 identifier;
	__be16 rest;
};

struct ipv6_extension {
	__u8 next;
	__u8 length_units; /* of 8 bytes, without the first */
	__be16 flags;	   /* of a fragment header */
	__be32 id;
};

static __always_inline int is_error_type(__u8 type, int is_ipv6)
{
	if (is_ipv6)
		return type >= ICMPV6_UNREACHABLE && type <= ICMPV6_PARAMETER;
	return (type >= ICMP_UNREACHABLE && type <= ICMP_REDIRECT_HOST) ||
	       type == ICMP_TIME_EXCEEDED || type == ICMP_PARAMETER;
}

static __always_inline int is_query_type(__u8 type, int is_ipv6)
{
	if (is_ipv6)
		return type == ICMPV6_ECHO_QUERY || type == ICMPV6_ECHO_ANSWER;
	return type == ICMP_ECHO_REPLY || type == ICMP_ECHO_REQUEST ||
	       (type >= ICMP_TIMESTAMP && type <= ICMP_MASK_REPLY);
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP;
}

/* TCP or UDP without IP options, whole, `length` bytes long; else LEAVE. */
static __always_inline int parse_usual(void *pos, void *end, __u32 length, int is_ipv6,
				       struct found *f)
{
	struct ports *p;

	if (is_ipv6) {
		struct ipv6hdr *ip = pos;

		p = (void *)(ip + 1);
		if ((void *)(p + 1) > end || ip->version != 6 || !has_ports(ip->nexthdr) ||
		    bpf_ntohs(ip->payload_len) + sizeof(*ip) != length)
			return LEAVE;
		__builtin_memcpy(f->src, &ip->saddr, sizeof(f->src));
		__builtin_memcpy(f->dst, &ip->daddr, sizeof(f->dst));
		f->protocol = ip->nexthdr;
	} else {
		struct iphdr *ip = pos;

		p = (void *)(ip + 1);
		if ((void *)(p + 1) > end || ip->version != 4 || ip->ihl != 5 ||
		    !has_ports(ip->protocol) || bpf_ntohs(ip->tot_len) != length ||
		    (ip->frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_OFFSET)))
			return LEAVE;
		f->src[0] = ip->saddr;
		f->dst[0] = ip->daddr;
		f->protocol = ip->protocol;
	}
	f->sport = p->src;
	f->dport = p->dst;
	return 0;
}

/* Ports, or the identifier of a query in the place of both. `left` bytes belong to the packet. */
static __always_inline int parse_upper(struct __sk_buff *skb, __u32 offset, __u32 left,
				       int is_ipv6, int is_quoted, struct found *f)
{
	struct icmp_start icmp;

	if (has_ports(f->protocol)) {
		if (left < LEAST_PORTS || bpf_skb_load_bytes(skb, offset, &f->sport, LEAST_PORTS))
			return LEAVE;
		return 0;
	}
	if (f->protocol != (is_ipv6 ? IPPROTO_ICMPV6 : IPPROTO_ICMP))
		return 0;
	if (left < LEAST_ICMP || bpf_skb_load_bytes(skb, offset, &icmp, sizeof(icmp)))
		return LEAVE;
	f->is_error = !is_quoted && is_error_type(icmp.type, is_ipv6);
	f->quote = offset + sizeof(icmp);
	if (is_query_type(icmp.type, is_ipv6))
		f->sport = f->dport = icmp.identifier;
	return 0;
}

static __always_inline int parse_ipv4(struct __sk_buff *skb, __u32 offset, int is_quoted,
				      struct found *f)
{
	__u32 header, total, flags;
	struct iphdr ip;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return LEAVE;
	header = ip.ihl * 4;
	total = bpf_ntohs(ip.tot_len);
	if (ip.version != 4 || header < sizeof(ip) || total < header ||
	    (!is_quoted && offset + total != skb->len))
		return LEAVE;
	f->src[0] = ip.saddr;
	f->dst[0] = ip.daddr;
	f->protocol = ip.protocol;
	flags = bpf_ntohs(ip.frag_off);
	if (flags & (IPV4_MORE_FRAGMENTS | IPV4_OFFSET)) {
		f->is_fragment = 1;
		f->fragment_id = ip.id;
		f->is_later = !!(flags & IPV4_OFFSET);
		if (f->is_later)
			return offset + header > skb->len ? LEAVE : 0;
	}
	if (offset + header > skb->len)
		return LEAVE;
	return parse_upper(skb, offset + header, total - header, 0, is_quoted, f);
}

static __always_inline int is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_DSTOPTS;
}

static __always_inline int parse_ipv6(struct __sk_buff *skb, __u32 offset, int is_quoted,
				      struct found *f)
{
	struct ipv6_extension e;
	struct ipv6hdr ip;
	__u32 left, size;
	int i;

	if (bpf_skb_load_bytes(skb, offset, &ip, sizeof(ip)))
		return LEAVE;
	left = bpf_ntohs(ip.payload_len);
	offset += sizeof(ip);
	if (ip.version != 6 || (!is_quoted && offset + left != skb->len))
		return LEAVE;
	if (is_quoted && offset + left > skb->len)
		left = skb->len - offset;
	__builtin_memcpy(f->src, &ip.saddr, sizeof(f->src));
	__builtin_memcpy(f->dst, &ip.daddr, sizeof(f->dst));
	f->protocol = ip.nexthdr;
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		if (!is_extension(f->protocol))
			return parse_upper(skb, offset, left, 1, is_quoted, f);
		if (left < sizeof(e) || bpf_skb_load_bytes(skb, offset, &e, sizeof(e)))
			return LEAVE;
		size = sizeof(e);
		if (f->protocol == IPPROTO_FRAGMENT) {
			__u32 flags = bpf_ntohs(e.flags);

			if (flags & (IPV6_OFFSET | IPV6_MORE_FRAGMENTS)) {
				f->is_fragment = 1;
				f->fragment_id = e.id;
				f->is_later = !!(flags & IPV6_OFFSET);
			}
		} else {
			size += 8 * (__u32)e.length_units;
		}
		f->protocol = e.next;
		if (f->is_later)
			return 0;
		if (left < size)
			return LEAVE;
		left -= size;
		offset += size;
	}
	return LEAVE;
}

/* Any packet that starts at `offset`; one that is quoted may be cut off at its end. */
__noinline int parse_inner(struct __sk_buff *skb, __u32 offset, int is_ipv6, int is_quoted,
			   struct found *f)
{
	if (!f)
		return LEAVE;
	__builtin_memset(f, 0, sizeof(*f));
	return is_ipv6 ? parse_ipv6(skb, offset, is_quoted, f)
		       : parse_ipv4(skb, offset, is_quoted, f);
}

#endif
