/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * The outer headers of the usual packet: the 32 bytes of options that a real GWLB sends, in its
 * order. Any other layout belongs to user space.
 *
 *   Ethernet 14 | IPv4 20 | UDP 8 | Geneve 8 | endpoint id 12 | attachment id 12 | cookie 8
 */
#ifndef GWLBTUN_OUTER_H
#define GWLBTUN_OUTER_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#include "abi.h"
#include "parse.h"

#define GENEVE_PORT 6081
#define GENEVE_OPT_WORDS (OPTIONS_BYTES / 4)
#define OUTER_TTL 64

struct geneve_base {
	__u8 version_and_words;
	__u8 flags;
	__be16 protocol;
	__be32 vni;
} __attribute__((packed));

struct option_start {
	__be16 class;
	__u8 type;
	__u8 length_words;
} __attribute__((packed));

struct gwlb_options {
	struct option_start endpoint_start;
	__be64 endpoint_id;
	struct option_start attachment_start;
	__be64 attachment_id;
	struct option_start cookie_start;
	__be32 cookie;
} __attribute__((packed));

struct outer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	struct geneve_base geneve;
	struct gwlb_options options;
} __attribute__((packed, aligned(2))); /* else clang reads and writes single bytes */

/* In words of 8 bytes: clang copies what a packed struct holds byte by byte. */
static __always_inline void copy_words(void *to, const void *from, int bytes)
{
	int i;

#pragma unroll
	for (i = 0; i < bytes; i += 8)
		*(__u64 *)(to + i) = *(const __u64 *)(from + i);
}

#define TUNNEL_BYTES ((__u32)(sizeof(struct outer) - sizeof(struct ethhdr)))

_Static_assert(sizeof(struct outer) == 82, "outer headers of the usual packet");
_Static_assert(sizeof(struct gwlb_options) == OPTIONS_BYTES, "options of the usual packet");

const volatile struct settings settings = {.abi_version = ABI_VERSION};

static __always_inline int is_option(const struct option_start *o, __u8 type, __u8 words)
{
	return o->class == settings.option_class && o->type == type && o->length_words == words;
}

/* Whether a frame of `length` bytes is the usual packet, as far as its outer headers go. */
static __always_inline int is_usual(const struct outer *o, __u32 length)
{
	__u32 total = bpf_ntohs(o->ip.tot_len);

	return o->ip.version == 4 && o->ip.ihl == 5 && o->ip.protocol == IPPROTO_UDP &&
	       !(o->ip.frag_off & bpf_htons(IPV4_MORE_FRAGMENTS | IPV4_OFFSET)) &&
	       o->udp.dest == bpf_htons(GENEVE_PORT) && o->udp.source &&
	       total + sizeof(struct ethhdr) == length &&
	       bpf_ntohs(o->udp.len) + sizeof(struct iphdr) == total &&
	       o->geneve.version_and_words == GENEVE_OPT_WORDS && !o->geneve.flags &&
	       !o->geneve.vni &&
	       is_option(&o->options.endpoint_start, 1, 2) &&
	       is_option(&o->options.attachment_start, 2, 2) &&
	       is_option(&o->options.cookie_start, 3, 1);
}

#endif
