/* SPDX-License-Identifier: GPL-2.0-only */
/* The --tls options, see tls.h. */
#include <errno.h>
#include <stddef.h>

#include "cli/tls.h"

bool tls_option(struct tls_opts *o, int code, const char *arg)
{
	static const char *const names[] = { "--tls", "--tls-cacert", "--tls-cacrl", "--tls-cert", "--tls-key",
					     "--tls-no-cn-verify" };

	switch (code) {
	case TLS_OPT:
		o->on = true;
		return true;
	case TLS_OPT_CACERT:
		o->files.cacert = arg;
		break;
	case TLS_OPT_CACRL:
		o->files.cacrl = arg;
		break;
	case TLS_OPT_CERT:
		o->files.cert = arg;
		break;
	case TLS_OPT_KEY:
		o->files.key = arg;
		break;
	case TLS_OPT_NO_CN:
		o->files.no_cn_verify = true;
		break;
	default:
		return false;
	}
	if (!o->first)
		o->first = names[code - TLS_OPT];
	return true;
}

int tls_check(const struct tls_opts *o, struct lp_err *err)
{
	if (o->first && !o->on)
		return lp_err(err, -EINVAL, "%s without --tls: nothing would be encrypted", o->first);
	return 0;
}

int tls_load(const struct tls_opts *o, struct lp_tls **out, struct lp_err *err)
{
	int rc = tls_check(o, err);

	*out = NULL;
	return rc || !o->on ? rc : lp_tls_load(&o->files, out, err);
}
