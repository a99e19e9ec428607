/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TLS: loading certificates, and sessions over non-blocking sockets; see tls.h
 * and stream.h. Owns the credentials and the sessions; a session holds a
 * reference to the credentials it was made with.
 *
 * A session is used by one thread that sends and one that receives. GnuTLS
 * allows that only within limits (key updates, alerts), so a lock is held for
 * each call. None of them sleeps: sockets are non-blocking.
 */
#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "net/internal.h"
#include "net/stream.h"

/* AES-128 first: with the CPU's instructions it is the fastest, and not the weakest link. */
#define PRIORITY \
	"NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:%SERVER_PRECEDENCE"
/* The largest record. */
#define RECORD ((size_t)16384)

/* A peer that makes GnuTLS say "nothing yet" more often than this in a row is up to no good. */
#define IDLE_ROUNDS 32

struct lp_tls {
	_Atomic unsigned refs;
	gnutls_certificate_credentials_t cred;
	gnutls_priority_t prio;
	bool no_cn_verify;
};

struct lp_session {
	struct lp_tls *tls;
	gnutls_session_t s;
	pthread_mutex_t lock;
	bool server, shaking;
	size_t unsent; /* bytes of the record that GnuTLS holds for a full socket */
	char host[256];
	char why[200];
	uint8_t gather[RECORD];
};

/* ---- credentials ---- */

static int bad_file(struct lp_err *err, const char *opt, const char *path, int rc)
{
	return lp_err(err, -EINVAL, "%s %s: %s", opt, path, gnutls_strerror(rc));
}

static int readable(const char *opt, const char *path, struct lp_err *err)
{
	return access(path, R_OK) ? lp_err_sys(err, -errno, "%s %s", opt, path) : 0;
}

static int load(struct lp_tls *t, const struct lp_tls_files *f, struct lp_err *err)
{
	const char *ca = f->cacert ? f->cacert : LP_TLS_CACERT, *crl = f->cacrl ? f->cacrl : LP_TLS_CACRL;
	const char *cert = f->cert ? f->cert : LP_TLS_CERT, *key = f->key ? f->key : LP_TLS_KEY;
	int rc;

	if (gnutls_certificate_allocate_credentials(&t->cred) || gnutls_priority_init(&t->prio, PRIORITY, NULL))
		return lp_err(err, -ENOMEM, "TLS: out of memory, or no TLS 1.3 in this GnuTLS");
	rc = readable("--tls-cacert", ca, err);
	if (!rc)
		rc = readable("--tls-cert", cert, err);
	if (!rc)
		rc = readable("--tls-key", key, err);
	if (!rc && (f->cacrl || !access(crl, F_OK)))
		rc = readable("--tls-cacrl", crl, err);
	else
		crl = NULL;
	if (rc)
		return rc;
	rc = gnutls_certificate_set_x509_trust_file(t->cred, ca, GNUTLS_X509_FMT_PEM);
	if (rc <= 0)
		return rc ? bad_file(err, "--tls-cacert", ca, rc) :
			    lp_err(err, -EINVAL, "--tls-cacert %s: no certificate in it", ca);
	if (crl) {
		rc = gnutls_certificate_set_x509_crl_file(t->cred, crl, GNUTLS_X509_FMT_PEM);
		if (rc <= 0)
			return rc ? bad_file(err, "--tls-cacrl", crl, rc) :
				    lp_err(err, -EINVAL, "--tls-cacrl %s: no revocation list in it", crl);
	}
	rc = gnutls_certificate_set_x509_key_file(t->cred, cert, key, GNUTLS_X509_FMT_PEM);
	if (rc == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
		return lp_err(err, -EINVAL, "--tls-key %s is not the key of --tls-cert %s", key, cert);
	return rc < 0 ? lp_err(err, -EINVAL, "--tls-cert %s, --tls-key %s: %s", cert, key, gnutls_strerror(rc)) : 0;
}

int lp_tls_load(const struct lp_tls_files *files, struct lp_tls **out, struct lp_err *err)
{
	struct lp_tls *t = calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return lp_err(err, -ENOMEM, "out of memory");
	/* GnuTLS would write the keys of all connections there. */
	unsetenv("SSLKEYLOGFILE");
	t->refs = 1;
	t->no_cn_verify = files->no_cn_verify;
	rc = load(t, files, err);
	if (rc)
		lp_tls_put(t);
	else
		*out = t;
	return rc;
}

struct lp_tls *lp_tls_get(struct lp_tls *t)
{
	if (t)
		atomic_fetch_add(&t->refs, 1);
	return t;
}

void lp_tls_put(struct lp_tls *t)
{
	if (!t || atomic_fetch_sub(&t->refs, 1) != 1)
		return;
	if (t->cred)
		gnutls_certificate_free_credentials(t->cred);
	if (t->prio)
		gnutls_priority_deinit(t->prio);
	free(t);
}

/* ---- sessions ---- */

int lp_stream_tls(struct lp_stream *s, struct lp_tls *t, bool server, const char *host)
{
	struct lp_session *x = calloc(1, sizeof(*x));
	unsigned flags = (server ? GNUTLS_SERVER | GNUTLS_NO_TICKETS : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL;

	if (!x)
		return -ENOMEM;
	if (gnutls_init(&x->s, flags)) {
		free(x);
		return -ENOMEM;
	}
	pthread_mutex_init(&x->lock, NULL);
	x->tls = lp_tls_get(t);
	x->server = server;
	x->shaking = true;
	if (!server)
		snprintf(x->host, sizeof(x->host), "%s", host);
	if (gnutls_priority_set(x->s, t->prio) || gnutls_credentials_set(x->s, GNUTLS_CRD_CERTIFICATE, t->cred)) {
		lp_session_free(x);
		return -ENOMEM;
	}
	gnutls_transport_set_int(x->s, s->fd);
	if (server) {
		gnutls_certificate_server_set_request(x->s, GNUTLS_CERT_REQUIRE);
		/* Who may come in is nobody's business. */
		gnutls_certificate_send_x509_rdn_sequence(x->s, 1);
	}
	/* The certificate is looked at within the handshake: nothing is sent to a stranger. */
	gnutls_session_set_verify_cert(x->s, server || t->no_cn_verify ? NULL : x->host, 0);
	gnutls_handshake_set_timeout(x->s, GNUTLS_INDEFINITE_TIMEOUT); /* the caller has its own */
	s->tls = x;
	return 0;
}

void lp_session_free(struct lp_session *x)
{
	gnutls_deinit(x->s);
	lp_tls_put(x->tls);
	pthread_mutex_destroy(&x->lock);
	free(x);
}

/* Why the peer's certificate is no good, and what to tell it. */
static const char *verdict(unsigned status, gnutls_alert_description_t *alert)
{
	*alert = GNUTLS_A_BAD_CERTIFICATE;
	if (status & GNUTLS_CERT_REVOKED) {
		*alert = GNUTLS_A_CERTIFICATE_REVOKED;
		return "is revoked (--tls-cacrl)";
	}
	if (status & (GNUTLS_CERT_REVOCATION_DATA_SUPERSEDED | GNUTLS_CERT_REVOCATION_DATA_ISSUED_IN_FUTURE))
		return "cannot be checked: the revocation list (--tls-cacrl) is out of date";
	if (status & (GNUTLS_CERT_SIGNER_NOT_FOUND | GNUTLS_CERT_SIGNER_NOT_CA | GNUTLS_CERT_SIGNATURE_FAILURE)) {
		*alert = GNUTLS_A_UNKNOWN_CA;
		return "is not signed by our CA (--tls-cacert)";
	}
	if (status & GNUTLS_CERT_EXPIRED) {
		*alert = GNUTLS_A_CERTIFICATE_EXPIRED;
		return "has expired";
	}
	if (status & GNUTLS_CERT_NOT_ACTIVATED) {
		*alert = GNUTLS_A_CERTIFICATE_EXPIRED;
		return "is not valid yet";
	}
	if (status & GNUTLS_CERT_UNEXPECTED_OWNER)
		return "is for another host than the one we asked for";
	return "is not acceptable";
}

/* What GnuTLS said, as -errno and in words. The lock is held. */
static int failure(struct lp_session *x, int rc)
{
	const char *peer = x->server ? "client" : "server";
	gnutls_alert_description_t alert;
	const char *what;

	switch (rc) {
	case GNUTLS_E_AGAIN:
		return -EAGAIN;
	case GNUTLS_E_PUSH_ERROR:
	case GNUTLS_E_PULL_ERROR:
		return errno == EAGAIN || !errno ? -EPIPE : -errno;
	case GNUTLS_E_PREMATURE_TERMINATION:
		if (x->shaking)
			snprintf(x->why, sizeof(x->why), "the %s closed the connection in the TLS handshake", peer);
		return -EPIPE;
	case GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR:
		what = verdict(gnutls_session_get_verify_cert_status(x->s), &alert);
		snprintf(x->why, sizeof(x->why), "TLS: the %s's certificate %s", peer, what);
		(void)gnutls_alert_send(x->s, GNUTLS_AL_FATAL, alert);
		return -EKEYREJECTED;
	case GNUTLS_E_NO_CERTIFICATE_FOUND:
	case GNUTLS_E_CERTIFICATE_REQUIRED:
		snprintf(x->why, sizeof(x->why), "TLS: the %s shows no certificate", peer);
		(void)gnutls_alert_send_appropriate(x->s, rc);
		return -EKEYREJECTED;
	case GNUTLS_E_FATAL_ALERT_RECEIVED:
		alert = gnutls_alert_get(x->s);
		what = gnutls_alert_get_name(alert);
		snprintf(x->why, sizeof(x->why), "TLS: the %s refuses us: %s", peer, what ? what : "unknown alert");
		switch (alert) {
		case GNUTLS_A_BAD_CERTIFICATE:
		case GNUTLS_A_CERTIFICATE_EXPIRED:
		case GNUTLS_A_CERTIFICATE_REVOKED:
		case GNUTLS_A_CERTIFICATE_UNKNOWN:
		case GNUTLS_A_CERTIFICATE_REQUIRED:
		case GNUTLS_A_UNKNOWN_CA:
		case GNUTLS_A_ACCESS_DENIED:
			return -EKEYREJECTED;
		default:
			return -EPROTO;
		}
	case GNUTLS_E_UNEXPECTED_PACKET_LENGTH:
	case GNUTLS_E_UNSUPPORTED_VERSION_PACKET:
	case GNUTLS_E_UNEXPECTED_PACKET:
		if (x->shaking) {
			snprintf(x->why, sizeof(x->why), "the %s does not speak TLS%s", peer,
				 x->server ? "" : ": was it started with --tls?");
			return -EPROTO;
		}
		/* fall through */
	default:
		snprintf(x->why, sizeof(x->why), "TLS: %s", gnutls_strerror(rc));
		if (x->shaking)
			(void)gnutls_alert_send_appropriate(x->s, rc);
		return -EPROTO;
	}
}

int lp_stream_handshake(struct lp_stream *s)
{
	struct lp_session *x = s->tls;
	int rc, rounds = 0;

	if (!x)
		return 0;
	pthread_mutex_lock(&x->lock);
	x->why[0] = 0;
	do
		rc = gnutls_handshake(x->s);
	while (rc != GNUTLS_E_AGAIN && rc < 0 && !gnutls_error_is_fatal(rc) && ++rounds < IDLE_ROUNDS);
	rc = rc ? failure(x, rc) : 0;
	if (!rc)
		x->shaking = false;
	pthread_mutex_unlock(&x->lock);
	return rc;
}

short lp_stream_events(const struct lp_stream *s)
{
	return s->tls && gnutls_record_get_direction(s->tls->s) ? POLLOUT : POLLIN;
}

ssize_t lp_session_recv(struct lp_session *x, void *p, size_t len)
{
	int rounds = 0;
	ssize_t n;

	pthread_mutex_lock(&x->lock);
	do
		n = gnutls_record_recv(x->s, p, len);
	while (n != GNUTLS_E_AGAIN && n < 0 && !gnutls_error_is_fatal((int)n) && ++rounds < IDLE_ROUNDS);
	if (n < 0)
		n = failure(x, (int)n);
	pthread_mutex_unlock(&x->lock);
	return n;
}

/*
 * One record of what comes first in @iov, from @skip bytes on: right from there
 * if that is enough for a whole one, else gathered, so that a small answer is
 * one record.
 */
static ssize_t send_record(struct lp_session *x, const struct iovec *iov, unsigned n, size_t skip)
{
	const uint8_t *p;
	size_t len = 0;
	ssize_t k;

	if (x->unsent) { /* these bytes again: GnuTLS has them */
		k = gnutls_record_send(x->s, NULL, 0);
	} else {
		while (n && skip >= iov->iov_len) {
			skip -= iov->iov_len;
			iov++;
			n--;
		}
		if (!n)
			return 0;
		p = (const uint8_t *)iov->iov_base + skip;
		if (iov->iov_len - skip >= RECORD || n == 1) {
			len = iov->iov_len - skip < RECORD ? iov->iov_len - skip : RECORD;
		} else {
			for (; n && len < RECORD; iov++, n--, skip = 0) {
				size_t part = iov->iov_len - skip;

				if (part > RECORD - len)
					part = RECORD - len;
				memcpy(x->gather + len, (const uint8_t *)iov->iov_base + skip, part);
				len += part;
			}
			p = x->gather;
		}
		if (!len)
			return 0;
		x->unsent = len;
		k = gnutls_record_send(x->s, p, len);
	}
	if (k == GNUTLS_E_AGAIN || k == GNUTLS_E_INTERRUPTED)
		return k;
	x->unsent = 0;
	return k;
}

ssize_t lp_session_send(struct lp_session *x, const struct iovec *iov, unsigned n)
{
	size_t sent = 0;
	ssize_t k;

	pthread_mutex_lock(&x->lock);
	for (;;) {
		k = send_record(x, iov, n, sent);
		if (k == GNUTLS_E_INTERRUPTED)
			continue;
		if (k <= 0)
			break;
		sent += k;
	}
	if (k < 0 && (k != GNUTLS_E_AGAIN || !sent))
		k = failure(x, (int)k);
	else
		k = (ssize_t)sent;
	pthread_mutex_unlock(&x->lock);
	return k;
}

bool lp_stream_pending(const struct lp_stream *s)
{
	bool some;

	if (!s->tls)
		return false;
	pthread_mutex_lock(&s->tls->lock);
	some = gnutls_record_check_pending(s->tls->s) > 0;
	pthread_mutex_unlock(&s->tls->lock);
	return some;
}

const char *lp_stream_why(const struct lp_stream *s)
{
	return s->tls && s->tls->why[0] ? s->tls->why : NULL;
}

void lp_session_end(struct lp_session *x)
{
	pthread_mutex_lock(&x->lock);
	if (!x->shaking && !x->unsent)
		(void)gnutls_bye(x->s, GNUTLS_SHUT_WR);
	pthread_mutex_unlock(&x->lock);
}

bool lp_stream_peer(const struct lp_stream *s, unsigned i, char *buf, size_t len)
{
	const gnutls_datum_t *list;
	gnutls_x509_crt_t crt;
	unsigned n = 0, k, seq;
	bool found = false;
	size_t size;
	int type;

	if (!s->tls || s->tls->shaking)
		return false;
	pthread_mutex_lock(&s->tls->lock);
	list = gnutls_certificate_get_peers(s->tls->s, &n);
	if (!list || !n || gnutls_x509_crt_init(&crt)) {
		pthread_mutex_unlock(&s->tls->lock);
		return false;
	}
	if (!gnutls_x509_crt_import(crt, &list[0], GNUTLS_X509_FMT_DER)) {
		size = len;
		k = 0;
		if (!gnutls_x509_crt_get_dn_by_oid(crt, GNUTLS_OID_X520_COMMON_NAME, 0, 0, buf, &size))
			found = k++ == i;
		for (seq = 0; !found; seq++) {
			size = len - 1;
			type = gnutls_x509_crt_get_subject_alt_name(crt, seq, buf, &size, NULL);
			if (type == GNUTLS_E_REQUESTED_DATA_NOT_AVAILABLE)
				break;
			if (type != GNUTLS_SAN_DNSNAME && type != GNUTLS_SAN_RFC822NAME && type != GNUTLS_SAN_URI)
				continue;
			buf[size] = 0;
			/* A zero within would make it look like another name. */
			if (strlen(buf) == size)
				found = k++ == i;
		}
	}
	gnutls_x509_crt_deinit(crt);
	pthread_mutex_unlock(&s->tls->lock);
	return found;
}
