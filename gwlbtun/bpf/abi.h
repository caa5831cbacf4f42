/* SPDX-License-Identifier: MIT-0 OR GPL-2.0-only */
/*
 * What the kernel path and the daemon share: map keys, map values, sizes. Nothing else.
 * abi.py mirrors this file and a test compares the two. Any change here is a new ABI version:
 * a daemon that finds pinned maps of another version builds them anew.
 *
 * Keys have no padding, and fields taken from packets stay in network order.
 */
#ifndef GWLBTUN_ABI_H
#define GWLBTUN_ABI_H

#include <linux/types.h>

#define ABI_VERSION 1

#define OPTIONS_BYTES 32 /* endpoint id 12, attachment id 12, flow cookie 8 */

/* What the ports of a flow key are. */
enum key_kind {
	KEY_FLOW = 0,	  /* ports, or a query's identifier twice, or zeros */
	KEY_FRAGMENT = 1, /* the fragment id: 16 bits and zeros, or 32 bits */
};

/* Flags of struct flow. */
enum flow_flag {
	FLOW_IN_USER_SPACE = 1, /* unusual options: the daemon holds what has to be put around */
};

/* Flags of struct endpoint. */
enum endpoint_flag {
	ENDPOINT_HAIRPIN = 1, /* returned at once, past the IP stack */
};

/* Constants of the programs, set by the loader before the verifier sees them. */
struct settings {
	__be16 option_class; /* the provider's */
	__u8 has_decap_l3;   /* the kernel knows BPF_F_ADJ_ROOM_DECAP_L3_IPV6 (6.3) */
	__u8 abi_version;
};

/* An endpoint's devices, by its id. */
struct endpoint {
	__u32 gwi; /* interface indices */
	__u32 gwo;
	__u32 index; /* of its counters */
	__u16 tag;   /* of its flows: never used again while flows of an endpoint before it may live */
	__u16 flags;
};

/* Which endpoint a device belongs to, by interface index. */
struct device {
	__u32 index;
	__u16 tag;
	__u16 reserved;
	__u32 gwi; /* of its endpoint */
};

/* A GWLB node that may send to one of our addresses; presence is permission. */
struct tunnel_key {
	__be32 gwlb;
	__be32 appliance;
};

struct flow_key4 {
	__be32 src;
	__be32 dst;
	__be16 sport;
	__be16 dport;
	__u16 tag; /* of the endpoint */
	__u8 protocol;
	__u8 kind;
};

struct flow_key6 {
	__be32 src[4];
	__be32 dst[4];
	__be16 sport;
	__be16 dport;
	__u16 tag; /* of the endpoint */
	__u8 protocol;
	__u8 kind;
};

/* An ICMP error: who tells whom about which packet. */
struct error_key4 {
	__be32 src;
	__be32 dst;
	struct flow_key4 quote;
};

struct error_key6 {
	__be32 src[4];
	__be32 dst[4];
	struct flow_key6 quote;
};

/*
 * What has to be put around a packet so that the GWLB takes it back. All but the age is compared in
 * words of 8 bytes: no padding up to `uplink`.
 */
struct flow {
	__u8 options[OPTIONS_BYTES];
	__be32 gwlb;
	__be32 appliance;
	__be16 port;	  /* the GWLB's UDP source port */
	__u8 gwlb_mac[6]; /* of the GWLB, or of the router to it */
	__u8 uplink_mac[6];
	__u16 flags;
	__u32 uplink;	  /* interface index */
	__u32 seen_s; /* CLOCK_MONOTONIC, whole seconds */
} __attribute__((aligned(8)));

/* Reasons of gwlbtun/reasons.py for which the kernel path itself has to drop. */
enum drop_reason {
	DROP_TUN_WRITE_FAILED = 18,
	DROP_SEND_FAILED = 23,
	MAX_DROP_REASONS = 64,
};

/* Per CPU and endpoint. */
struct counters {
	__u64 packets_in;
	__u64 bytes_in;
	__u64 packets_out;
	__u64 bytes_out;
};

#endif
