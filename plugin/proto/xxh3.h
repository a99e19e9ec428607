/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * XXH3 by the widest vectors that this CPU has. The library chooses at run time
 * only for who asks for it by this header, which not every build of it has; else
 * it was compiled for the oldest x86-64. The sums are the same.
 */
#ifndef LP_PROTO_XXH3_H
#define LP_PROTO_XXH3_H

#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif
