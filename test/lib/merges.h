/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A fixed program: is a mapping that was split by mprotect() one VMA again when
 * that is undone? It must be, whichever page came when: see doc/design.md, "The
 * first page of each VMA".
 */
#ifndef LP_TEST_MERGES_H
#define LP_TEST_MERGES_H

#include "test/lib/imgbuild.h"

/* The mappings of the task, at least 4, and what is in its image, at least 3. */
void merges_plan(struct ib_vma *vmas, size_t *nvmas, struct ib_ent *ents, size_t *nents);
/*
 * To be run in the restored task while pages are still missing. Says on stderr
 * what did not merge and returns how many.
 */
unsigned merges_run(const struct ib_vma *vmas);

#endif
