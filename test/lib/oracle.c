/* SPDX-License-Identifier: GPL-2.0-only */
/* The oracle, see oracle.h. What the operations do is in oracle_ops.c. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "test/lib/imgbuild.h"
#include "test/lib/oracle_internal.h"

static const char *const names[OP_COUNT] = {
	"read", "write", "patch", "sysread", "syswrite", "dontneed", "free", "munmap", "mmap", "mmap_over", "move",
	"move_over", "move_any", "grow", "shrink", "dontunmap", "mprotect", "fork", "fork_all", "vfork", "exec",
	"dontfork", "wipeonfork", "guard", "verify",
};
static const char *const founds[FOUND_COUNT] = { "zeros", "stale", "other", "torn" };

const char *oracle_op_name(unsigned op)
{
	return op < OP_COUNT ? names[op] : "?";
}

uint64_t oracle_mix(uint64_t x)
{
	x += UINT64_C(0x9E3779B97F4A7C15);
	x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
	x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
	return x ^ (x >> 31);
}

uint64_t oracle_rnd(struct thread *th, uint64_t n)
{
	th->rng += UINT64_C(0x9E3779B97F4A7C15);
	return oracle_mix(th->rng) % n;
}

/* ---- Bookkeeping -------------------------------------------------------- */

static uint64_t pg_check(const struct pg *p)
{
	return oracle_mix(p->id ^ oracle_mix(p->patch ^ ((uint64_t)p->kind << 40) ^ ((uint64_t)p->maybe_zero << 48)));
}

void pg_set(struct pg *p, enum pg_kind kind, uint64_t id)
{
	*p = (struct pg){ .kind = kind, .id = id };
	p->check = pg_check(p);
}

void pg_patch(struct pg *p, uint32_t patch)
{
	p->patch = patch;
	p->check = pg_check(p);
}

void pg_maybe_zero(struct pg *p)
{
	if (p->kind == PG_ZERO)
		return;
	p->maybe_zero = 1;
	p->check = pg_check(p);
}

uint64_t seg_check(const struct seg *s)
{
	return oracle_mix(s->addr ^ oracle_mix(s->n ^ oracle_mix((uintptr_t)s->st ^ s->flags)));
}

void oracle_record(struct thread *th, struct oracle_record rec)
{
	struct oracle_shared *sh = th->o->conf.shared;
	uint32_t i = atomic_fetch_add(&sh->nrecords, 1);

	rec.thread = th->index;
	rec.depth = th->depth;
	rec.op = th->op;
	rec.at_op = th->done;
	if (i < ORACLE_RECORDS)
		sh->records[i] = rec;
}

static void book_wrong(struct thread *th, uint64_t addr)
{
	atomic_fetch_add(&th->o->conf.shared->book, 1);
	oracle_record(th, (struct oracle_record){ .what = REC_BOOK, .addr = addr });
}

/* ---- Page contents ------------------------------------------------------- */

static uint64_t patch_word(uint32_t patch)
{
	return oracle_mix(patch) | 1;
}

void oracle_expect(struct thread *th, const struct pg *p, void *buf)
{
	uint64_t *w = buf;

	if (p->kind == PG_IMG)
		ib_fill_page(buf, th->o->conf.pid, p->id, 0);
	else if (p->kind == PG_OWN)
		ib_fill_page(buf, ORACLE_OWN, p->id << 12, 0);
	else
		memset(buf, 0, ORACLE_PAGE);
	if (p->patch)
		w[ORACLE_PATCH_WORD] = patch_word(p->patch);
}

void oracle_patch_page(void *page, uint32_t patch)
{
	((volatile uint64_t *)page)[ORACLE_PATCH_WORD] = patch_word(patch);
}

/* Undo ib_fill_page(): where does a page that starts with @w0 come from? */
static uint64_t whence(struct thread *th, uint64_t w0)
{
	uint64_t a = UINT64_C(6364136223846793005), inv = a, x;
	int i;

	if (!w0)
		return 0;
	for (i = 0; i < 6; i++)
		inv *= 2 - a * inv;
	x = (w0 - UINT64_C(1442695040888963407)) * inv;
	if (x >> 60 == 0xA)
		return (UINT64_C(1) << 63) | ((x ^ ((uint64_t)ORACLE_OWN << 40)) >> 12);
	return x ^ ((uint64_t)th->o->conf.pid << 40);
}

static bool all_zero(const void *page)
{
	const uint64_t *w = page;

	return !w[0] && !memcmp(page, (const char *)page + 8, ORACLE_PAGE - 8);
}

static uint64_t pg_name(const struct pg *p)
{
	return p->kind == PG_IMG ? p->id : p->kind == PG_OWN ? (UINT64_C(1) << 63) | p->id : 0;
}

static void page_wrong(struct thread *th, const struct seg *s, const struct pg *p, const void *page, const void *seen)
{
	struct oracle_shared *sh = th->o->conf.shared;
	const uint64_t *w = seen, *e = (const uint64_t *)th->buf;
	struct timespec pause = { .tv_nsec = 10000000 };
	struct oracle_record rec = { .what = REC_PAGE, .addr = (uintptr_t)page, .len = s->n, .expected = pg_name(p) };
	size_t i, same = 0;

	rec.got = whence(th, w[0]);
	for (i = 0; i < ORACLE_PAGE / 8; i++)
		same += w[i] == e[i];
	if (all_zero(seen))
		rec.found = FOUND_ZERO;
	else if (same > 1)
		rec.found = FOUND_TORN;
	else
		rec.found = rec.got >> 63 == 0 && p->kind != PG_IMG ? FOUND_STALE : FOUND_OTHER;
	atomic_fetch_add(&sh->wrong, 1);
	atomic_fetch_add(&sh->found[rec.found], 1);
	if (atomic_load(&sh->nrecords) < ORACLE_RECORDS) {
		nanosleep(&pause, NULL);
		rec.still = memcmp(page, th->buf, ORACLE_PAGE) != 0;
	}
	oracle_record(th, rec);
}

/* Is page @i of @s, seen at @seen (the page itself or a copy), what it must be? */
void oracle_verify(struct thread *th, struct seg *s, size_t i, const void *seen)
{
	const void *page = (const void *)(s->addr + i * ORACLE_PAGE);
	struct pg *p = &s->st[i];

	if (p->check != pg_check(p)) {
		book_wrong(th, (uintptr_t)p);
		return;
	}
	atomic_fetch_add_explicit(&th->o->conf.shared->seen, 1, memory_order_relaxed);
	oracle_expect(th, p, th->buf);
	if (!memcmp(seen, th->buf, ORACLE_PAGE))
		return;
	if (p->maybe_zero && all_zero(seen)) {
		pg_set(p, PG_ZERO, 0); /* and never again anything else */
		return;
	}
	/* A look at another moment would not be evidence. */
	if (seen == page)
		memcpy(th->copy, page, ORACLE_PAGE);
	page_wrong(th, s, p, page, seen == page ? th->copy : seen);
}

void oracle_verify_some(struct thread *th, struct thread *whose, size_t samples)
{
	size_t i, k;

	for (i = 0; i < whose->nsegs; i++) {
		struct seg *s = &whose->segs[i];

		if (s->check != seg_check(s)) {
			book_wrong(th, (uintptr_t)s);
			continue;
		}
		if (samples && samples < s->n) {
			for (k = 0; k < samples; k++) {
				size_t at = oracle_rnd(th, s->n);

				oracle_verify(th, s, at, (void *)(s->addr + at * ORACLE_PAGE));
			}
			continue;
		}
		for (k = 0; k < s->n; k++)
			oracle_verify(th, s, k, (void *)(s->addr + k * ORACLE_PAGE));
	}
}

struct seg *oracle_pick(struct thread *th)
{
	struct seg *s;

	if (!th->nsegs)
		return NULL;
	s = &th->segs[oracle_rnd(th, th->nsegs)];
	if (s->check != seg_check(s)) {
		book_wrong(th, (uintptr_t)s);
		return NULL;
	}
	return s;
}

/* ---- Set-up --------------------------------------------------------------- */

struct oracle *oracle_new(const struct oracle_conf *conf)
{
	struct oracle *o = calloc(1, sizeof(*o));
	pthread_rwlockattr_t attr;
	unsigned i;

	if (!o || conf->threads < 1 || conf->threads > ORACLE_MAX_THREADS)
		return NULL;
	o->conf = *conf;
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&o->world, &attr);
	for (i = 0; i < conf->threads; i++) {
		struct thread *th = &o->threads[i];

		th->o = o;
		th->index = i;
		th->rng = oracle_mix(conf->seed ^ oracle_mix(i + 1));
		th->serial = (uint64_t)(i + 1) << 40;
		th->window = UINT64_MAX;
		th->buf = aligned_alloc(ORACLE_PAGE, ORACLE_PAGE);
		th->copy = aligned_alloc(ORACLE_PAGE, ORACLE_PAGE);
		if (!th->buf || !th->copy)
			return NULL;
	}
	return o;
}

void oracle_add(struct oracle *o, unsigned thread, uint64_t addr, uint64_t npages, unsigned flags)
{
	struct thread *th = &o->threads[thread];
	struct seg *s;
	uint64_t i;

	if (th->nsegs == MAX_SEGS)
		abort();
	s = &th->segs[th->nsegs++];
	*s = (struct seg){ .addr = addr, .n = npages, .flags = flags, .st = malloc(npages * sizeof(*s->st)) };
	if (!s->st)
		abort();
	for (i = 0; i < npages; i++)
		pg_set(&s->st[i], PG_IMG, addr + i * ORACLE_PAGE);
	s->check = seg_check(s);
	th->npages += npages;
	th->max_pages = th->npages + th->npages / 2 + 64;
	if (addr < th->window)
		th->window = addr;
	if (addr + npages * ORACLE_PAGE > th->window_end)
		th->window_end = addr + npages * ORACLE_PAGE;
}

void oracle_zeros(struct oracle *o, uint64_t addr, uint64_t npages)
{
	unsigned t;
	size_t i;

	for (; npages; npages--, addr += ORACLE_PAGE) {
		for (t = 0; t < o->conf.threads; t++) {
			for (i = 0; i < o->threads[t].nsegs; i++) {
				struct seg *s = &o->threads[t].segs[i];

				if (addr >= s->addr && addr < s->addr + s->n * ORACLE_PAGE)
					pg_set(&s->st[(addr - s->addr) / ORACLE_PAGE], PG_ZERO, 0);
			}
		}
	}
}

void oracle_fill(struct oracle *o)
{
	unsigned t;
	size_t i, k;

	for (t = 0; t < o->conf.threads; t++) {
		for (i = 0; i < o->threads[t].nsegs; i++) {
			struct seg *s = &o->threads[t].segs[i];

			for (k = 0; k < s->n; k++)
				if (s->st[k].kind == PG_IMG)
					oracle_expect(&o->threads[t], &s->st[k],
						      (void *)(s->addr + k * ORACLE_PAGE));
		}
	}
}

/* ---- Running --------------------------------------------------------------- */

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Of operations that only touch memory: else it would be a fork, or waiting for a child. */
static void note_pause(struct thread *th, uint64_t ns)
{
	_Atomic uint64_t *longest = &th->o->conf.shared->longest_ns;
	uint64_t seen = atomic_load(longest);

	if (th->op > OP_SYSWRITE)
		return;
	while (ns > seen && !atomic_compare_exchange_weak(longest, &seen, ns))
		;
}

static void *thread_main(void *arg)
{
	struct thread *th = arg;
	const struct oracle_conf *c = &th->o->conf;
	uint64_t end, t0;

	if (c->gate)
		th->rng ^= oracle_mix(c->gate(c->gate_arg, th->index));
	end = c->seconds > 0 ? now_ns() + c->seconds * 1e9 : UINT64_MAX;
	while ((!c->ops || th->done < c->ops) && ((th->done & 15) || now_ns() < end)) {
		t0 = now_ns();
		oracle_step(th);
		note_pause(th, now_ns() - t0);
	}
	oracle_reap(th, true);
	th->op = OP_VERIFY;
	atomic_fetch_add(&c->shared->ops[OP_VERIFY], 1);
	/* It may find out what MADV_FREE has done, and note it: not while another thread forks with all that is noted. */
	pthread_rwlock_rdlock(&th->o->world);
	oracle_verify_some(th, th, 0);
	pthread_rwlock_unlock(&th->o->world);
	return NULL;
}

uint64_t oracle_run(struct oracle *o)
{
	unsigned i;

	for (i = 0; i < o->conf.threads; i++)
		if (pthread_create(&o->threads[i].tid, NULL, thread_main, &o->threads[i]))
			abort();
	for (i = 0; i < o->conf.threads; i++)
		pthread_join(o->threads[i].tid, NULL);
	return oracle_bad(o->conf.shared);
}

/* ---- Reports ----------------------------------------------------------------- */

uint64_t oracle_ops(const struct oracle_shared *sh)
{
	uint64_t n = 0;
	unsigned i;

	for (i = 0; i < OP_COUNT; i++)
		n += atomic_load(&sh->ops[i]);
	return n;
}

uint64_t oracle_bad(const struct oracle_shared *sh)
{
	return atomic_load(&sh->wrong) + atomic_load(&sh->refused) + atomic_load(&sh->book) +
	       atomic_load(&sh->children_bad);
}

void oracle_json(FILE *f, const struct oracle_shared *sh)
{
	unsigned i;

	fprintf(f,
		"{\"ops\": %" PRIu64 ", \"wrong_pages\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"bookkeeping\": %" PRIu64
		", \"children\": %" PRIu64 ", \"children_bad\": %" PRIu64 ", \"excused\": %" PRIu64 ", \"longest_us\": %" PRIu64,
		oracle_ops(sh), atomic_load(&sh->wrong), atomic_load(&sh->refused), atomic_load(&sh->book),
		atomic_load(&sh->children), atomic_load(&sh->children_bad), atomic_load(&sh->excused),
		atomic_load(&sh->longest_ns) / 1000);
	for (i = 0; i < FOUND_COUNT; i++)
		fprintf(f, ", \"found_%s\": %" PRIu64, founds[i], atomic_load(&sh->found[i]));
	fputs(", \"by_op\": {", f);
	for (i = 0; i < OP_COUNT; i++)
		fprintf(f, "%s\"%s\": %" PRIu64, i ? ", " : "", names[i], atomic_load(&sh->ops[i]));
	fputs("}}\n", f);
}

static void print_what(FILE *f, uint64_t id)
{
	if (!id)
		fputs("zeros", f);
	else if (id >> 63)
		fprintf(f, "own write %" PRIu64 ".%" PRIu64, (id << 1) >> 41, id & ((UINT64_C(1) << 40) - 1));
	else
		fprintf(f, "image 0x%" PRIx64, id);
}

void oracle_print(FILE *f, const struct oracle_shared *sh)
{
	uint32_t i, n = atomic_load(&sh->nrecords);

	for (i = 0; i < n && i < ORACLE_RECORDS; i++) {
		const struct oracle_record *r = &sh->records[i];

		fprintf(f, "thread %u depth %u op %" PRIu64 " %s: ", r->thread, r->depth, r->at_op, names[r->op]);
		switch (r->what) {
		case REC_PAGE:
			fprintf(f, "page 0x%" PRIx64 " of a mapping of %" PRIu64 ": expected ", r->addr, r->len);
			print_what(f, r->expected);
			fprintf(f, ", found %s: ", r->found < FOUND_COUNT ? founds[r->found] : "?");
			print_what(f, r->got);
			fputs(r->still ? "\n" : " (right 10 ms later)\n", f);
			break;
		case REC_CALL:
			fprintf(f, "refused at 0x%" PRIx64 " for %" PRIu64 " pages (0x%" PRIx64 "): %s\n", r->addr, r->len,
				r->expected, strerror(r->err));
			break;
		case REC_BOOK:
			fprintf(f, "bookkeeping at 0x%" PRIx64 " is wrong\n", r->addr);
			break;
		case REC_CHILD:
			fprintf(f, "child %" PRIu64 " ended with %s %d\n", r->addr,
				WIFSIGNALED(r->err) ? "signal" : "status",
				WIFSIGNALED(r->err) ? WTERMSIG(r->err) : WEXITSTATUS(r->err));
			break;
		default:
			fputs("?\n", f);
		}
	}
	if (n > ORACLE_RECORDS)
		fprintf(f, "... and %u more\n", n - ORACLE_RECORDS);
}
