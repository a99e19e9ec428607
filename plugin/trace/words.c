/* SPDX-License-Identifier: GPL-2.0-only */
/* See words.h. Owns nothing. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "engine/engine.h"
#include "trace/words.h"

const char *lp_rec_rc(uint64_t v)
{
	const char *name;

	if (!v)
		return "0";
	if (v == 1)
		return "yes";
	name = strerrorname_np((int)-v); /* of a mark it may be any number */
	return name ? name : "unknown error";
}

const char *lp_rec_verdict(uint64_t v)
{
	static const char *const names[] = { [LP_FILL] = "FILL", [LP_ZERO] = "ZERO", [LP_WAIT] = "WAIT",
					     [LP_LATER] = "LATER" };

	return v < sizeof(names) / sizeof(names[0]) ? names[v] : "?";
}

const char *lp_rec_mark(uint64_t v)
{
	static const char *const names[] = { [LP_MARK_ARMED] = "armed", [LP_MARK_FAILED] = "failed",
					     [LP_MARK_SIGNAL] = "signal", [LP_MARK_LOST] = "lost" };

	return v && v < sizeof(names) / sizeof(names[0]) ? names[v] : "?";
}

const char *lp_rec_how(uint64_t v)
{
	static const char *const names[] = { [LP_HOW_TRY] = "try_read", [LP_HOW_READ] = "read", [LP_HOW_MAP] = "map" };

	return v && v < sizeof(names) / sizeof(names[0]) ? names[v] : "?";
}

void lp_rec_thread(const struct lp_rec *r, char *buf, size_t len)
{
	unsigned n = r->thread & 0xff;

	switch (r->thread >> 8) {
	case LP_BY_MAIN:
		snprintf(buf, len, "main");
		break;
	case LP_BY_READER:
		snprintf(buf, len, "reader");
		break;
	case LP_BY_URGENT:
		snprintf(buf, len, "urgent%u", n);
		break;
	case LP_BY_BULK:
		snprintf(buf, len, "bulk%u", n);
		break;
	default:
		snprintf(buf, len, "0x%x", r->thread);
	}
}

static bool within(uint64_t addr, uint64_t start, uint64_t len)
{
	return addr - start < len;
}

/* @v: fields of LP_REC_CHANGE. */
static bool about_change(const uint64_t *v, uint64_t addr)
{
	unsigned kind = v[1] & 0xff;
	uint64_t flags = v[1] >> 8;

	if (kind == LP_CHANGE_FORK)
		return false;
	if (within(addr, v[2], v[3]))
		return true;
	if (kind != LP_CHANGE_REMAP)
		return false;
	if (flags & LP_REMAP_FIXED || v[4]) /* else it has stayed, or only its message tells where it went */
		return within(addr, v[4], v[5]);
	return flags & LP_REMAP_GREW && within(addr, v[2], v[5]);
}

bool lp_rec_about(const struct lp_rec *r, uint64_t addr)
{
	const uint64_t *v = r->v;
	uint64_t page = addr & ~UINT64_C(4095);

	switch (r->type) {
	case LP_REC_EXTENT:
	case LP_REC_MISSING:
	case LP_REC_WIPED:
	case LP_REC_DONTFORK:
	case LP_REC_REMOVE:
	case LP_REC_UNMAP:
		return v[1] <= addr && addr < v[2];
	case LP_REC_REMAP:
		return within(addr, v[1], v[3]) || within(addr, v[2], v[3]);
	case LP_REC_CHANGE:
		return about_change(v, addr);
	case LP_REC_THERE:
	case LP_REC_PIECE:
	case LP_REC_ZEROPAGE:
	case LP_REC_WAKE:
		return within(addr, v[1], v[2]);
	case LP_REC_COPY:
		return within(addr, v[2], v[3]);
	case LP_REC_PAGEFAULT:
	case LP_REC_FAULT:
	case LP_REC_EARLY:
	case LP_REC_ANSWERED:
	case LP_REC_DEFER:
		return (v[1] & ~UINT64_C(4095)) == page;
	case LP_REC_NEXT_DEFERRED:
	case LP_REC_NEXT_WAKE:
		return v[1] && v[2] == page;
	default:
		return false;
	}
}

#define X "0x%" PRIx64
#define U "%" PRIu64
#define SAY(...) snprintf(buf, LP_WORDS_MAX, __VA_ARGS__)

static const char *fault_flags(uint64_t flags)
{
	static const char *const names[] = { "0", "WRITE", "WP", "WRITE|WP" };

	return flags < 4 ? names[flags] : flags & 4 ? "MINOR" : "?";
}

static void message_words(const struct lp_rec *r, char *buf)
{
	const uint64_t *v = r->v;
	const char *rc = "";
	int at = lp_rec_find(r->type, LP_K_RC);

	if (at >= 0 && v[at])
		rc = lp_rec_rc(v[at]);
	switch (r->type) {
	case LP_REC_PAGEFAULT:
		SAY("read(uffd) = {UFFD_EVENT_PAGEFAULT, address=" X ", flags=%s, ptid=" U "}", v[1], fault_flags(v[2]), v[3]);
		return;
	case LP_REC_FORK:
		SAY("read(uffd) = {UFFD_EVENT_FORK, the child is #" U "}", v[1]);
		break;
	case LP_REC_REMAP:
		SAY("read(uffd) = {UFFD_EVENT_REMAP, from=" X ", to=" X ", len=" U "}", v[1], v[2], v[3]);
		break;
	case LP_REC_REMOVE:
		SAY("read(uffd) = {UFFD_EVENT_REMOVE, start=" X ", end=" X "}", v[1], v[2]);
		break;
	case LP_REC_UNMAP:
		SAY("read(uffd) = {UFFD_EVENT_UNMAP, start=" X ", end=" X "}", v[1], v[2]);
		break;
	case LP_REC_UNKNOWN:
		SAY("read(uffd) = {unknown event " X "}, left alone", v[1]);
		return;
	default:
		return;
	}
	if (*rc) {
		size_t n = strlen(buf);

		snprintf(buf + n, LP_WORDS_MAX - n, "; engine: %s", rc);
	}
}

static void remap_words(const uint64_t *v, char *buf)
{
	static const char *const names[] = { "0", "MREMAP_MAYMOVE", "MREMAP_FIXED", "MREMAP_MAYMOVE|MREMAP_FIXED",
					     "MREMAP_DONTUNMAP", "MREMAP_MAYMOVE|MREMAP_DONTUNMAP",
					     "MREMAP_FIXED|MREMAP_DONTUNMAP",
					     "MREMAP_MAYMOVE|MREMAP_FIXED|MREMAP_DONTUNMAP" };
	uint64_t flags = v[1] >> 8, known = flags % LP_REMAP_GREW, other = flags - (flags & LP_REMAP_FLAGS);
	bool room = flags & LP_REMAP_AREA && v[4], grew = flags & LP_REMAP_GREW;
	char to[24] = "", hex[24] = "", area[40] = "";

	if (flags & LP_REMAP_FIXED)
		snprintf(to, sizeof(to), ", " X, v[4]);
	if (other)
		snprintf(hex, sizeof(hex), "%s" X, known ? "|" : "", other);
	if (room)
		snprintf(area, sizeof(area), "%sroom at " X, grew ? ", " : "", v[4]);
	SAY("mremap(" X ", " U ", " U ", %s%s%s)%s%s%s", v[2], v[3], v[5], known || !other ? names[known] : "", hex, to,
	    grew || room ? ": " : "", grew ? "grew" : "", area);
}

/* The kernel's order. What was asked for: the messages tell whether it was done. */
static void book_words(const struct lp_rec *r, char *buf)
{
	static const char *const advices[] = { [LP_CHANGE_DONTFORK] = "MADV_DONTFORK", [LP_CHANGE_DOFORK] = "MADV_DOFORK",
					       [LP_CHANGE_WIPE] = "MADV_WIPEONFORK",
					       [LP_CHANGE_KEEP] = "MADV_KEEPONFORK" };
	const uint64_t *v = r->v;

	switch (r->type) {
	case LP_REC_BOOK:
		SAY("book " X ": from here on the kernel's order of changes is known", v[1]);
		return;
	case LP_REC_CALL:
		SAY("the UFFD_EVENT_REMOVE that follows is of madvise() number " X, v[1]);
		return;
	case LP_REC_BOOK_LOST:
		SAY("the book lacks changes: until the next settled moment their order is guessed");
		return;
	case LP_REC_CHANGE:
		break;
	default:
		return;
	}
	switch (v[1] & 0xff) {
	case LP_CHANGE_UNMAP:
		SAY("munmap(" X ", " U ")", v[2], v[3]);
		break;
	case LP_CHANGE_REMAP:
		remap_words(v, buf);
		break;
	case LP_CHANGE_FORK:
		SAY("fork() = book " X, v[4]);
		break;
	case LP_CHANGE_DONTFORK:
	case LP_CHANGE_DOFORK:
	case LP_CHANGE_WIPE:
	case LP_CHANGE_KEEP:
		SAY("madvise(" X ", " U ", %s)", v[2], v[3], advices[v[1] & 0xff]);
		break;
	case LP_CHANGE_REMOVE:
		SAY("madvise(" X ", " U ", MADV_DONTNEED or its like), number " X, v[2], v[3], v[4]);
		break;
	case LP_CHANGE_GUARD:
		SAY("madvise(" X ", " U ", MADV_GUARD_INSTALL)", v[2], v[3]);
		break;
	default:
		SAY("unknown change " X, v[1]);
	}
}

static void kernel_words(const struct lp_rec *r, char *buf)
{
	const uint64_t *v = r->v;

	switch (r->type) {
	case LP_REC_COPY:
		SAY("ioctl(uffd, UFFDIO_COPY, {dst=" X ", len=" U ", mode=DONTWAKE, copy=" U "}) = %s; flight " U, v[2], v[3],
		    v[4], lp_rec_rc(v[5]), v[1]);
		break;
	case LP_REC_ZEROPAGE:
		SAY("ioctl(uffd, UFFDIO_ZEROPAGE, {start=" X ", len=" U ", mode=DONTWAKE}) = %s", v[1], v[2], lp_rec_rc(v[3]));
		break;
	case LP_REC_WAKE:
		SAY("ioctl(uffd, UFFDIO_WAKE, {start=" X ", len=" U "}) = %s", v[1], v[2], lp_rec_rc(v[3]));
		break;
	case LP_REC_PROBE:
		SAY("ioctl(uffd, UFFDIO_ZEROPAGE, nowhere): %s", !v[1] ? "alive and at rest" :
		    (int64_t)v[1] == -3 ? "gone (ESRCH)" : lp_rec_rc(v[1]));
		break;
	case LP_REC_THERE:
		SAY("ioctl(uffd, UFFDIO_COPY, {dst=" X ", src=NULL, len=" U "}): %s", v[1], v[2],
		    v[3] == 1 ? "one VMA has it" : !v[3] ? "no VMA has it" : lp_rec_rc(v[3]));
		break;
	case LP_REC_SOURCE:
		SAY("source: %s(task " U ", " X ", " U ") = %s", lp_rec_how(v[0]), v[1], v[2], v[3], lp_rec_rc(v[4]));
		break;
	}
}

static void space_words(const struct lp_rec *r, char *buf)
{
	const uint64_t *v = r->v;

	switch (r->type) {
	case LP_REC_SPACE:
		SAY("space of pid %" PRId32 " in the images, handed over by pid %" PRId32, (int32_t)v[1], (int32_t)v[2]);
		break;
	case LP_REC_EXTENT:
		SAY("extent " X "-" X, v[1], v[2]);
		break;
	case LP_REC_MISSING:
		SAY("missing " X "-" X ": task " U " at " X, v[1], v[2], v[4], v[3]);
		break;
	case LP_REC_WIPED:
		SAY("MADV_WIPEONFORK " X "-" X, v[1], v[2]);
		break;
	case LP_REC_DONTFORK:
		SAY("MADV_DONTFORK " X "-" X, v[1], v[2]);
		break;
	case LP_REC_FREE:
		SAY("close(uffd): %s", v[1] ? "its address space is gone" : v[2] ? "complete" : "given up");
		break;
	}
}

static void engine_words(const struct lp_rec *r, char *buf)
{
	const uint64_t *v = r->v;

	switch (r->type) {
	case LP_REC_EXIT:
		SAY("engine: its address space is gone");
		break;
	case LP_REC_SETTLED:
		SAY("engine: settled moment: %s", v[1] ? lp_rec_rc(v[1]) : "messages are put in order");
		break;
	case LP_REC_NEXT_WAKE:
		if (v[1])
			SAY("engine orders: wake " X, v[2]);
		else
			SAY("engine orders: no (more) wakes");
		break;
	case LP_REC_FAULT:
		if (v[5])
			SAY("engine: fault at " X ": %s", v[1], lp_rec_rc(v[5]));
		else if (v[3] == LP_FILL)
			SAY("engine: fault at " X ": FILL, flight " U, v[1], v[4]);
		else
			SAY("engine: fault at " X ": %s", v[1], lp_rec_verdict(v[3]));
		break;
	case LP_REC_EARLY:
		if (v[5])
			SAY("engine: told of a fault at " X ": %s", v[1], lp_rec_rc(v[5]));
		else
			SAY("engine: told of a fault at " X ": FILL, flight " U, v[1], v[4]);
		break;
	case LP_REC_ANSWERED:
		SAY("engine: fault at " X " is answered", v[1]);
		break;
	case LP_REC_DEFER:
		SAY("engine: fault at " X " is put off%s%s", v[1], v[2] ? ": " : "", v[2] ? lp_rec_rc(v[2]) : "");
		break;
	case LP_REC_NEXT_DEFERRED:
		if (v[1])
			SAY("engine: fault at " X " again", v[2]);
		else
			SAY("engine: no (more) faults that were put off");
		break;
	case LP_REC_NEXT:
		if (!v[5])
			SAY("engine: flight " U " of the background, at most " U " bytes", v[3], v[0]);
		else if (v[4] == LP_NEVER)
			SAY("engine: nothing for the background: %s", lp_rec_rc(v[5]));
		else
			SAY("engine: nothing for the background before " U ".%06u: %s", v[4] / 1000000000,
			    (unsigned)(v[4] % 1000000000 / 1000), lp_rec_rc(v[5]));
		break;
	case LP_REC_PIECE:
		SAY("  flight " U ": " X " len " U " from task " U " at " X, v[0], v[1], v[2], v[4], v[3]);
		break;
	case LP_REC_ADVANCE:
		SAY("engine: flight " U ": " U " bytes are in place, or have none", v[1], v[2]);
		break;
	case LP_REC_FINISH:
		SAY("engine: flight " U " ends%s%s", v[1], v[2] ? ": " : "", v[2] ? lp_rec_rc(v[2]) : "");
		break;
	case LP_REC_STALL:
		if (!v[1])
			SAY("engine: the background may go on");
		else
			SAY("engine: no background before " U ".%06u", v[1] / 1000000000,
			    (unsigned)(v[1] % 1000000000 / 1000));
		break;
	}
}

void lp_rec_words(const struct lp_rec *r, char buf[LP_WORDS_MAX])
{
	const uint64_t *v = r->v;

	*buf = 0;
	switch (r->type) {
	case LP_REC_BEGIN:
		SAY("the daemon begins: pid %" PRId32 ", pages of " U " bytes, workers " U "%s, seed " X ", " U
		    ".%03u s since 1970",
		    (int32_t)v[3], v[0], v[4], v[5] & LP_REC_BACKGROUND ? "" : ", no background", v[1], v[2] / 1000000000,
		    (unsigned)(v[2] % 1000000000 / 1000000));
		return;
	case LP_REC_END:
		SAY("the daemon ends: %s", lp_rec_rc(v[0]));
		return;
	case LP_REC_MARK:
		if (v[0] == LP_MARK_ARMED)
			SAY("CRIU has finished its restore");
		else if (v[0] == LP_MARK_FAILED)
			SAY("the restore has failed: %s", lp_rec_rc(-v[1]));
		else if (v[0] == LP_MARK_SIGNAL)
			SAY("signal " U, v[1]);
		else
			SAY("the layout of space #" U " is lost: killing the tasks", v[1]);
		return;
	}
	message_words(r, buf);
	if (!*buf)
		book_words(r, buf);
	if (!*buf)
		kernel_words(r, buf);
	if (!*buf)
		space_words(r, buf);
	if (!*buf)
		engine_words(r, buf);
}
