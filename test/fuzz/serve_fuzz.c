/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: what a client can send to the image server. The input is a
 * list of frames: u8 type, u8 id, u8 length, meta; their sums are made right, so
 * that the fuzzer gets behind them. A first byte of 0xff means raw bytes. Every
 * answer must be a well-formed frame, and PAGES must have the right bytes.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "serve/internal.h"
#include "test/lib/imgbuild.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(x)                  \
	do {                     \
		if (!(x))        \
			abort(); \
	} while (0)

#define PAGES 40
#define BASE UINT64_C(0x10000)
#define ANSWERS (4u << 20)

/* libFuzzer calls plain functions: what lasts between runs has to be global. */
static char root[256];
static struct server srv;
static struct lp_serve_conf conf;
static const char *roots[1];
static uint8_t *answers;

static void clean_up(void)
{
	ib_remove(root);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct ib_vma vma = IB_ANON(BASE, PAGES);
	struct ib_ent ents[] = { { .vaddr = BASE, .nr = 2, .flags = IB_PRESENT },
				 { .vaddr = BASE + 4 * IB_PAGE, .nr = 20, .flags = IB_PRESENT | IB_LAZY },
				 { .vaddr = BASE + 30 * IB_PAGE, .nr = 10, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_task t = { .pid = 1, .pages_id = 1, .vmas = &vma, .nvmas = 1, .ents = ents, .nents = 3 };
	struct ib_image im = { .tasks = &t, .ntasks = 1 };
	struct lp_err err = { "" };
	char dir[300];
	unsigned i;

	setenv("TMPDIR", "/dev/shm", 0);
	MUST(!ib_tmpdir(root));
	atexit(clean_up);
	snprintf(dir, sizeof(dir), "%s/a", root);
	MUST(!ib_write(dir, &im));
	roots[0] = root;
	conf = (struct lp_serve_conf){ .roots = roots, .nroots = 1, .max_clients = 4, .idle_ms = 60000, .workers = 1 };
	srv.conf = &conf;
	srv.nbulk = 1;
	lp_log_level = LP_LOG_MSG;
	MUST(!store_new(&srv, &srv.store, &err));
	MUST(!loop_init(&srv.front, &srv));
	for (i = 0; i < URGENT_LOOPS; i++)
		MUST(!loop_init(&srv.urgent[i], &srv));
	MUST(!loop_init(&srv.bulk[0], &srv));
	answers = malloc(ANSWERS);
	MUST(answers);
	return 0;
}

static size_t build(const uint8_t *p, size_t n, uint8_t *out, size_t cap)
{
	size_t at = 0, len;

	while (n >= 3) {
		len = p[2] < n - 3 ? p[2] : n - 3;
		if (cap - at < LP_FRAME_HEADER + len)
			break;
		memcpy(out + at + LP_FRAME_HEADER, p + 3, len);
		at += lp_frame_close(out + at, p[0], 0, p[1], len, 0);
		p += 3 + len;
		n -= 3 + len;
	}
	return at;
}

static void check_pages(const struct lp_frame *f, const uint8_t *meta, const uint8_t *data)
{
	static uint8_t all[LP_GET_MAX];
	uint8_t page[IB_PAGE];
	struct lp_pages m;
	unsigned i;

	MUST(!lp_get_pages(meta, f->meta, f->data, &m));
	for (i = 0; i < m.nruns; i++) {
		const struct lp_run *r = &m.runs[i];
		uint8_t *out = all + (r->addr - m.runs[0].addr);
		uint64_t a;

		MUST(r->addr - m.runs[0].addr + r->len <= sizeof(all));
		MUST(!lp_run_decode(srv.front.codec, m.obj, r, data, out));
		data += r->stored;
		for (a = r->addr; r->enc != LP_ENC_HOLE && a < r->addr + r->len; a += IB_PAGE) {
			ib_fill_page(page, 1, a, 0);
			MUST(!memcmp(page, out + (a - r->addr), IB_PAGE));
		}
	}
}

static void check_file(const struct lp_frame *f, const uint8_t *meta)
{
	struct lp_file_data m;

	MUST(!lp_get_file_data(meta, f->meta, &m) && m.sum == lp_data_sum(meta + f->meta, f->data));
}

/* All whole frames in what came back; a connection that was closed may leave half a one. */
static void check_answers(size_t n)
{
	const uint8_t *p = answers;
	struct lp_frame f;
	size_t len;

	while (n >= LP_FRAME_HEADER) {
		MUST(!lp_frame_get(p, false, &f));
		len = LP_FRAME_HEADER + f.meta + f.data;
		if (n < len)
			return;
		MUST(!lp_frame_check(p, p + LP_FRAME_HEADER));
		if (f.type == LP_MSG_PAGES)
			check_pages(&f, p + LP_FRAME_HEADER, p + LP_FRAME_HEADER + f.meta);
		else if (f.type == LP_MSG_FILE_DATA)
			check_file(&f, p + LP_FRAME_HEADER);
		p += len;
		n -= len;
	}
}

static size_t drain(int fd, size_t have)
{
	ssize_t n;

	while (have < ANSWERS && (n = recv(fd, answers + have, ANSWERS - have, MSG_DONTWAIT)) > 0)
		have += n;
	return have;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t input[16384];
	size_t n, got = 0, before;
	int sv[2], rc = 0, turns = 0;
	struct conn *c;

	if (!size)
		return 0;
	if (*data == 0xff) {
		n = size - 1 < sizeof(input) ? size - 1 : sizeof(input);
		memcpy(input, data + 1, n);
	} else {
		n = build(data, size, input, sizeof(input));
	}
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv));
	c = conn_new(&srv.front, sv[0], NULL);
	MUST(c && send(sv[1], input, n, MSG_NOSIGNAL) == (ssize_t)n);
	shutdown(sv[1], SHUT_WR);
	do {
		before = got;
		rc = conn_read(c);
		if (!rc && c->state == CONN_OPEN && c->role != LP_ROLE_CONTROL)
			c->loop = c->role == LP_ROLE_URGENT ? &srv.urgent[0] : &srv.bulk[0];
		if (!rc)
			rc = conn_send(c, 1 << 18);
		got = drain(sv[1], got);
	} while (rc >= 0 && got < ANSWERS && (got > before || ++turns < 4));
	MUST(c->nreqs <= LP_OUTSTANDING && c->nin <= sizeof(c->in));
	check_answers(got);
	srv.front.run = srv.urgent[0].run = srv.bulk[0].run = NULL;
	srv.front.run_tail = &srv.front.run;
	srv.urgent[0].run_tail = &srv.urgent[0].run;
	srv.bulk[0].run_tail = &srv.bulk[0].run;
	conn_free(c);
	close(sv[1]);
	MUST(!atomic_load(&srv.strangers) && !atomic_load(&srv.clients[LP_ROLE_CONTROL]) &&
	     !atomic_load(&srv.clients[LP_ROLE_URGENT]) && !atomic_load(&srv.clients[LP_ROLE_BULK]));
	return 0;
}
