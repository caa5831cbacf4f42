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

#include "abi.h"

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
} __attribute__((packed));

#define TUNNEL_BYTES ((__u32)(sizeof(struct outer) - sizeof(struct ethhdr)))

_Static_assert(sizeof(struct outer) == 82, "outer headers of the usual packet");
_Static_assert(sizeof(struct gwlb_options) == OPTIONS_BYTES, "options of the usual packet");

#endif
