/* SPDX-License-Identifier: GPL-2.0-only */
/* Where tests may kill this process, see crash.h. The state belongs to the caller of lp_crash_init(). */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crash.h"

int lp_crash_armed;
static struct lp_crash_state *state;
static uint64_t at[LP_CRASH_COUNT]; /* the hit that kills, 0 none */
static uint64_t mean, max_kills;    /* of random */

static const char *const names[] = {
#define X(id, name) name,
	LP_CRASH_LABELS(X)
#undef X
};

const char *lp_crash_name(unsigned label)
{
	return label < LP_CRASH_COUNT ? names[label] : "?";
}

void lp_crash_list(FILE *f)
{
	unsigned i;

	for (i = 0; i < LP_CRASH_COUNT; i++)
		fprintf(f, "%s\n", names[i]);
}

static int parse_order(const char *s, size_t len)
{
	const char *colon = memchr(s, ':', len);
	unsigned i;
	char *end;
	uint64_t n;

	if (!colon)
		return -EINVAL;
	n = strtoull(colon + 1, &end, 10);
	if (!n || end != s + len)
		return -EINVAL;
	for (i = 0; i < LP_CRASH_COUNT; i++) {
		if (strlen(names[i]) == (size_t)(colon - s) && !memcmp(names[i], s, colon - s)) {
			at[i] = n;
			return 0;
		}
	}
	return -EINVAL;
}

int lp_crash_init(struct lp_crash_state *st)
{
	const char *s = getenv("LAZYPAGES_TEST_CRASH"), *comma;
	uint64_t seed = 0;
	int n, rc = 0;

	if (!s || !*s)
		return 0;
	state = st;
	max_kills = UINT64_MAX;
	n = sscanf(s, "random:%" SCNu64 ":%" SCNu64 ":%" SCNu64, &seed, &mean, &max_kills);
	if (n >= 2) {
		uint64_t none = 0;

		if (!mean)
			return -EINVAL;
		atomic_compare_exchange_strong(&st->rng, &none, seed | 1);
		lp_crash_armed = 1;
		return 0;
	}
	mean = 0;
	for (; !rc && *s; s = *comma ? comma + 1 : comma) {
		comma = strchrnul(s, ',');
		rc = parse_order(s, comma - s);
	}
	lp_crash_armed = !rc;
	return rc;
}

void lp_crash_hit(enum lp_crash_label l)
{
	uint64_t n = atomic_fetch_add(&state->hits[l], 1) + 1, x;

	if (mean) {
		x = atomic_fetch_add(&state->rng, UINT64_C(0x9E3779B97F4A7C15));
		x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
		x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
		x ^= x >> 31;
		if (x % mean || atomic_load(&state->killed) >= max_kills)
			return;
	} else if (n != at[l]) {
		return;
	}
	atomic_fetch_add(&state->killed, 1);
	atomic_store(&state->last, l + 1);
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}
