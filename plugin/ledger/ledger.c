/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Loading the BPF program, and reading its ring. A struct lp_ledger owns its
 * mappings; the descriptors belong to the caller.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>

#include "base/kernel.h"
#include "base/log.h"
#include "ledger/ledger.h"
#include "ledger/watch.skel.h"

struct ring {
	unsigned long *consumer; /* positions, and where they point to; NULL: there is none */
	const unsigned long *producer;
	const uint8_t *data;
	size_t size;
};

struct lp_ledger {
	struct ring entries, faults;
	struct lp_ledger_shared *shared;
	size_t page;
	uint64_t lost, hasty; /* as last seen */
	uint64_t guards_read[LP_LEDGER_SLOTS];	 /* all up to this one were handed out */
	uint64_t guards_heeded[LP_LEDGER_SLOTS]; /* and heeded; any thread reads it */
	uint64_t guards; /* when none was open, 0: look */
	lp_ledger_entry_fn fn;
	void *arg;
};

static int say(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[256];
	int n;

	if (level == LIBBPF_DEBUG)
		return 0;
	n = vsnprintf(line, sizeof(line), fmt, ap);
	if (n > 0 && line[(size_t)n < sizeof(line) ? (size_t)n - 1 : sizeof(line) - 2] == '\n')
		line[(size_t)n < sizeof(line) ? (size_t)n - 1 : sizeof(line) - 2] = 0;
	pr_debug("%s", line);
	return n;
}

/* How many arguments has tracepoint @name, whose type is @typedef_name? 0: there is none. */
static unsigned tracepoint_args(const struct btf *btf, const char *typedef_name)
{
	int id = btf__find_by_name_kind(btf, typedef_name, BTF_KIND_TYPEDEF);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, id) : NULL;

	while (t && (btf_is_typedef(t) || btf_is_ptr(t)))
		t = btf__type_by_id(btf, t->type);
	return t && btf_kind(t) == BTF_KIND_FUNC_PROTO ? btf_vlen(t) - 1 : 0; /* the first is the program's own */
}

static int prepare(struct watch_bpf *w, bool faults, struct lp_err *err)
{
	struct btf *btf = btf__load_vmlinux_btf();
	unsigned n;

	if (!btf)
		return lp_err(err, -ENOTSUP, "the kernel has no BTF (CONFIG_DEBUG_INFO_BTF)");
	n = tracepoint_args(btf, "btf_trace_mmap_lock_acquire_returned");
	/* (mm, write, success), and before Linux 6.14 the memory cgroup after mm. */
	w->rodata->write_arg = n == 3 ? 1 : 2;
	w->rodata->guards_known = !lp_kernel_before(6, 13);
	bpf_program__set_autoload(w->progs.space_gone, tracepoint_args(btf, "btf_trace_exit_mmap") != 0);
	/* (address, registers, error) */
	faults = faults && tracepoint_args(btf, "btf_trace_page_fault_user") == 3 &&
		 tracepoint_args(btf, "btf_trace_page_fault_kernel") == 3;
	bpf_program__set_autoload(w->progs.fault_user, faults);
	bpf_program__set_autoload(w->progs.fault_kernel, faults);
	btf__free(btf);
	if (n != 3 && n != 4)
		return lp_err(err, -ENOTSUP, "the kernel's tracepoints mmap_lock:* are not as this version knows them");
	return 0;
}

void lp_ledger_close(int fds[LP_LEDGER_FDS])
{
	int i;

	for (i = 0; i < LP_LEDGER_FDS; i++) {
		if (fds[i] >= 0)
			close(fds[i]);
		fds[i] = -1;
	}
}

#define LINKS (LP_LEDGER_FDS - LP_LEDGER_LINKS)

static int load(int fds[LP_LEDGER_FDS], bool faults, struct lp_err *err)
{
	struct watch_bpf *w;
	struct bpf_link *link[LINKS] = { NULL };
	int i, rc;

	for (i = 0; i < LP_LEDGER_FDS; i++)
		fds[i] = -1;
#ifndef __x86_64__
	return lp_err(err, -ENOTSUP, "only on x86-64");
#endif
	libbpf_set_print(say);
	w = watch_bpf__open();
	if (!w)
		return lp_err_sys(err, -errno, "cannot open the BPF program");
	rc = prepare(w, faults, err);
	if (rc)
		goto out;
	rc = watch_bpf__load(w);
	if (rc) {
		lp_err_sys(err, rc, "cannot load the BPF program (it needs CAP_BPF and CAP_PERFMON)");
		goto out;
	}
	link[0] = bpf_program__attach(w->progs.lock_taken);
	link[1] = link[0] ? bpf_program__attach(w->progs.lock_left) : NULL;
	link[2] = link[1] ? bpf_program__attach(w->progs.room_found) : NULL;
	rc = link[2] ? 0 : lp_err_sys(err, -errno, "cannot attach the BPF program");
	if (!rc && bpf_program__autoload(w->progs.space_gone))
		link[3] = bpf_program__attach(w->progs.space_gone);
	if (!rc && bpf_program__autoload(w->progs.fault_user))
		link[4] = bpf_program__attach(w->progs.fault_user);
	if (link[4])
		link[5] = bpf_program__attach(w->progs.fault_kernel);
	if (!link[5]) {
		bpf_link__destroy(link[4]);
		link[4] = NULL;
	}
	if (!rc) {
		fds[LP_LEDGER_RING] = fcntl(bpf_map__fd(w->maps.ring), F_DUPFD_CLOEXEC, 0);
		fds[LP_LEDGER_SHARED] = fcntl(bpf_map__fd(w->maps.bss), F_DUPFD_CLOEXEC, 0);
		if (link[5])
			fds[LP_LEDGER_FAULTS] = fcntl(bpf_map__fd(w->maps.faults), F_DUPFD_CLOEXEC, 0);
		for (i = 0; i < LINKS; i++)
			if (link[i])
				fds[LP_LEDGER_LINKS + i] = fcntl(bpf_link__fd(link[i]), F_DUPFD_CLOEXEC, 0);
		for (i = 0; i < LP_LEDGER_LINKS + 3; i++)
			if (fds[i] < 0 && i != LP_LEDGER_FAULTS)
				rc = lp_err_sys(err, -EMFILE, "no descriptors for the BPF program");
	}
out:
	/* The descriptors keep what they are of. */
	for (i = 0; i < LINKS; i++)
		bpf_link__destroy(link[i]);
	watch_bpf__destroy(w);
	if (rc)
		lp_ledger_close(fds);
	return rc;
}

/* What the loading process leaves: see lp_ledger_load(). */
struct result {
	int rc;
	int fds[LP_LEDGER_FDS];
	struct lp_err err;
};

int lp_ledger_load(int fds[LP_LEDGER_FDS], struct lp_err *err)
{
	struct result *r;
	pid_t me = getpid(), pid;
	int rc, i;

	for (i = 0; i < LP_LEDGER_FDS; i++)
		fds[i] = -1;
	r = mmap(NULL, sizeof(*r), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (r == MAP_FAILED)
		return lp_err_sys(err, -errno, "mmap");
	r->rc = -ECHILD;
	strcpy(r->err.msg, "the process that was to load the BPF program has died");
	pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, NULL, NULL, NULL, NULL);
	if (!pid) {
		/* Whoever is killed now must not leave it behind. */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != me)
			_exit(1);
		r->rc = load(r->fds, true, &r->err);
		/* Better without faults than not at all. */
		if (r->rc)
			r->rc = load(r->fds, false, &r->err);
		_exit(0);
	}
	if (pid < 0)
		rc = lp_err_sys(err, -errno, "fork");
	else if (waitpid(pid, NULL, 0) != pid)
		rc = lp_err_sys(err, -errno, "waitpid");
	else
		rc = r->rc;
	if (!rc)
		memcpy(fds, r->fds, sizeof(r->fds));
	else if (pid > 0 && rc == r->rc)
		*err = r->err;
	munmap(r, sizeof(*r));
	return rc;
}

/*
 * The ring is read without libbpf, whose own reader asks the kernel about it with
 * bpf(2), which a confined worker may not. Its form is the kernel's (BPF_MAP_TYPE_RINGBUF):
 * a page with the consumer's position, one with the producer's, and the data twice
 * over, so that no record is cut.
 */
static int map_ring(struct ring *r, int fd, size_t size, size_t page)
{
	void *consumer, *producer;

	consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (consumer == MAP_FAILED)
		return -errno;
	producer = mmap(NULL, page + 2 * size, PROT_READ, MAP_SHARED, fd, (off_t)page);
	if (producer == MAP_FAILED) {
		int rc = -errno;

		munmap(consumer, page);
		return rc;
	}
	*r = (struct ring){ consumer, producer, (const uint8_t *)producer + page, size };
	return 0;
}

static void unmap_ring(struct ring *r, size_t page)
{
	if (!r->consumer)
		return;
	munmap(r->consumer, page);
	munmap((void *)r->producer, page + 2 * r->size);
}

int lp_ledger_attach(const int fds[LP_LEDGER_FDS], lp_ledger_entry_fn fn, void *arg, struct lp_ledger **out,
		     struct lp_err *err)
{
	struct lp_ledger *l = calloc(1, sizeof(*l));
	unsigned i;
	int rc;

	if (!l)
		return lp_err(err, -ENOMEM, "out of memory");
	l->fn = fn;
	l->arg = arg;
	l->page = sysconf(_SC_PAGESIZE);
	l->shared = mmap(NULL, l->page, PROT_READ | PROT_WRITE, MAP_SHARED, fds[LP_LEDGER_SHARED], 0);
	rc = l->shared == MAP_FAILED ? -errno :
				       map_ring(&l->entries, fds[LP_LEDGER_RING], LP_LEDGER_RING_SIZE, l->page);
	if (!rc && fds[LP_LEDGER_FAULTS] >= 0) {
		rc = map_ring(&l->faults, fds[LP_LEDGER_FAULTS], LP_LEDGER_FAULTS_SIZE, l->page);
		if (rc)
			unmap_ring(&l->entries, l->page);
	}
	if (rc) {
		lp_err_sys(err, rc, "cannot map the ring of the BPF program");
		if (l->shared != MAP_FAILED)
			munmap(l->shared, l->page);
		free(l);
		return rc;
	}
	/* Of who was killed while it filled. */
	lp_ledger_want_faults(l, false);
	for (i = 0; i < LP_LEDGER_SLOTS; i++)
		__atomic_store_n(&l->shared->slot[i].filling, 0, __ATOMIC_SEQ_CST);
	l->hasty = l->shared->guards_hasty;
	*out = l;
	return 0;
}

void lp_ledger_detach(struct lp_ledger *l)
{
	if (!l)
		return;
	lp_ledger_want_faults(l, false);
	unmap_ring(&l->entries, l->page);
	unmap_ring(&l->faults, l->page);
	munmap(l->shared, l->page);
	free(l);
}

static const uint32_t *head_of(const struct ring *r, unsigned long pos)
{
	return (const void *)(r->data + (pos & (r->size - 1)));
}

/*
 * The length of the record at @pos. One that is being written is waited for: a
 * later one may be of a change that has been made. It takes a microsecond, unless
 * a virtual CPU is taken away.
 */
static uint32_t finished(const struct ring *r, unsigned long pos)
{
	const uint32_t *head = head_of(r, pos);
	unsigned tries = 0;
	uint32_t len;

	while ((len = __atomic_load_n(head, __ATOMIC_ACQUIRE)) & BPF_RINGBUF_BUSY_BIT)
		if (++tries > 1000)
			sched_yield();
	return len;
}

/* The record at @pos, or NULL if it is none of @want bytes; and where the next one begins. */
static const void *record(const struct ring *r, unsigned long *pos, size_t want)
{
	uint32_t len = finished(r, *pos), size = len & ~BPF_RINGBUF_DISCARD_BIT;
	const void *p = r->data + (*pos & (r->size - 1)) + BPF_RINGBUF_HDR_SZ;

	*pos += (size + BPF_RINGBUF_HDR_SZ + 7) & ~7UL;
	return len & BPF_RINGBUF_DISCARD_BIT || size < want ? NULL : p;
}

static bool any(const struct ring *r)
{
	return r->consumer &&
	       __atomic_load_n(r->producer, __ATOMIC_ACQUIRE) != __atomic_load_n(r->consumer, __ATOMIC_RELAXED);
}

bool lp_ledger_read(struct lp_ledger *l)
{
	struct ring *r = &l->entries;
	uint64_t guards = __atomic_load_n(&l->shared->guards, __ATOMIC_SEQ_CST), now[LP_LEDGER_SLOTS], entered;
	unsigned long end, pos = *r->consumer;
	bool look = guards != l->guards, open = false;
	const void *e;
	unsigned i;

	/* In this order: if both are the same, none was under way, and the entries of all are there. */
	for (i = 1; look && i < LP_LEDGER_SLOTS; i++) {
		entered = __atomic_load_n(&l->shared->slot[i].entered, __ATOMIC_SEQ_CST);
		now[i] = __atomic_load_n(&l->shared->slot[i].guards, __ATOMIC_SEQ_CST);
		if (now[i] != entered) {
			now[i] = l->guards_read[i];
			open = true;
		}
	}
	end = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
	while (pos < end) {
		e = record(r, &pos, sizeof(struct lp_ledger_entry));
		if (e && !l->fn(l->arg, e))
			return false;
		__atomic_store_n(r->consumer, pos, __ATOMIC_RELEASE);
	}
	if (look) {
		memcpy(l->guards_read + 1, now + 1, sizeof(now) - sizeof(now[0]));
		l->guards = open ? 0 : guards;
	}
	return true;
}

static bool slot_due(const struct lp_ledger *l, unsigned slot)
{
	return __atomic_load_n(&l->shared->slot[slot].guards, __ATOMIC_SEQ_CST) !=
	       __atomic_load_n(&l->guards_heeded[slot], __ATOMIC_ACQUIRE);
}

bool lp_ledger_fill_begin(struct lp_ledger *l, unsigned slot)
{
	struct lp_ledger_slot *s = &l->shared->slot[slot];
	bool due;

	/* Whoever makes guard pages counts them and then looks whether somebody fills. */
	__atomic_fetch_add(&s->filling, 1, __ATOMIC_SEQ_CST);
	due = slot ? slot_due(l, slot) : __atomic_load_n(&l->shared->guards, __ATOMIC_SEQ_CST) != 0;
	/* A thread that makes them in a loop would leave no moment in between. */
	if (__atomic_load_n(&s->pause, __ATOMIC_RELAXED) != due)
		__atomic_store_n(&s->pause, due, __ATOMIC_RELAXED);
	if (due)
		lp_ledger_fill_end(l, slot);
	return !due;
}

void lp_ledger_fill_end(struct lp_ledger *l, unsigned slot)
{
	__atomic_fetch_sub(&l->shared->slot[slot].filling, 1, __ATOMIC_SEQ_CST);
}

bool lp_ledger_fill_pages(const struct lp_ledger *l, unsigned slot)
{
	return __atomic_load_n(&l->shared->slot[slot].guards, __ATOMIC_RELAXED);
}

bool lp_ledger_guards_due(const struct lp_ledger *l)
{
	return __atomic_load_n(&l->shared->guards, __ATOMIC_ACQUIRE) != l->guards;
}

void lp_ledger_heeded(struct lp_ledger *l)
{
	unsigned i;

	for (i = 1; i < LP_LEDGER_SLOTS; i++)
		if (l->guards_heeded[i] != l->guards_read[i])
			__atomic_store_n(&l->guards_heeded[i], l->guards_read[i], __ATOMIC_RELEASE);
}

uint64_t lp_ledger_hasty(struct lp_ledger *l)
{
	uint64_t hasty = __atomic_load_n(&l->shared->guards_hasty, __ATOMIC_ACQUIRE), n = hasty - l->hasty;

	l->hasty = hasty;
	return n;
}

bool lp_ledger_any(const struct lp_ledger *l)
{
	return any(&l->entries);
}

bool lp_ledger_tells_faults(const struct lp_ledger *l)
{
	return l->faults.consumer;
}

void lp_ledger_want_faults(struct lp_ledger *l, bool want)
{
	/* Read by others far more often than it changes. */
	if (__atomic_load_n(&l->shared->faults_wanted, __ATOMIC_RELAXED) != want)
		__atomic_store_n(&l->shared->faults_wanted, want, __ATOMIC_RELAXED);
	/* When they are wanted again these will be old. */
	if (!want && l->faults.consumer)
		__atomic_store_n(l->faults.consumer, __atomic_load_n(l->faults.producer, __ATOMIC_ACQUIRE),
				 __ATOMIC_RELEASE);
}

bool lp_ledger_any_fault(const struct lp_ledger *l)
{
	return any(&l->faults);
}

unsigned lp_ledger_faults(struct lp_ledger *l, struct lp_ledger_fault *buf, unsigned max)
{
	struct ring *r = &l->faults;
	unsigned long end, pos;
	const void *f;
	unsigned n = 0;

	if (!r->consumer)
		return 0;
	end = __atomic_load_n(r->producer, __ATOMIC_ACQUIRE);
	pos = *r->consumer;
	while (pos < end && n < max) {
		/* One that is being written is for the next time: others wait for the caller. */
		if (__atomic_load_n(head_of(r, pos), __ATOMIC_ACQUIRE) & BPF_RINGBUF_BUSY_BIT)
			break;
		f = record(r, &pos, sizeof(*buf));
		if (f)
			memcpy(&buf[n++], f, sizeof(*buf));
		__atomic_store_n(r->consumer, pos, __ATOMIC_RELEASE);
	}
	return n;
}

bool lp_ledger_lost(struct lp_ledger *l)
{
	uint64_t lost = __atomic_load_n(&l->shared->lost, __ATOMIC_ACQUIRE);
	bool more = lost != l->lost;

	l->lost = lost;
	return more;
}

/*
 * An UNREGISTER whose argument is at @arg: nobody else's address is the same but
 * by chance. It finds nothing of its own there, so it changes nothing; but it takes
 * the lock of the address space.
 */
static void touch(int uffd, unsigned long long *arg, uint64_t unmapped, uint64_t page)
{
	struct uffdio_range r = { .start = unmapped, .len = page };

	__atomic_store_n(arg, (uint64_t)(uintptr_t)&r, __ATOMIC_RELEASE);
	ioctl(uffd, UFFDIO_UNREGISTER, &r);
	__atomic_store_n(arg, 0, __ATOMIC_RELEASE);
}

uint64_t lp_ledger_watch(struct lp_ledger *l, int uffd, uint64_t unmapped, uint64_t page)
{
	__atomic_store_n(&l->shared->who_mm, 0, __ATOMIC_RELAXED);
	touch(uffd, &l->shared->who_arg, unmapped, page);
	return __atomic_load_n(&l->shared->who_mm, __ATOMIC_ACQUIRE);
}

void lp_ledger_unwatch(struct lp_ledger *l, int uffd, uint64_t unmapped, uint64_t page)
{
	touch(uffd, &l->shared->bye_arg, unmapped, page);
}
