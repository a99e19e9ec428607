/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The program in the kernel. It looks on when the lock of a watched address
 * space is taken and let go (tracepoints mmap_lock:*), and enters which system
 * call of the space's own threads held it for writing: there is one at a time, so
 * the order of entries is that of the changes. The arguments are read from the
 * caller's registers.
 *
 * Entered when the lock is let go (or turned into one for reading, as munmap()
 * does), still holding it: by then userfaultfd has counted the messages that the
 * change will send, see "The book" in engine/engine.h. madvise() that discards
 * holds the lock for reading, and sends its message after it has let go of it.
 *
 * Guard pages are made with the lock held for reading, as fills are, and userfaultfd
 * knows nothing of them: it fills over them. So whoever makes some waits here, before
 * that, until nobody fills; and nobody begins to until the entry was read.
 *
 * And it tells of faults in watched address spaces before userfaultfd does. That is
 * a hint for who is busy filling: reading the messages of a userfaultfd stops all
 * fills of its address space. The message comes all the same, until the thread is
 * woken, so nothing depends on a hint.
 *
 * x86-64 only: system calls have other numbers and registers elsewhere.
 */
#include <linux/bpf.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_helpers.h>

#include "ledger/shared.h"

char LICENSE[] SEC("license") = "GPL";

#define NR_MMAP 9
#define NR_MUNMAP 11
#define NR_BRK 12
#define NR_IOCTL 16
#define NR_MREMAP 25
#define NR_MADVISE 28
#define NR_CLONE 56
#define NR_FORK 57
#define NR_VFORK 58
#define NR_CLONE3 435

#define MAP_FIXED 0x10
#define GUARD_INSTALL 102 /* madvise(), Linux 6.13 */
#define ERROR_PRESENT 1 /* of x86: the page is there, the access is not allowed */
#define UFFDIO_UNREGISTER 0x8010aa01
#define UFFDIO_REGISTER 0xc020aa00

/* Of the kernel, only what is read here: libbpf finds out where it is. */
struct mm_struct {
	unsigned long total_vm, brk, locked_vm;
} __attribute__((preserve_access_index));
struct task_struct {
	struct mm_struct *mm;
} __attribute__((preserve_access_index));
struct vm_area_struct {
	unsigned long vm_start, vm_end, vm_flags;
} __attribute__((preserve_access_index));
struct pt_regs {
	unsigned long r10, r8, dx, si, di, orig_ax;
} __attribute__((preserve_access_index));

/* Which argument of the tracepoints says whether the lock is one for writing: 1, or 2 before Linux 6.14 or so. */
const volatile unsigned int write_arg = 1;
/* Does the kernel know guard pages? Then it knows bpf_loop(), too. */
const volatile unsigned int guards_known = 0;
/* Longest wait for fills, ns: a chunk takes a tenth of it, unless its thread has no CPU. Nothing else runs here meanwhile. */
#define GUARD_WAIT 2000000
#define GUARD_LOOKS (1 << 20)
#define GUARD_MAPPINGS 16 /* looked at, of locked ones */
#define VM_LOCKED 0x2000

struct lp_ledger_shared shared;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LP_LEDGER_RING_SIZE);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, LP_LEDGER_FAULTS_SIZE);
} faults SEC(".maps");

/* Watched address spaces. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, unsigned long long);
	__type(value, unsigned char);
} watched SEC(".maps");

/* Calls that hold a lock for writing, by thread; and those that make guard pages. */
struct section {
	unsigned long long mm, child, brk, area;
	unsigned long total_vm;
	unsigned long guard, guarded; /* guard: 1, or LOOKING; guarded: bytes */
#define LOOKING 2
};
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, unsigned int);
	__type(value, struct section);
} sections SEC(".maps");

static __always_inline void lose(void)
{
	__sync_fetch_and_add(&shared.lost, 1);
}

static __always_inline int is_fork(unsigned long nr)
{
	return nr == NR_CLONE || nr == NR_FORK || nr == NR_VFORK || nr == NR_CLONE3;
}

/* Does the call change what lies where? */
static __always_inline int concerns(struct pt_regs *regs, unsigned long nr)
{
	unsigned long advice;

	switch (nr) {
	case NR_MMAP:
		return (BPF_CORE_READ(regs, r10) & MAP_FIXED) != 0;
	case NR_MADVISE: /* DONTFORK, DOFORK, WIPEONFORK, KEEPONFORK */
		advice = BPF_CORE_READ(regs, dx);
		return advice == 10 || advice == 11 || advice == 18 || advice == 19;
	case NR_MUNMAP:
	case NR_MREMAP:
	case NR_BRK:
		return 1;
	default:
		return is_fork(nr);
	}
}

/* DONTNEED, FREE, REMOVE, DONTNEED_LOCKED */
static __always_inline int discards(struct pt_regs *regs, unsigned long nr)
{
	unsigned long advice;

	if (nr != NR_MADVISE)
		return 0;
	advice = BPF_CORE_READ(regs, dx);
	return advice == 4 || advice == 8 || advice == 9 || advice == 24;
}

static __always_inline int guards(struct pt_regs *regs)
{
	return guards_known && BPF_CORE_READ(regs, orig_ax) == NR_MADVISE && BPF_CORE_READ(regs, dx) == GUARD_INSTALL;
}

struct wait {
	unsigned long long end;
	unsigned int slot, met;
};

/* The kernel shall see that it is in bounds. */
static __always_inline struct lp_ledger_slot *slot_of(unsigned int slot)
{
	return &shared.slot[slot & (LP_LEDGER_SLOTS - 1)];
}

static __always_inline int is_over(const struct wait *w)
{
	return bpf_ktime_get_ns() >= w->end;
}

static long no_pause(unsigned int i, void *w)
{
	return !*(volatile unsigned long long *)&slot_of(((struct wait *)w)->slot)->pause || is_over(w);
}

static __always_inline int filling(const struct wait *w)
{
	return *(volatile unsigned long long *)&slot_of(w->slot)->filling || *(volatile unsigned long long *)&shared.slot[0].filling;
}

static long nobody_fills(unsigned int i, void *arg)
{
	struct wait *w = arg;

	w->met = !filling(w);
	return w->met || is_over(w);
}

/* Whoever fills says so and then looks at `guards`; here it is the other way round. */
static __always_inline void guard_begins(unsigned int slot)
{
	struct wait w = { .end = bpf_ktime_get_ns() + GUARD_WAIT, .slot = slot };

	bpf_loop(GUARD_LOOKS, no_pause, &w, 0);
	slot_of(slot)->pause = 0; /* whoever still cannot fill asks again */
	/* In this order: whoever sees that there are more must see where. */
	__sync_fetch_and_add(&slot_of(slot)->guards, 1);
	__sync_fetch_and_add(&shared.guards, 1);
	w.end = bpf_ktime_get_ns() + GUARD_WAIT;
	bpf_loop(GUARD_LOOKS, nobody_fills, &w, 0);
	/* (Whoever is refused says that it fills, too, for a moment.) */
	if (!w.met)
		__sync_fetch_and_add(&shared.guards_hasty, 1);
}

/* The mapping at an address. */
struct mapping {
	unsigned long start, end, flags;
};

static long look_at_mapping(struct task_struct *task, struct vm_area_struct *vma, void *to)
{
	struct mapping *m = to;

	m->start = BPF_CORE_READ(vma, vm_start);
	m->end = BPF_CORE_READ(vma, vm_end);
	m->flags = BPF_CORE_READ(vma, vm_flags);
	return 0;
}

/*
 * Locked memory gets no guard pages: the call ends there with EINVAL, which nobody
 * tells. How much of @len bytes is in front of that? If the kernel does not let us
 * look, as somebody waits for the lock, all.
 */
static __always_inline unsigned long guarded_len(struct task_struct *task, struct mm_struct *mm, unsigned long start,
						 unsigned long len)
{
	unsigned long at = start, end = start + len;
	struct mapping m;
	int i;

	if (!BPF_CORE_READ(mm, locked_vm))
		return len;
	for (i = 0; i < GUARD_MAPPINGS && at < end; i++) {
		m.start = m.end = m.flags = 0;
		if (bpf_find_vma(task, at, look_at_mapping, &m, 0) || m.end <= at)
			return len;
		if (m.flags & VM_LOCKED)
			return at - start;
		at = m.end;
	}
	return len;
}

static __always_inline void enter(struct pt_regs *regs, struct mm_struct *mm, unsigned int tid, struct section *s)
{
	struct lp_ledger_entry *e = bpf_ringbuf_reserve(&ring, sizeof(*e), 0);

	if (!e) {
		lose();
		return;
	}
	e->mm = (unsigned long long)mm;
	e->child = s ? s->child : 0;
	e->brk = s ? s->brk : 0;
	e->area = s ? s->area : 0;
	e->grew = s ? (long long)(BPF_CORE_READ(mm, total_vm) - s->total_vm) : 0;
	e->arg[0] = BPF_CORE_READ(regs, di);
	e->arg[1] = s && s->guard ? s->guarded : BPF_CORE_READ(regs, si);
	e->arg[2] = BPF_CORE_READ(regs, dx);
	e->arg[3] = BPF_CORE_READ(regs, r10);
	e->arg[4] = BPF_CORE_READ(regs, r8);
	e->tid = tid;
	e->nr = BPF_CORE_READ(regs, orig_ax);
	/* Nobody sleeps on it. */
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
}

static __always_inline void leave(struct mm_struct *mm, struct pt_regs *regs, unsigned int tid)
{
	struct section *s = bpf_map_lookup_elem(&sections, &tid);

	if (!s || s->mm != (unsigned long long)mm || s->guard == LOOKING)
		return;
	if (s->guard) {
		s->guard = LOOKING; /* that takes the lock again */
		s->guarded = guarded_len((void *)bpf_get_current_task_btf(), mm, BPF_CORE_READ(regs, di),
					 BPF_CORE_READ(regs, si));
	}
	enter(regs, mm, tid, s);
	if (s->guard)
		__sync_fetch_and_add(&slot_of(lp_ledger_slot(s->mm))->entered, 1);
	bpf_map_delete_elem(&sections, &tid);
}

/*
 * Flag @i of a tracepoint. The kernel refuses a program that may read more than
 * the tracepoint has; it knows which branch is taken, unless the compiler makes one
 * of the two.
 */
static __always_inline int flag(unsigned long long *ctx, int i)
{
	unsigned long long v;

	if (write_arg == 1) {
		v = ctx[1 + i];
		asm volatile("r0 = 1" : "+r"(v) : : "r0");
	} else {
		v = ctx[2 + i];
		asm volatile("r0 = 2" : "+r"(v) : : "r0");
	}
	return v & 0xff;
}

SEC("raw_tp/mmap_lock_acquire_returned")
int lock_taken(unsigned long long *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pt_regs *regs = (void *)bpf_task_pt_regs((void *)task);
	struct mm_struct *mm = (void *)ctx[0], *own = BPF_CORE_READ(task, mm);
	int write = flag(ctx, 0), success = flag(ctx, 1);
	unsigned int tid = bpf_get_current_pid_tgid();
	unsigned long long name = (unsigned long long)mm;
	struct section s = {}, *parent;
	unsigned char one = 1;
	unsigned long nr;

	if (!success || !own)
		return 0;
	if (!write) {
		leave(mm, regs, tid); /* turned into one for reading */
		if (own != mm || !guards(regs) || !bpf_map_lookup_elem(&watched, &name) ||
		    bpf_map_lookup_elem(&sections, &tid))
			return 0;
		s.mm = name;
		s.guard = 1;
		if (bpf_map_update_elem(&sections, &tid, &s, BPF_ANY))
			lose();
		else
			guard_begins(lp_ledger_slot(name));
		return 0;
	}
	nr = BPF_CORE_READ(regs, orig_ax);
	if (own != mm) {
		if (is_fork(nr)) { /* inside its parent's section: the child's own */
			parent = bpf_map_lookup_elem(&sections, &tid);
			if (!parent)
				return 0;
			parent->child = name;
		} else if (nr == NR_IOCTL && BPF_CORE_READ(regs, si) == UFFDIO_UNREGISTER &&
			   BPF_CORE_READ(regs, dx) == shared.who_arg) {
			shared.who_mm = name;
		} else {
			if (nr == NR_IOCTL && BPF_CORE_READ(regs, si) == UFFDIO_UNREGISTER &&
			    BPF_CORE_READ(regs, dx) == shared.bye_arg)
				bpf_map_delete_elem(&watched, &name);
			return 0;
		}
		if (bpf_map_update_elem(&watched, &name, &one, BPF_ANY))
			lose();
		return 0;
	}
	if (!bpf_map_lookup_elem(&watched, &name)) {
		/* A task that is being restored may run before its userfaultfd is looked at. */
		if (nr != NR_IOCTL || BPF_CORE_READ(regs, si) != UFFDIO_REGISTER)
			return 0;
		if (bpf_map_update_elem(&watched, &name, &one, BPF_ANY))
			lose();
		enter(regs, mm, tid, NULL);
		return 0;
	}
	if (!concerns(regs, nr))
		return 0;
	s.mm = name;
	s.brk = BPF_CORE_READ(mm, brk);
	s.total_vm = BPF_CORE_READ(mm, total_vm);
	if (bpf_map_update_elem(&sections, &tid, &s, BPF_ANY))
		lose();
	return 0;
}

SEC("raw_tp/mmap_lock_released")
int lock_left(unsigned long long *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct pt_regs *regs = (void *)bpf_task_pt_regs((void *)task);
	struct mm_struct *mm = (void *)ctx[0];
	int write = flag(ctx, 0);
	unsigned long long name = (unsigned long long)mm;
	unsigned int tid = bpf_get_current_pid_tgid();

	if (BPF_CORE_READ(task, mm) != mm)
		return 0;
	if (write || guards(regs))
		leave(mm, regs, tid);
	else if (discards(regs, BPF_CORE_READ(regs, orig_ax)) && bpf_map_lookup_elem(&watched, &name))
		enter(regs, mm, tid, NULL);
	return 0;
}

/* For mremap(), under the lock: the place is not among its arguments. */
SEC("raw_tp/vm_unmapped_area")
int room_found(unsigned long long *ctx)
{
	unsigned int tid = bpf_get_current_pid_tgid();
	struct section *s = bpf_map_lookup_elem(&sections, &tid);

	if (s)
		s->area = ctx[0];
	return 0;
}

/* Of whatever kind it is: userfaultfd has no tracepoint of its own. */
static __always_inline int fault(unsigned long addr, unsigned long error)
{
	struct task_struct *task = (void *)bpf_get_current_task_btf();
	struct lp_ledger_fault *f;
	unsigned long long name;

	if (!shared.faults_wanted || error & ERROR_PRESENT)
		return 0;
	name = (unsigned long long)BPF_CORE_READ(task, mm);
	if (!name || !bpf_map_lookup_elem(&watched, &name))
		return 0;
	f = bpf_ringbuf_reserve(&faults, sizeof(*f), 0);
	if (!f)
		return 0;
	f->mm = name;
	f->addr = addr & ~4095UL;
	bpf_ringbuf_submit(f, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("raw_tp/page_fault_user")
int fault_user(unsigned long long *ctx)
{
	return fault(ctx[0], ctx[2]);
}

/* System calls that touch a task's memory. */
SEC("raw_tp/page_fault_kernel")
int fault_kernel(unsigned long long *ctx)
{
	return fault(ctx[0], ctx[2]);
}

/* Its name may be given to another. */
SEC("raw_tp/exit_mmap")
int space_gone(unsigned long long *ctx)
{
	unsigned long long name = ctx[0];

	bpf_map_delete_elem(&watched, &name);
	return 0;
}
