/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One-line error messages that travel upwards.
 *
 * Functions return 0 or -errno. Where a message helps, the callee also fills
 * a caller-owned struct lp_err: it names the object, the value and the remedy,
 * has no newline, and is printed once, by the layer that knows the context.
 */
#ifndef LP_BASE_ERR_H
#define LP_BASE_ERR_H

struct lp_err {
	char msg[512];
};

/*
 * Format @fmt into @err (which may be NULL) and return @rc, a negative errno,
 * so that callers can write `return lp_err(err, -EINVAL, "...")`.
 */
int lp_err(struct lp_err *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* The same, with ": " and the text of errno -@rc appended. */
int lp_err_sys(struct lp_err *err, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
