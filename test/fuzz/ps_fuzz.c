/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * libFuzzer target: what a hostile CRIU can send to the server, which takes it
 * for a `criu lazy-pages` (first byte even) or for a `criu dump --page-server`
 * (odd). The input is a list of headers, u8 command, u8 what, u8 pages, whose
 * fields are mostly sensible, so that the fuzzer gets behind the first one;
 * with a second bit in the first byte it is raw bytes. Pages that are answered
 * must be the right ones; nothing that was received may be left behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "serve/ingest.h"
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
#define OUT_MAX (1u << 20)

/* libFuzzer calls plain functions: what lasts between runs has to be global. */
static char root[256], in[300];
static struct server srv;
static struct lp_serve_conf conf;
static struct ckpt *ckpt;
static uint8_t *out;

static void clean_up(void)
{
	ib_remove(root);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct ib_vma vma = IB_ANON(BASE, PAGES);
	struct ib_ent ents[] = { { .vaddr = BASE, .nr = 2, .flags = IB_PRESENT },
				 { .vaddr = BASE + 4 * IB_PAGE, .nr = 20, .flags = IB_PRESENT | IB_LAZY },
				 { .vaddr = BASE + 24 * IB_PAGE, .nr = 10, .flags = IB_PRESENT | IB_LAZY } };
	struct ib_task t = { .pid = 1, .pages_id = 1, .vmas = &vma, .nvmas = 1, .ents = ents, .nents = 3 };
	struct ib_image im = { .tasks = &t, .ntasks = 1 };
	struct lp_err err = { "" };
	char dir[300];

	setenv("TMPDIR", "/dev/shm", 0);
	MUST(!ib_tmpdir(root));
	atexit(clean_up);
	snprintf(dir, sizeof(dir), "%s/a", root);
	MUST(!ib_write(dir, &im));
	snprintf(in, sizeof(in), "%s/in", root);
	MUST(!mkdir(in, 0700));
	lp_log_level = LP_LOG_MSG;
	MUST(!ckpt_open("a", dir, NULL, false, &ckpt, &err));
	conf = (struct lp_serve_conf){ .ingest = in, .ingest_limit = 1 << 20, .max_clients = 4, .idle_ms = 1 };
	srv.conf = &conf;
	srv.ingest_fd = open(in, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	MUST(srv.ingest_fd >= 0 && !pthread_mutex_init(&srv.ingest_lock, NULL));
	out = malloc(OUT_MAX);
	MUST(out);
	return 0;
}

/* Headers, and pages behind those that have some. */
static size_t build(const uint8_t *p, size_t n, enum lp_ps_layout layout, uint8_t *buf, size_t cap)
{
	static const uint16_t cmds[] = { LP_PS_GET, LP_PS_OPEN2, LP_PS_ADD_F, LP_PS_CLOSE, LP_PS_PARENT,
					 LP_PS_ADD, LP_PS_HOLE, LP_PS_OPEN, LP_PS_FORCE_CLOSE, 0 };
	struct lp_ps m;
	size_t at = 0;

	for (; n >= 3 && cap - at > LP_PS_MAX + 4 * IB_PAGE; p += 3, n -= 3) {
		m = (struct lp_ps){ .cmd = cmds[p[0] % 10], .pages = p[2], .addr = BASE + (uint64_t)p[1] * IB_PAGE };
		m.dst = m.cmd == LP_PS_GET ? p[0] / 10 : (uint64_t)(p[0] / 10 + 1) << 8 | (p[1] & 1 ? 1 : 2);
		if (m.cmd == LP_PS_ADD_F)
			m.flags = p[1] >> 5;
		at += lp_ps_put(buf + at, layout, &m);
		if ((m.cmd == LP_PS_ADD_F && m.flags & LP_PS_PRESENT_FLAG) || m.cmd == LP_PS_ADD) {
			memset(buf + at, p[2], (m.pages & 3) * IB_PAGE);
			at += (m.pages & 3) * IB_PAGE;
		}
	}
	return at;
}

/* Answers to GETs, as far as they are whole. */
static void check_out(const uint8_t *p, size_t n, enum lp_ps_layout layout)
{
	uint8_t page[IB_PAGE];
	struct lp_ps m;
	uint64_t i;

	while (layout && n >= (size_t)layout) {
		MUST(!lp_ps_get(p, layout, &m));
		MUST(m.cmd == LP_PS_ADD_F && m.flags == LP_PS_PRESENT_FLAG && m.dst == 1);
		p += layout;
		n -= layout;
		for (i = 0; i < m.pages && n >= IB_PAGE; i++, p += IB_PAGE, n -= IB_PAGE) {
			ib_fill_page(page, 1, m.addr + i * IB_PAGE, 0);
			MUST(!memcmp(page, p, IB_PAGE));
		}
		if (i < m.pages)
			return;
	}
}

static void check_left(bool complete)
{
	DIR *d = opendir(in);
	struct dirent *e;
	unsigned n = 0;

	MUST(d);
	while ((e = readdir(d)))
		n += e->d_name[0] != '.' || !strncmp(e->d_name, ".incoming-", 10) || !strncmp(e->d_name, ".receiving-", 11);
	closedir(d);
	MUST(n == complete);
}

static void receive(struct ps *s)
{
	struct lp_err err = { "" };
	struct ingest *got;
	int rc;

	rc = ps_receive(s, &srv, "b", &err);
	check_left(!rc);
	MUST(!srv.ingests);
	/* Away with it. */
	MUST(!ingest_begin(&srv, "b", false, &got, &err));
	got->keep = false;
	ingest_end(&srv, got);
	check_left(false);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint8_t input[60000];
	struct ps s = { .who = "fuzz", .ms = 1 };
	struct lp_err err = { "" };
	const int big = 1 << 20;
	size_t n, have = 0;
	ssize_t k;
	int sv[2];

	if (!size)
		return 0;
	if (*data & 2) {
		n = size - 1 < sizeof(input) ? size - 1 : sizeof(input);
		memcpy(input, data + 1, n);
	} else {
		n = build(data + 1, size - 1, *data & 4 ? LP_PS_24 : LP_PS_32, input, sizeof(input));
	}
	MUST(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, sv));
	setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &big, sizeof(big));
	MUST(send(sv[1], input, n, MSG_NOSIGNAL) == (ssize_t)n);
	shutdown(sv[1], SHUT_WR);
	s.s.fd = sv[0];
	if (*data & 1) {
		receive(&s);
	} else {
		int rc = ps_serve(&s, ckpt, &err);

		while (have < OUT_MAX && (k = recv(sv[1], out + have, OUT_MAX - have, MSG_DONTWAIT)) > 0)
			have += k;
		/* Behind a CLOSE that was answered comes nothing. */
		if (!rc && have % IB_PAGE % 8 == 4)
			have -= 4;
		check_out(out, have, s.layout);
	}
	close(sv[0]);
	close(sv[1]);
	return 0;
}
