/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The page-server protocol of CRIU itself, as pure functions on byte buffers:
 * its one header, page_server_iov, in both layouts. Pages follow a header as
 * they are. Numbers are in the byte order of the machine, which for now is
 * little endian.
 *
 *          up to CRIU 4.1, 24 bytes      from CRIU 4.2, 32 bytes
 *   0      u32 command                   u32 command
 *   4      u32 pages                     padding: whatever was on CRIU's stack
 *   8      u64 address                   u64 pages
 *   16     u64 destination               u64 address
 *   24                                   u64 destination
 *
 * No version is exchanged, so a server infers the layout from the first header,
 * and a client from the images (lp_images_wide()).
 */
#ifndef LP_CRIU_PS_H
#define LP_CRIU_PS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum lp_ps_cmd {
	LP_PS_ADD = 1,	  /* pages follow */
	LP_PS_HOLE = 2,	  /* they are in the parent */
	LP_PS_OPEN = 3,	  /* the pages of another object follow */
	LP_PS_OPEN2 = 4,  /* the same; answered by one byte: has it a parent? */
	LP_PS_PARENT = 5, /* has it a parent? answered by an int32 */
	LP_PS_ADD_F = 6,  /* pages with the flags of a pagemap entry; they follow if PRESENT */
	LP_PS_GET = 7,	  /* answered by ADD_F and pages, as many or fewer */
	LP_PS_CLOSE = 0x1023, /* the last one; answered by an int32, 0 */
	LP_PS_FORCE_CLOSE = 0x1024,
};

/* Flags of ADD_F: those of a pagemap entry. */
#define LP_PS_PARENT_FLAG  1u
#define LP_PS_LAZY_FLAG	   2u
#define LP_PS_PRESENT_FLAG 4u

enum lp_ps_layout { LP_PS_UNKNOWN = 0, LP_PS_24 = 24, LP_PS_32 = 32 };

#define LP_PS_MAX 32u /* bytes of a header, at most */
#define LP_PS_MIN 24u
#define LP_PS_PAGE UINT64_C(4096)

struct lp_ps {
	uint16_t cmd;	/* enum lp_ps_cmd */
	uint16_t flags; /* of ADD_F */
	uint64_t pages;
	uint64_t addr;
	uint64_t dst; /* of GET and its answer: a pid; else see lp_ps_object() */
};

/* Into @buf of LP_PS_MAX bytes: how many, or 0 when the count does not fit the layout. */
size_t lp_ps_put(uint8_t *buf, enum lp_ps_layout layout, const struct lp_ps *m);

/*
 * @buf holds `layout` bytes. 0, or -EBADMSG: an unknown command, a range that
 * is not page aligned, empty where it must not be, or not below 2^63.
 */
int lp_ps_get(const uint8_t *buf, enum lp_ps_layout layout, struct lp_ps *m);

/*
 * The layout of a connection whose first header begins with the @n bytes at
 * @buf. 0, -EAGAIN (at least LP_PS_MIN bytes are needed) or -EBADMSG. The
 * padding tells nothing, so what follows it must: an address is page aligned
 * and high, a count is small. A CLOSE that comes first looks the same in both.
 */
int lp_ps_infer(const uint8_t *buf, size_t n, enum lp_ps_layout *layout);

enum lp_ps_type { LP_PS_TASK = 1, LP_PS_SHMEM = 2 };

/* What a destination of a dump stands for: 0 or -EBADMSG. Knows the numbers of older CRIUs too. */
int lp_ps_object(uint64_t dst, enum lp_ps_type *type, uint64_t *id);
uint64_t lp_ps_dst(enum lp_ps_type type, uint64_t id);

#endif
