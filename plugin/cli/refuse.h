/* SPDX-License-Identifier: GPL-2.0-only */
/* Checkpoints that CRIU would restore lazily with wrong bytes. */
#ifndef LP_CLI_REFUSE_H
#define LP_CLI_REFUSE_H

#include "images/images.h"

/*
 * -ENOTSUP and one line in @err for a checkpoint of which CRIU puts zeros where lazy
 * pages belong, before it registers anything. @huge: bytes of the smallest huge page
 * that the kernel makes by itself, 0: it makes none. To be asked before CRIU comes.
 */
int refuse_images(const struct lp_images *im, uint64_t huge, struct lp_err *err);

#endif
