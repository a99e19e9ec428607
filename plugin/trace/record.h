/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Records of what went into the engine and what came out of it, as bytes.
 * Pure functions on byte buffers: no files, no clock, no memory of their own,
 * no state. So they serve a file (the trace), shared memory (a journal), and
 * the thread that must not wait.
 *
 * A record is at most LP_REC_MAX bytes and stands for itself: to read one, its
 * bytes and its number (how many came before it) are enough.
 *
 *	0	u32	check: of the bytes that follow, and of the number
 *	4	u8	type
 *	5	u8	length of the whole record
 *	6	u16	thread that made it
 *	8	...	the fields of its type, LEB128 each, as short as they can be
 *
 * Numbers in little-endian order. The check covers the record's number too, so
 * that one which is missing, doubled or at another's place is found. A file
 * begins with the eight bytes of lp_trace_head() and then has nothing but records.
 */
#ifndef LP_TRACE_RECORD_H
#define LP_TRACE_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LP_TRACE_VERSION 3 /* 1 had no book, 2 no early faults; they are read as well */
#define LP_TRACE_HEAD 8

#define LP_REC_FIELDS 7 /* the time, and at most six of the type's own */
#define LP_REC_HEAD 8
#define LP_REC_MAX (LP_REC_HEAD + 10 * LP_REC_FIELDS)

/* Flags of LP_REC_BEGIN. */
#define LP_REC_BACKGROUND 1 /* it fills unasked */
#define LP_REC_OLD_SHRINK 2 /* of struct lp_engine_conf */

/* Never renumbered: what changes its fields gets a new number, and the version grows. */
enum lp_rec_type {
	/* The run */
	LP_REC_BEGIN = 1,	/* the first: configuration */
	LP_REC_END = 2,		/* the last of a trace that is whole */
	LP_REC_MARK = 3,	/* something that concerns all spaces, see enum lp_rec_mark */
	/* A space as it is handed over */
	LP_REC_SPACE = 16,
	LP_REC_EXTENT = 17,
	LP_REC_MISSING = 18,
	LP_REC_WIPED = 19,
	LP_REC_DONTFORK = 20,
	LP_REC_FREE = 21,
	/* Messages that were read, and what belongs to them */
	LP_REC_PAGEFAULT = 32,
	LP_REC_FORK = 33,
	LP_REC_REMAP = 34,
	LP_REC_REMOVE = 35,
	LP_REC_UNMAP = 36,
	LP_REC_UNKNOWN = 37,
	LP_REC_EXIT = 38,
	LP_REC_THERE = 39,	/* the engine asked what the kernel has; belongs to the call that follows */
	LP_REC_SETTLED = 40,
	LP_REC_NEXT_WAKE = 41,
	/* The kernel's order, see "The book" in engine/engine.h */
	LP_REC_BOOK = 42,
	LP_REC_CHANGE = 43,	/* what: the kind, and the flags from bit 8 on; to: a name for FORK, a number for REMOVE */
	LP_REC_CALL = 44,	/* of the REMOVE that follows */
	LP_REC_BOOK_LOST = 45,
	/* Faults */
	LP_REC_FAULT = 48,
	LP_REC_ANSWERED = 49,
	LP_REC_DEFER = 50,
	LP_REC_NEXT_DEFERRED = 51,
	LP_REC_EARLY = 52,	/* a fault before its message, taken on by the owner of flight `own` */
	/* Flights */
	LP_REC_NEXT = 64,
	LP_REC_PIECE = 65,	/* of the flight that was claimed just before */
	LP_REC_ADVANCE = 66,
	LP_REC_FINISH = 67,
	LP_REC_STALL = 68,
	/* What was asked of the kernel and of the source */
	LP_REC_COPY = 80,
	LP_REC_ZEROPAGE = 81,
	LP_REC_WAKE = 82,
	LP_REC_PROBE = 83,
	LP_REC_SOURCE = 84,
};

enum lp_rec_mark {
	LP_MARK_ARMED = 1,  /* CRIU has finished its restore */
	LP_MARK_FAILED = 2, /* or has not */
	LP_MARK_SIGNAL = 3,
	LP_MARK_LOST = 4,   /* the tasks had to be killed */
};

/* The thread of a record: role in the high byte, and which of them in the low one. */
enum lp_rec_role { LP_BY_MAIN, LP_BY_READER, LP_BY_URGENT, LP_BY_BULK };

enum lp_rec_how { LP_HOW_TRY = 1, LP_HOW_READ = 2, LP_HOW_MAP = 3 };

/* What a field is, for those who print it or sift by it. */
enum lp_rec_kind {
	LP_K_TIME,    /* ns since BEGIN; UINT64_MAX: never */
	LP_K_SPACE,   /* 32 bits */
	LP_K_FLIGHT,
	LP_K_ADDR,
	LP_K_LEN,     /* bytes */
	LP_K_COUNT,
	LP_K_OBJ,     /* task number in the images, 32 bits */
	LP_K_IMG,     /* address in the images */
	LP_K_RC,      /* 1, 0 or -errno; as int64_t in v[] */
	LP_K_PID,     /* 32 bits */
	LP_K_VERDICT, /* enum lp_verdict */
	LP_K_BITS,
	LP_K_MARK,
	LP_K_HOW,
	LP_K_CLOCK,   /* ns since 1970 */
};

struct lp_rec_field {
	const char *name;
	enum lp_rec_kind kind;
};

struct lp_rec_info {
	const char *name;
	unsigned n; /* fields beside the time */
	struct lp_rec_field f[LP_REC_FIELDS - 1];
};

/* The type's own fields are in v[], in the order of its struct lp_rec_info. */
struct lp_rec {
	uint8_t type;
	uint16_t thread;
	uint64_t time; /* ns since BEGIN */
	uint64_t v[LP_REC_FIELDS - 1];
};

/* NULL: there is no such type. */
const struct lp_rec_info *lp_rec_info(unsigned type);
/* The type with this name, or 0. */
unsigned lp_rec_by_name(const char *name);
/* The index in v[] of the first field of that kind, or -1. */
int lp_rec_find(unsigned type, enum lp_rec_kind kind);

/* The bytes that were written; 0: @r is not a record (no such type, a field out of its bounds). */
size_t lp_rec_encode(const struct lp_rec *r, uint64_t number, uint8_t buf[LP_REC_MAX]);
/*
 * Record @number from the first bytes of @buf. Returns the bytes it has, or
 * -EAGAIN: it goes on behind the buffer; -EBADMSG: damaged, or another's number;
 * -EPROTO: not damaged, but not a record that this version knows.
 */
int lp_rec_decode(const uint8_t *buf, size_t len, uint64_t number, struct lp_rec *r);

void lp_trace_head(uint8_t buf[LP_TRACE_HEAD]);
/* 0; -EAGAIN: shorter than a head; -EBADMSG: no trace; -EPROTO: of another version, in @version. */
int lp_trace_head_check(const uint8_t *buf, size_t len, unsigned *version);

#endif
