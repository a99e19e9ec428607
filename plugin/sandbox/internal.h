/* SPDX-License-Identifier: GPL-2.0-only */
/* Shared between the files of plugin/sandbox: not for others, see sandbox.h. */
#ifndef LP_SANDBOX_INTERNAL_H
#define LP_SANDBOX_INTERNAL_H

#include <stddef.h>
#include <stdint.h>

#include "sandbox/sandbox.h"

/* landlock.c. All: 0 or -errno; *ruleset -1: the kernel has no Landlock. */
int ll_create(bool dial, int *ruleset);
int ll_allow(int ruleset, const char *path, bool write);
int ll_restrict(int ruleset);
/* 0: none */
int ll_abi(void);

/* calls.c: the filter of @role. */
int calls_load(enum lp_role role, bool dial);
void calls_show(enum lp_role role, FILE *f);

/* caps.c */
int caps_drop(enum lp_role role);
void caps_show(enum lp_role role, FILE *f);

#endif
