/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The --tls options, which all commands with connections have, as CRIU has them.
 * In a table of long options: LP_TLS_OPTIONS; then, for any code that getopt
 * gives, tls_option().
 */
#ifndef LP_CLI_TLS_H
#define LP_CLI_TLS_H

#include <stdbool.h>

#include "net/tls.h"

struct tls_opts {
	bool on;
	const char *first; /* the first --tls-something that was said */
	struct lp_tls_files files;
};

enum { TLS_OPT = 1000, TLS_OPT_CACERT, TLS_OPT_CACRL, TLS_OPT_CERT, TLS_OPT_KEY, TLS_OPT_NO_CN };

#define LP_TLS_OPTIONS                                           \
	{ "tls", no_argument, NULL, TLS_OPT },                    \
	{ "tls-cacert", required_argument, NULL, TLS_OPT_CACERT }, \
	{ "tls-cacrl", required_argument, NULL, TLS_OPT_CACRL },  \
	{ "tls-cert", required_argument, NULL, TLS_OPT_CERT },    \
	{ "tls-key", required_argument, NULL, TLS_OPT_KEY },      \
	{ "tls-no-cn-verify", no_argument, NULL, TLS_OPT_NO_CN }

#define LP_TLS_USAGE                                                                               \
	"      --tls              encrypt, and show certificates both ways\n"                         \
	"      --tls-cacert FILE  who signs the other side's (default: " LP_TLS_CACERT ")\n"          \
	"      --tls-cacrl FILE   which of them are revoked (default: " LP_TLS_CACRL ",\n"            \
	"                         if there is one)\n"                                                 \
	"      --tls-cert FILE    ours (default: " LP_TLS_CERT ")\n"                                  \
	"      --tls-key FILE     its key (default: " LP_TLS_KEY ")\n"

/* False: @code is no option of these. */
bool tls_option(struct tls_opts *o, int code, const char *arg);
/*
 * The files of what was said; *out is NULL without --tls. With --tls-cert and so
 * on, but not --tls: -EINVAL, since nothing would be encrypted.
 */
int tls_load(const struct tls_opts *o, struct lp_tls **out, struct lp_err *err);
/* Only that check. */
int tls_check(const struct tls_opts *o, struct lp_err *err);

#endif
