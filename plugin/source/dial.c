/* SPDX-License-Identifier: GPL-2.0-only */
/* The client's side of a hello, and frames for code that may wait. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "source/remote_int.h"

int lp_recv_frame(struct lp_stream *s, struct lp_frame *f, uint8_t *meta, unsigned ms, const _Atomic bool *stop)
{
	uint8_t head[LP_FRAME_HEADER];
	int rc;

	rc = lp_stream_recv_all(s, head, sizeof(head), ms, stop);
	if (!rc)
		rc = lp_frame_get(head, false, f);
	if (!rc)
		rc = lp_stream_recv_all(s, meta, f->meta, ms, stop);
	return rc ? rc : lp_frame_check(head, meta);
}

int lp_refused(const struct lp_url *u, const uint8_t *meta, size_t len, struct lp_err *err)
{
	static const int codes[] = {
		[LP_ERROR_PROTOCOL] = -EPROTO, [LP_ERROR_VERSION] = -EPROTONOSUPPORT,
		[LP_ERROR_UNKNOWN] = -ENOENT,  [LP_ERROR_STALE] = -ESTALE,
		[LP_ERROR_BUSY] = -EBUSY,      [LP_ERROR_RANGE] = -ERANGE,
		[LP_ERROR_IO] = -EIO,
	};
	struct lp_error_msg m;
	char text[LP_TEXT_MAX + 1];
	size_t i;
	int rc;

	if (lp_get_error(meta, len, &m))
		return lp_err(err, -EBADMSG, "%s: malformed answer", u->text);
	/* It goes to logs and terminals. */
	for (i = 0; i < m.text.n; i++)
		text[i] = m.text.p[i] >= 0x20 && m.text.p[i] < 0x7f ? m.text.p[i] : '?';
	text[i] = 0;
	rc = m.code < sizeof(codes) / sizeof(codes[0]) ? codes[m.code] : 0;
	return lp_err(err, rc ? rc : -EPROTO, "%s: the server says: %s", u->text, text);
}

static int hello(struct lp_stream *s, const struct lp_url *u, enum lp_role role, const uint8_t *ident, uint32_t encodings,
		 unsigned ms, const _Atomic bool *stop, struct lp_welcome *w, struct lp_err *err)
{
	struct lp_hello h = {
		.vmin = LP_PROTO_VERSION,
		.vmax = LP_PROTO_VERSION,
		.role = role,
		.encodings = LP_ENC_BASE | (encodings & ~LP_COMPRESS_AUTO),
		.features = encodings & LP_COMPRESS_AUTO ? LP_FEATURE_AUTO : 0,
		.name = { u->name, strlen(u->name) },
	};
	uint8_t buf[LP_FRAME_HEADER + LP_META_TO_SERVER], meta[LP_META_TO_CLIENT];
	struct lp_frame f;
	ssize_t n;
	int rc;

	if (ident)
		memcpy(h.ident, ident, LP_IDENT_LEN);
	n = lp_put_hello(buf + LP_FRAME_HEADER, LP_META_TO_SERVER, &h);
	if (n < 0)
		return lp_err(err, -EINVAL, "%s: the name is too long", u->text);
	rc = lp_stream_send_all(s, buf, lp_frame_close(buf, LP_MSG_HELLO, 0, 0, n, 0), ms, stop);
	if (!rc)
		rc = lp_recv_frame(s, &f, meta, ms, stop);
	if (rc == -EBADMSG)
		return lp_err(err, rc, "%s: this is no lazypages server%s", u->text,
			      s->tls ? "" : ", or one that wants --tls");
	if (rc && lp_stream_why(s))
		return lp_err(err, rc, "%s: %s", u->text, lp_stream_why(s));
	if (rc == -EPIPE && !s->tls && !u->addr.unix_path)
		return lp_err(err, rc, "%s: the server closed the connection without a word: perhaps it wants --tls",
			      u->text);
	if (rc)
		return lp_err_sys(err, rc, "%s: no answer to our hello", u->text);
	if (f.type == LP_MSG_ERROR)
		return lp_refused(u, meta, f.meta, err);
	if (f.type != LP_MSG_WELCOME || f.data || lp_get_welcome(meta, f.meta, w) || w->version != LP_PROTO_VERSION)
		return lp_err(err, -EBADMSG, "%s: malformed answer to our hello", u->text);
	if (ident && memcmp(w->ident, ident, LP_IDENT_LEN))
		return lp_err(err, -ESTALE, "%s: the server has another checkpoint of this name", u->text);
	return 0;
}

int lp_dial(const struct lp_url *u, struct lp_tls *tls, enum lp_role role, const uint8_t *ident, uint32_t encodings,
	    unsigned ms, const _Atomic bool *stop, struct lp_stream *s, struct lp_welcome *w, struct lp_err *err)
{
	int rc = 0;

	*s = LP_STREAM_NONE;
	s->fd = lp_connect(&u->addr, ms, stop, err);
	if (s->fd < 0)
		return s->fd;
	if (!u->addr.unix_path)
		rc = lp_stream_shake(s, tls, u->addr.host, u->text, ms, stop, err);
	if (!rc)
		rc = hello(s, u, role, ident, encodings, ms, stop, w, err);
	if (rc)
		lp_stream_close(s);
	return rc;
}

int lp_remote_probe(const struct lp_url *urls, size_t n, struct lp_tls *tls, const uint8_t *ident, unsigned all_ms,
		    unsigned each_ms, struct lp_err *err)
{
	struct lp_stream s;
	struct lp_welcome w;
	bool found = false;
	int rc = -EINVAL;
	size_t i;

	if (n && each_ms > all_ms / n)
		each_ms = all_ms / n;
	for (i = 0; i < n; i++) {
		rc = lp_dial(&urls[i], tls, LP_ROLE_CONTROL, ident, 0, each_ms, NULL, &s, &w, err);
		if (rc == -ESTALE)
			return rc;
		if (!rc)
			lp_stream_close(&s);
		found |= !rc;
	}
	return found ? 0 : rc;
}
