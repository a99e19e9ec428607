/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The log of a lazypages process: one line a call, written with one write(),
 * so that threads do not mix. Levels are CRIU's (-v0 .. -v4).
 */
#ifndef LP_BASE_LOG_H
#define LP_BASE_LOG_H

enum lp_log_level {
	LP_LOG_MSG = 0,	  /* always: summaries */
	LP_LOG_ERROR = 1, /* something needs a person */
	LP_LOG_WARN = 2,
	LP_LOG_INFO = 3,  /* steps of a restore */
	LP_LOG_DEBUG = 4, /* every event and order */
};

/*
 * Log to @path (created or truncated), or to stderr when NULL, lines up to
 * @level. lp_log_append() leaves what is there. Returns 0 or -errno. Not thread-safe; call before threads start.
 */
int lp_log_init(const char *path, int level);
int lp_log_append(const char *path, int level);
/* The descriptor it writes to. */
int lp_log_fd(void);
void lp_log(int level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

extern int lp_log_level;

#define pr_msg(...)   lp_log(LP_LOG_MSG, __VA_ARGS__)
#define pr_err(...)   lp_log(LP_LOG_ERROR, "Error: " __VA_ARGS__)
#define pr_warn(...)  lp_log(LP_LOG_WARN, "Warn: " __VA_ARGS__)
#define pr_info(...)  lp_log(LP_LOG_INFO, __VA_ARGS__)
/* The arguments are not evaluated below -v4: this one is on the fault path. */
#define pr_debug(...) do { if (lp_log_level >= LP_LOG_DEBUG) lp_log(LP_LOG_DEBUG, __VA_ARGS__); } while (0)

#endif
