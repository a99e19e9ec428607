/* SPDX-License-Identifier: GPL-2.0-only */
/* The metas of all messages, one pair of functions each; see doc/protocol.md. */
#include <errno.h>

#include "proto/proto.h"
#include "proto/wire.h"

/* User space ends below this, whatever the architecture. */
#define ADDR_END (UINT64_C(1) << 63)

static ssize_t done_put(const struct lp_out *o)
{
	return o->bad ? -ENOSPC : (ssize_t)o->n;
}

/* A meta with something behind it is not the message that we know. */
static int done_get(const struct lp_in *i)
{
	return i->bad || i->left ? -EBADMSG : 0;
}

static void put_str(struct lp_out *o, const char *p, size_t n)
{
	lp_put_str(o, p, n);
}

static struct lp_str get_str(struct lp_in *i)
{
	struct lp_str s;

	s.p = lp_get_str(i, &s.n);
	return s;
}

bool lp_ckpt_name_ok(const char *p, size_t n)
{
	size_t i;

	if (!n || n > LP_CKPT_NAME_MAX || *p == '.' || *p == '-')
		return false;
	for (i = 0; i < n; i++) {
		char c = p[i];

		if (!(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9') &&
		    (!c || !strchr("._@+-", c)))
			return false;
	}
	return true;
}

bool lp_file_name_ok(const char *p, size_t n)
{
	size_t i;

	if (!n || n > LP_FILE_NAME_MAX || (n == 1 && *p == '.') || (n == 2 && p[0] == '.' && p[1] == '.'))
		return false;
	for (i = 0; i < n; i++)
		if (p[i] == '/' || (unsigned char)p[i] < 0x20 || p[i] == 0x7f)
			return false;
	return true;
}

const char *lp_error_name(unsigned code)
{
	static const char *const names[] = { "?",     "protocol", "version", "unknown",
					     "stale", "busy",	  "range",   "io" };

	return names[code < sizeof(names) / sizeof(names[0]) ? code : 0];
}

ssize_t lp_put_hello(uint8_t *buf, size_t cap, const struct lp_hello *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->vmin, 2);
	lp_put_int(&o, m->vmax, 2);
	lp_put_int(&o, m->role, 1);
	lp_put_int(&o, 0, 3);
	lp_put_int(&o, m->encodings, 4);
	lp_put_int(&o, m->features, 4);
	lp_put_bytes(&o, m->ident, LP_IDENT_LEN);
	put_str(&o, m->name.p, m->name.n);
	return done_put(&o);
}

int lp_get_hello(const uint8_t *buf, size_t len, struct lp_hello *m)
{
	struct lp_in i = { .p = buf, .left = len };
	const uint8_t *ident;

	m->vmin = lp_get_int(&i, 2);
	m->vmax = lp_get_int(&i, 2);
	m->role = lp_get_int(&i, 1);
	lp_get_pad(&i, 3);
	m->encodings = lp_get_int(&i, 4);
	m->features = lp_get_int(&i, 4);
	ident = lp_get_bytes(&i, LP_IDENT_LEN);
	if (ident)
		memcpy(m->ident, ident, LP_IDENT_LEN);
	m->name = get_str(&i);
	if (done_get(&i) || m->vmin > m->vmax || m->role >= LP_NROLES)
		return -EBADMSG;
	/* Only a control connection may do without a checkpoint. */
	if (!m->name.n)
		return m->role == LP_ROLE_CONTROL ? 0 : -EBADMSG;
	return lp_ckpt_name_ok(m->name.p, m->name.n) ? 0 : -EBADMSG;
}

ssize_t lp_put_welcome(uint8_t *buf, size_t cap, const struct lp_welcome *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->version, 2);
	lp_put_int(&o, 0, 2);
	lp_put_int(&o, m->encodings, 4);
	lp_put_int(&o, m->features, 4);
	lp_put_int(&o, m->max_get, 4);
	lp_put_int(&o, m->max_requests, 4);
	lp_put_int(&o, m->idle_ms, 4);
	lp_put_int(&o, m->tasks, 4);
	lp_put_bytes(&o, m->ident, LP_IDENT_LEN);
	return done_put(&o);
}

int lp_get_welcome(const uint8_t *buf, size_t len, struct lp_welcome *m)
{
	struct lp_in i = { .p = buf, .left = len };
	const uint8_t *ident;

	m->version = lp_get_int(&i, 2);
	lp_get_pad(&i, 2);
	m->encodings = lp_get_int(&i, 4);
	m->features = lp_get_int(&i, 4);
	m->max_get = lp_get_int(&i, 4);
	m->max_requests = lp_get_int(&i, 4);
	m->idle_ms = lp_get_int(&i, 4);
	m->tasks = lp_get_int(&i, 4);
	ident = lp_get_bytes(&i, LP_IDENT_LEN);
	if (ident)
		memcpy(m->ident, ident, LP_IDENT_LEN);
	if (done_get(&i) || !m->version || !m->max_requests || m->max_get < LP_PROTO_PAGE ||
	    m->max_get % LP_PROTO_PAGE || m->idle_ms < 1000)
		return -EBADMSG;
	return 0;
}

ssize_t lp_put_error(uint8_t *buf, size_t cap, uint16_t code, const char *text)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, code, 2);
	lp_put_int(&o, 0, 2);
	put_str(&o, text, strnlen(text, LP_TEXT_MAX));
	return done_put(&o);
}

int lp_get_error(const uint8_t *buf, size_t len, struct lp_error_msg *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->code = lp_get_int(&i, 2);
	lp_get_pad(&i, 2);
	m->text = get_str(&i);
	return done_get(&i);
}

ssize_t lp_put_from(uint8_t *buf, size_t cap, uint32_t first)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, first, 4);
	return done_put(&o);
}

int lp_get_from(const uint8_t *buf, size_t len, uint32_t *first)
{
	struct lp_in i = { .p = buf, .left = len };

	*first = lp_get_int(&i, 4);
	return done_get(&i);
}

ssize_t lp_put_file_read(uint8_t *buf, size_t cap, const struct lp_file_read *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->off, 8);
	lp_put_int(&o, m->len, 4);
	put_str(&o, m->name.p, m->name.n);
	return done_put(&o);
}

int lp_get_file_read(const uint8_t *buf, size_t len, struct lp_file_read *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->off = lp_get_int(&i, 8);
	m->len = lp_get_int(&i, 4);
	m->name = get_str(&i);
	if (done_get(&i) || !lp_file_name_ok(m->name.p, m->name.n) || m->off >= ADDR_END || !m->len)
		return -EBADMSG;
	return 0;
}

ssize_t lp_put_file_data(uint8_t *buf, size_t cap, const struct lp_file_data *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->off, 8);
	lp_put_int(&o, m->sum, 8);
	return done_put(&o);
}

int lp_get_file_data(const uint8_t *buf, size_t len, struct lp_file_data *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->off = lp_get_int(&i, 8);
	m->sum = lp_get_int(&i, 8);
	return done_get(&i);
}

ssize_t lp_put_get(uint8_t *buf, size_t cap, const struct lp_get *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->obj, 4);
	lp_put_int(&o, m->len, 4);
	lp_put_int(&o, m->addr, 8);
	lp_put_int(&o, m->urgency, 1);
	lp_put_int(&o, 0, 7);
	return done_put(&o);
}

int lp_get_get(const uint8_t *buf, size_t len, struct lp_get *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->obj = lp_get_int(&i, 4);
	m->len = lp_get_int(&i, 4);
	m->addr = lp_get_int(&i, 8);
	m->urgency = lp_get_int(&i, 1);
	lp_get_pad(&i, 7);
	if (done_get(&i) || !m->len || m->len > LP_GET_MAX || m->len % LP_PROTO_PAGE || m->addr % LP_PROTO_PAGE ||
	    m->addr >= ADDR_END || m->len > ADDR_END - m->addr)
		return -EBADMSG;
	return 0;
}

ssize_t lp_put_pages(uint8_t *buf, size_t cap, const struct lp_pages *m)
{
	struct lp_out o = { .p = buf, .cap = cap };
	unsigned k;

	lp_put_int(&o, m->obj, 4);
	lp_put_int(&o, m->nruns, 2);
	lp_put_int(&o, 0, 2);
	for (k = 0; k < m->nruns; k++) {
		lp_put_int(&o, m->runs[k].addr, 8);
		lp_put_int(&o, m->runs[k].len, 4);
		lp_put_int(&o, m->runs[k].stored, 4);
		lp_put_int(&o, m->runs[k].sum, 8);
		lp_put_int(&o, m->runs[k].enc, 4);
		lp_put_int(&o, m->runs[k].back, 4);
	}
	return done_put(&o);
}

/* @before: how much of the frame's bytes is in front of it. */
static bool run_ok(const struct lp_run *r, uint64_t before)
{
	if (!r->len || r->len > LP_GET_MAX || r->len % LP_PROTO_PAGE || r->addr % LP_PROTO_PAGE || r->addr >= ADDR_END)
		return false;
	if (r->enc != LP_ENC_SAME && r->back)
		return false;
	switch (r->enc) {
	case LP_ENC_HOLE:
	case LP_ENC_ZERO:
		return !r->stored;
	case LP_ENC_RAW:
		return r->stored == r->len;
	case LP_ENC_SAME:
		return !r->stored && r->back && r->back <= before && !(r->back % LP_PROTO_PAGE);
	case LP_ENC_LZ4:
	case LP_ENC_ZSTD:
		return r->stored && r->stored < r->len;
	default:
		return false;
	}
}

int lp_get_pages(const uint8_t *buf, size_t len, uint32_t data, struct lp_pages *m)
{
	struct lp_in i = { .p = buf, .left = len };
	uint64_t stored = 0;
	unsigned k;

	m->obj = lp_get_int(&i, 4);
	m->nruns = lp_get_int(&i, 2);
	lp_get_pad(&i, 2);
	if (i.bad || !m->nruns || m->nruns > LP_RUNS_MAX)
		return -EBADMSG;
	for (k = 0; k < m->nruns; k++) {
		struct lp_run *r = &m->runs[k];

		r->addr = lp_get_int(&i, 8);
		r->len = lp_get_int(&i, 4);
		r->stored = lp_get_int(&i, 4);
		r->sum = lp_get_int(&i, 8);
		r->enc = lp_get_int(&i, 4);
		r->back = lp_get_int(&i, 4);
		if (i.bad || !run_ok(r, r->addr - m->runs[0].addr) || (k && r->addr != r[-1].addr + r[-1].len))
			return -EBADMSG;
		stored += r->stored;
	}
	return done_get(&i) || stored != data ? -EBADMSG : 0;
}

ssize_t lp_put_list(uint8_t *buf, size_t cap, const struct lp_list *m)
{
	struct lp_out o = { .p = buf, .cap = cap };

	lp_put_int(&o, m->total, 4);
	lp_put_int(&o, m->first, 4);
	lp_put_int(&o, m->n, 2);
	return done_put(&o);
}

ssize_t lp_put_item(uint8_t *buf, size_t cap, const uint64_t *size, const char *name)
{
	struct lp_out o = { .p = buf, .cap = cap };

	if (size)
		lp_put_int(&o, *size, 8);
	put_str(&o, name, strlen(name));
	return done_put(&o);
}

int lp_get_list(const uint8_t *buf, size_t len, struct lp_list *m)
{
	struct lp_in i = { .p = buf, .left = len };

	m->total = lp_get_int(&i, 4);
	m->first = lp_get_int(&i, 4);
	m->n = lp_get_int(&i, 2);
	m->p = i.p;
	m->end = i.p + i.left;
	return i.bad || m->first > m->total || m->n > m->total - m->first ? -EBADMSG : 0;
}

int lp_get_item(struct lp_list *m, uint64_t *size, struct lp_str *name)
{
	struct lp_in i = { .p = m->p, .left = m->end - m->p };

	if (size)
		*size = lp_get_int(&i, 8);
	*name = get_str(&i);
	m->p = i.p;
	if (i.bad || (size && *size >= ADDR_END))
		return -EBADMSG;
	return (size ? lp_file_name_ok : lp_ckpt_name_ok)(name->p, name->n) ? 0 : -EBADMSG;
}
