/* SPDX-License-Identifier: GPL-2.0-only */
/* Directories for the unit tests of images: made before each test, removed after it. After cmocka.h. */
#ifndef LP_TEST_IMGFIXTURE_H
#define LP_TEST_IMGFIXTURE_H

#include <stdio.h>
#include <stdlib.h>

#include "images/images.h"
#include "test/lib/imgbuild.h"

#define N(a) (sizeof(a) / sizeof((a)[0]))
#define BASE UINT64_C(0x7f0000000000)
#define PG(n) (BASE + (uint64_t)(n) * IB_PAGE)

struct fixture {
	char dir[256];	  /* holds the directories below */
	char path[3][300]; /* dir/0 is the top, dir/1 its parent, ... */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	int i;

	if (!f || ib_tmpdir(f->dir))
		return -1;
	for (i = 0; i < 3; i++)
		snprintf(f->path[i], sizeof(f->path[i]), "%s/%d", f->dir, i);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ib_remove(f->dir);
	free(f);
	return 0;
}

static struct lp_images *open_ok(const char *dir)
{
	struct lp_err err = { "" };
	struct lp_images *im = NULL;

	if (lp_images_open(dir, &im, &err))
		fail_msg("%s", err.msg);
	assert_non_null(im);
	return im;
}

#endif
