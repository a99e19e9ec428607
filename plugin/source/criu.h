/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Pages from CRIU's page server: those that are not in the local images, since
 * `criu dump --lazy-pages` has kept them. The others come from the files.
 */
#ifndef LP_SOURCE_CRIU_H
#define LP_SOURCE_CRIU_H

#include "net/addr.h"
#include "proto/criu_ps.h"
#include "source/source.h"

struct lp_criu_conf {
	struct lp_addr addr;
	enum lp_ps_layout layout; /* LP_PS_UNKNOWN: that of the CRIU that wrote the images */
	bool all; /* also lazy pages that the top images have, as stock does; what is in parents never */
	struct lp_tls *tls; /* borrowed until open returns; NULL: none */
	bool plain;	    /* although there is TLS: the URL says tls=no */
	unsigned timeout_ms;
	uint64_t cache; /* bytes of taken pages to keep; 0: a default */
};

/* criu:HOST:PORT[?OPTION[&OPTION]]: layout=24, layout=32, pages=missing, pages=all, cache=MiB, tls=no. */
bool lp_criu_url_is(const char *s);
int lp_criu_url_parse(const char *s, struct lp_criu_conf *conf, struct lp_err *err);

/* Connects at once: a source that is not there costs nothing yet. @im is borrowed until close. */
int lp_source_criu_open(const struct lp_images *im, const struct lp_criu_conf *conf, struct lp_source **out,
			struct lp_err *err);
/*
 * Before close: all that was needed has come, so that the source may end. A
 * source that is closed without this takes it for a failed migration, and lets
 * its tasks go on. 0, or why it did not take leave.
 */
int lp_source_criu_done(struct lp_source *s);
/* Bytes received, requests sent. */
void lp_source_criu_stats(struct lp_source *s, uint64_t *bytes, uint64_t *requests);

#endif
