/* SPDX-License-Identifier: GPL-2.0-only */
/* What is noted in the journal: a cell of what was filled never grows beyond a change of what addresses mean. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "restore/internal.h"

#define PG UINT64_C(0x1000)

/* Two pages side by side are filled, and @between happens: how many cells tell of fills? */
static unsigned cells(void (*between)(struct lp_mm *mm))
{
	struct lp_restore *r = calloc(1, sizeof(*r));
	struct lp_jzone zone = { .gen = 1 };
	struct lp_mm mm = { .r = r };
	unsigned n = 0;
	struct lp_err err;
	uint64_t i;

	assert_non_null(r);
	assert_int_equal(lp_journal_create(&r->j, &err), 0);
	r->zone = &zone;
	note_filled(&mm, 16 * PG, PG);
	if (between)
		between(&mm);
	note_filled(&mm, 17 * PG, PG);
	for (i = 0; i < lp_journal_count(r->j); i++)
		n += lp_jkind(r->j->cells[i].word) == LP_J_DONE;
	lp_journal_free(r->j);
	free(r);
	return n;
}

static void message(struct lp_mm *mm)
{
	const struct uffd_msg m = { .event = UFFD_EVENT_REMOVE };

	note_message(mm, &m, 0, NULL, 0);
}

/* What the messages before have moved there is there now. */
static void settled(struct lp_mm *mm)
{
	note_begin(mm->r);
	note_call(mm, LP_J_SETTLED);
}

static void filled(void **state)
{
	assert_int_equal(cells(NULL), 1);
	assert_int_equal(cells(message), 2);
	assert_int_equal(cells(settled), 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = { cmocka_unit_test(filled) };

	return cmocka_run_group_tests(tests, NULL, NULL);
}
