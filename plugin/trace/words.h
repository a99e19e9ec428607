/* SPDX-License-Identifier: GPL-2.0-only */
/* Records in words: ioctls and messages as strace shows them, and what the engine said. Pure, like record.h. */
#ifndef LP_TRACE_WORDS_H
#define LP_TRACE_WORDS_H

#include "trace/record.h"

#define LP_WORDS_MAX 512

/* One line without time, thread and newline. */
void lp_rec_words(const struct lp_rec *r, char buf[LP_WORDS_MAX]);
/* "main", "reader", "urgent0", "bulk1". */
void lp_rec_thread(const struct lp_rec *r, char *buf, size_t len);
/* Is the page at @addr one of those that the record is about? */
bool lp_rec_about(const struct lp_rec *r, uint64_t addr);
/* "0", "EAGAIN", "yes" (1). */
const char *lp_rec_rc(uint64_t v);
/* Names of values, never NULL. */
const char *lp_rec_verdict(uint64_t v);
const char *lp_rec_mark(uint64_t v);
const char *lp_rec_how(uint64_t v);

#endif
