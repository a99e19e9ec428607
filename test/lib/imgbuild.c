/* SPDX-License-Identifier: GPL-2.0-only */
/* Builds CRIU image directories for tests, see imgbuild.h for who owns what. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "images/core.pb-c.h"
#include "images/inventory.pb-c.h"
#include "images/mm.pb-c.h"
#include "images/pagemap.pb-c.h"
#include "images/pstree.pb-c.h"
#include "test/lib/imgbuild.h"

/* No test wants a longer pages file; broken entries ask for up to 2^63. */
#define PAGES_MAX (UINT64_C(1) << 40)

void ib_free(struct ib_buf *b)
{
	free(b->p);
	memset(b, 0, sizeof(*b));
}

int ib_bytes(struct ib_buf *b, const void *p, size_t n)
{
	size_t cap = b->cap ? b->cap : 256;
	uint8_t *q;

	while (cap - b->n < n)
		cap *= 2;
	if (cap != b->cap) {
		q = realloc(b->p, cap);
		if (!q)
			return -ENOMEM;
		b->p = q;
		b->cap = cap;
	}
	if (n)
		memcpy(b->p + b->n, p, n);
	b->n += n;
	return 0;
}

int ib_u32(struct ib_buf *b, uint32_t v)
{
	uint8_t le[4] = { v, v >> 8, v >> 16, v >> 24 };

	return ib_bytes(b, le, 4);
}

int ib_msg(struct ib_buf *b, const ProtobufCMessage *m)
{
	size_t n = protobuf_c_message_get_packed_size(m);
	uint8_t small[256], *p = n <= sizeof(small) ? small : malloc(n);
	int rc;

	if (!p)
		return -ENOMEM;
	protobuf_c_message_pack(m, p);
	rc = ib_u32(b, (uint32_t)n);
	if (!rc)
		rc = ib_bytes(b, p, n);
	if (p != small)
		free(p);
	return rc;
}

static int open_at(const char *dir, const char *name, int flags)
{
	char path[PATH_MAX];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, flags | O_CLOEXEC, 0600);
	return fd < 0 ? -errno : fd;
}

int ib_save(const char *dir, const char *name, const void *p, size_t n)
{
	const uint8_t *q = p;
	ssize_t w = 0;
	int fd = open_at(dir, name, O_WRONLY | O_CREAT | O_TRUNC);

	if (fd < 0)
		return fd;
	for (; n; n -= w, q += w) {
		w = write(fd, q, n);
		if (w < 0)
			break;
	}
	if (close(fd) || w < 0)
		return -EIO;
	return 0;
}

int ib_load(const char *dir, const char *name, struct ib_buf *b)
{
	uint8_t buf[4096];
	ssize_t n;
	int rc = 0, fd = open_at(dir, name, O_RDONLY);

	if (fd < 0)
		return fd;
	while (!rc && (n = read(fd, buf, sizeof(buf))) > 0)
		rc = ib_bytes(b, buf, n);
	close(fd);
	return rc ? rc : n < 0 ? -EIO : 0;
}

static int start(struct ib_buf *b, const struct ib_image *im, uint32_t magic)
{
	int rc = im->version != 1 ? ib_u32(b, IB_MAGIC_COMMON) : 0;

	return rc ? rc : ib_u32(b, magic);
}

static int finish(struct ib_buf *b, int rc, const char *dir, const char *name)
{
	if (!rc)
		rc = ib_save(dir, name, b->p, b->n);
	ib_free(b);
	return rc;
}

static int write_inventory(const char *dir, const struct ib_image *im)
{
	Lp__InventoryEntry e = LP__INVENTORY_ENTRY__INIT;
	struct ib_buf b = { 0 };
	int rc = im->inv_common ? ib_u32(&b, IB_MAGIC_COMMON) : 0;

	e.img_version = im->version ? im->version : 2;
	if (!rc)
		rc = ib_u32(&b, IB_MAGIC_INVENTORY);
	if (!rc)
		rc = ib_msg(&b, &e.base);
	return finish(&b, rc, dir, "inventory.img");
}

static int write_pstree(const char *dir, const struct ib_image *im)
{
	struct ib_buf b = { 0 };
	size_t i;
	int rc = start(&b, im, IB_MAGIC_PSTREE);

	for (i = 0; !rc && i < im->ntasks; i++) {
		Lp__PstreeEntry e = LP__PSTREE_ENTRY__INIT;

		e.pid = im->tasks[i].pid;
		e.ppid = im->tasks[i].ppid;
		e.threads = calloc(im->tasks[i].nthreads + 1, sizeof(*e.threads));
		if (!e.threads) {
			rc = -ENOMEM;
			break;
		}
		while (e.n_threads < im->tasks[i].nthreads) {
			e.threads[e.n_threads] = im->tasks[i].threads[e.n_threads].tid;
			e.n_threads++;
		}
		rc = ib_msg(&b, &e.base);
		free(e.threads);
	}
	return finish(&b, rc, dir, "pstree.img");
}

/* @th: NULL: nothing is known. */
static int write_core(const char *dir, const struct ib_image *im, const struct ib_task *t, const struct ib_thread *th)
{
	Lp__TaskCoreEntry tc = LP__TASK_CORE_ENTRY__INIT;
	Lp__ThreadCoreEntry thread = LP__THREAD_CORE_ENTRY__INIT;
	Lp__UserX86RegsEntry regs = LP__USER_X86_REGS_ENTRY__INIT;
	Lp__ThreadInfoX86 info = LP__THREAD_INFO_X86__INIT;
	Lp__CoreEntry e = LP__CORE_ENTRY__INIT;
	struct ib_buf b = { 0 };
	char name[32];
	int rc = start(&b, im, IB_MAGIC_CORE);

	tc.task_state = t->state ? t->state : IB_ALIVE;
	if (!th || th->tid == t->pid)
		e.tc = &tc;
	if (th) {
		e.mtype = th->mtype;
		e.has_mtype = true;
		regs.r8 = th->a4;
		regs.si = th->a1;
		regs.di = th->a0;
		regs.orig_ax = th->call;
		regs.has_r8 = regs.has_si = regs.has_di = regs.has_orig_ax = true;
		regs.mode = th->compat ? 2 : 1;
		regs.has_mode = true;
		info.gpregs = &regs;
		info.clear_tid_addr = th->clear_tid;
		info.has_clear_tid_addr = true;
		e.thread_info = &info;
		thread.futex_rla = th->robust;
		thread.has_futex_rla = true;
		e.thread_core = &thread;
	}
	if (!rc)
		rc = ib_msg(&b, &e.base);
	snprintf(name, sizeof(name), "core-%" PRIu32 ".img", th ? th->tid : t->pid);
	return finish(&b, rc, dir, name);
}

static int write_mm(const char *dir, const struct ib_image *im, const struct ib_task *t)
{
	Lp__MmEntry e = LP__MM_ENTRY__INIT;
	Lp__VmaEntry *v = calloc(t->nvmas + 1, sizeof(*v)), **pv = calloc(t->nvmas + 1, sizeof(*pv));
	struct ib_buf b = { 0 };
	char name[32];
	size_t i;
	int rc = v && pv ? start(&b, im, IB_MAGIC_MM) : -ENOMEM;

	e.mm_arg_start = t->words[0];
	e.mm_arg_end = t->words[1];
	e.mm_env_start = t->words[2];
	e.mm_env_end = t->words[3];
	e.has_mm_arg_start = e.has_mm_arg_end = e.has_mm_env_start = e.has_mm_env_end = true;
	for (i = 0; !rc && i < t->nvmas; i++) {
		const struct ib_vma *s = &t->vmas[i];

		lp__vma_entry__init(&v[i]);
		v[i].start = s->start;
		v[i].end = s->end;
		v[i].pgoff = s->pgoff;
		v[i].shmid = s->shmid;
		v[i].prot = s->prot;
		v[i].flags = s->flags;
		v[i].status = s->status;
		v[i].has_madv = s->madv != 0;
		v[i].madv = s->madv;
		pv[i] = &v[i];
	}
	e.n_vmas = t->nvmas;
	e.vmas = pv;
	if (!rc)
		rc = ib_msg(&b, &e.base);
	free(v);
	free(pv);
	snprintf(name, sizeof(name), "mm-%" PRIu32 ".img", t->pid);
	return finish(&b, rc, dir, name);
}

static void add_unknown(ProtobufCMessage *m, ProtobufCMessageUnknownField *u, uint32_t tag)
{
	static uint8_t one = 1;

	if (!tag)
		return;
	*u = (ProtobufCMessageUnknownField){ .tag = tag, .wire_type = PROTOBUF_C_WIRE_TYPE_VARINT, .len = 1, .data = &one };
	m->unknown_fields = u;
	m->n_unknown_fields = 1;
}

static int put_entry(struct ib_buf *b, const struct ib_ent *s)
{
	Lp__PagemapEntry e = LP__PAGEMAP_ENTRY__INIT;
	ProtobufCMessageUnknownField u;

	e.vaddr = s->vaddr;
	e.compat_nr_pages = (uint32_t)s->nr;
	if (s->form == IB_COMPAT) {
		e.has_in_parent = e.in_parent = s->flags & IB_PARENT;
	} else {
		e.has_flags = 1;
		e.flags = s->flags;
	}
	if (s->form == IB_NEW) {
		/* Wrong on purpose when there is a better one: field 5 wins. */
		e.compat_nr_pages = 0;
		e.has_nr_pages = 1;
		e.nr_pages = s->nr;
	}
	add_unknown(&e.base, &u, s->unknown);
	return ib_msg(b, &e.base);
}

int ib_write_pagemap(const char *dir, const struct ib_image *im, const struct ib_task *t)
{
	Lp__PagemapHead h = LP__PAGEMAP_HEAD__INIT;
	ProtobufCMessageUnknownField u;
	struct ib_buf b = { 0 };
	char name[32];
	size_t i;
	int rc = start(&b, im, IB_MAGIC_PAGEMAP);

	h.pages_id = t->pages_id;
	add_unknown(&h.base, &u, t->head_unknown);
	if (!rc)
		rc = ib_msg(&b, &h.base);
	for (i = 0; !rc && i < t->nents; i++)
		rc = put_entry(&b, &t->ents[i]);
	snprintf(name, sizeof(name), "pagemap-%" PRIu32 ".img", t->pid);
	return finish(&b, rc, dir, name);
}

void ib_fill_page(void *page, uint32_t pid, uint64_t addr, uint32_t gen)
{
	uint64_t *w = page, x = addr ^ ((uint64_t)pid << 40) ^ ((uint64_t)gen << 56);
	unsigned i;

	for (i = 0; i < IB_PAGE / sizeof(*w); i++) {
		x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		w[i] = x;
	}
}

static bool in_file(const struct ib_ent *e)
{
	return e->form == IB_COMPAT ? !(e->flags & IB_PARENT) : e->flags & IB_PRESENT;
}

static int write_pages(const char *dir, const struct ib_image *im, const struct ib_task *t)
{
	uint64_t page[IB_PAGE / 8], size = 0, k;
	bool fill = !im->sparse;
	char name[32];
	size_t i;
	int fd, rc = 0;

	for (i = 0; i < t->nents; i++) {
		if (!in_file(&t->ents[i]))
			continue;
		if (t->ents[i].nr > PAGES_MAX / IB_PAGE || size + t->ents[i].nr * IB_PAGE > PAGES_MAX)
			fill = false;
		else
			size += t->ents[i].nr * IB_PAGE;
	}
	snprintf(name, sizeof(name), "pages-%" PRIu32 ".img", t->pages_id);
	fd = open_at(dir, name, O_WRONLY | O_CREAT | O_TRUNC);
	if (fd < 0)
		return fd;
	if (!fill && ftruncate(fd, (off_t)size))
		rc = -errno;
	for (i = 0; fill && !rc && i < t->nents; i++) {
		for (k = 0; in_file(&t->ents[i]) && !rc && k < t->ents[i].nr; k++) {
			ib_fill_page(page, t->pid, t->ents[i].vaddr + k * IB_PAGE, im->gen);
			if (write(fd, page, sizeof(page)) != (ssize_t)sizeof(page))
				rc = -EIO;
		}
	}
	close(fd);
	return rc;
}

static int write_task(const char *dir, const struct ib_image *im, const struct ib_task *t)
{
	bool alive = !t->state || t->state == IB_ALIVE || t->state == IB_STOPPED;
	size_t i;
	int rc = 0;

	if (!im->predump)
		rc = write_core(dir, im, t, NULL);
	for (i = 0; !rc && !im->predump && i < t->nthreads; i++)
		rc = write_core(dir, im, t, &t->threads[i]);
	if (!alive)
		return rc;
	if (!rc && !im->predump)
		rc = write_mm(dir, im, t);
	if (!rc)
		rc = ib_write_pagemap(dir, im, t);
	if (!rc)
		rc = write_pages(dir, im, t);
	return rc;
}

int ib_write(const char *dir, const struct ib_image *im)
{
	char path[PATH_MAX];
	size_t i;
	int rc;

	if (mkdir(dir, 0700) && errno != EEXIST)
		return -errno;
	if (im->parent) {
		snprintf(path, sizeof(path), "%s/parent", dir);
		if (symlink(im->parent, path))
			return -errno;
	}
	rc = write_inventory(dir, im);
	if (!rc && !im->predump)
		rc = write_pstree(dir, im);
	for (i = 0; !rc && i < im->ntasks; i++)
		rc = write_task(dir, im, &im->tasks[i]);
	return rc;
}

int ib_tmpdir(char *path)
{
	const char *t = getenv("TMPDIR");

	snprintf(path, 256, "%s/lpimg.XXXXXX", t && *t ? t : "/tmp");
	return mkdtemp(path) ? 0 : -errno;
}

static int rm_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

void ib_remove(const char *dir)
{
	nftw(dir, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}
