/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cursors over byte buffers, little endian, for plugin/proto only. A cursor
 * that runs over its end turns bad and stays so; nothing is read or written
 * beyond, and the caller checks once at the end.
 */
#ifndef LP_PROTO_WIRE_H
#define LP_PROTO_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct lp_out {
	uint8_t *p;
	size_t n, cap;
	bool bad;
};

struct lp_in {
	const uint8_t *p;
	size_t left;
	bool bad;
};

static inline void lp_store(uint8_t *p, uint64_t v, unsigned bytes)
{
	unsigned i;

	for (i = 0; i < bytes; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t lp_load(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;
	unsigned i;

	for (i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

static inline void lp_put_int(struct lp_out *o, uint64_t v, unsigned bytes)
{
	if (o->bad || o->cap - o->n < bytes) {
		o->bad = true;
		return;
	}
	lp_store(o->p + o->n, v, bytes);
	o->n += bytes;
}

static inline void lp_put_bytes(struct lp_out *o, const void *p, size_t n)
{
	if (o->bad || o->cap - o->n < n) {
		o->bad = true;
		return;
	}
	if (n)
		memcpy(o->p + o->n, p, n);
	o->n += n;
}

static inline uint64_t lp_get_int(struct lp_in *i, unsigned bytes)
{
	uint64_t v;

	if (i->bad || i->left < bytes) {
		i->bad = true;
		return 0;
	}
	v = lp_load(i->p, bytes);
	i->p += bytes;
	i->left -= bytes;
	return v;
}

/* Borrowed; NULL when there are not so many. */
static inline const uint8_t *lp_get_bytes(struct lp_in *i, size_t n)
{
	const uint8_t *p = i->p;

	if (i->bad || i->left < n) {
		i->bad = true;
		return NULL;
	}
	i->p += n;
	i->left -= n;
	return p;
}

/* A string: u8 length and its bytes. */
static inline void lp_put_str(struct lp_out *o, const char *p, size_t n)
{
	if (n > 255)
		o->bad = true;
	lp_put_int(o, n, 1);
	lp_put_bytes(o, p, n);
}

static inline const char *lp_get_str(struct lp_in *i, size_t *n)
{
	const char *p;

	*n = lp_get_int(i, 1);
	p = (const char *)lp_get_bytes(i, *n);
	if (!p)
		*n = 0;
	return p;
}

/* Bytes that must be zero. */
static inline void lp_get_pad(struct lp_in *i, unsigned bytes)
{
	while (bytes--)
		if (lp_get_int(i, 1))
			i->bad = true;
}

#endif
