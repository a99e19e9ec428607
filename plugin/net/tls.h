/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * TLS 1.3 with certificates on both sides (GnuTLS), as CRIU's --tls-* options
 * have it. Here: the files of one side, loaded and checked. Connections over
 * them: stream.h.
 *
 * Nobody but the CA of --tls-cacert is trusted, not the system's CAs as well:
 * they would vouch for any client of the world.
 */
#ifndef LP_NET_TLS_H
#define LP_NET_TLS_H

#include <stdbool.h>

#include "base/err.h"

/* Paths, borrowed; NULL: where CRIU looks, LP_TLS_CACERT and so on. */
struct lp_tls_files {
	const char *cacert, *cacrl, *cert, *key;
	bool no_cn_verify; /* a client does not ask whether the certificate is for the host */
};

#define LP_TLS_CACERT "/etc/pki/CA/cacert.pem"
#define LP_TLS_CACRL  "/etc/pki/CA/cacrl.pem" /* need not exist */
#define LP_TLS_CERT   "/etc/pki/criu/cert.pem"
#define LP_TLS_KEY    "/etc/pki/criu/private/key.pem"

/* Loaded; counted, since connections outlive a reload. Safe in all threads. */
struct lp_tls;

int lp_tls_load(const struct lp_tls_files *files, struct lp_tls **out, struct lp_err *err);
struct lp_tls *lp_tls_get(struct lp_tls *t);
/* NULL is fine. */
void lp_tls_put(struct lp_tls *t);

#endif
