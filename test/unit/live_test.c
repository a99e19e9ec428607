/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The client of CRIU's page server against servers in this process: honest
 * ones that answer in parts, and ones that lie. No page that did not come
 * rightly may ever be handed out.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "live/live.h"

#define PG UINT64_C(4096)

enum lie { HONEST, PARTS, WRONG_ADDR, WRONG_PID, TOO_MANY, NONE, NOT_PRESENT, WRONG_COMMAND, HANGS_UP, HALF_PAGE, LEAVES };

struct server {
	struct lp_addr addr;
	enum lp_ps_layout layout;
	enum lie lie;
	unsigned after; /* honest answers before */
	int fd;
	unsigned gets;
	bool closed; /* CLOSE came and was answered */
	pthread_t thread;
};

static struct lp_live_range ranges[] = {
	{ .obj = 0, .pid = 7, .start = 0x10000, .end = 0x10000 + 300 * PG },
	{ .obj = 0, .pid = 7, .start = 0x200000000, .end = 0x200000000 + 3 * PG },
	{ .obj = 0, .pid = 7, .start = 0x200000000 + 3 * PG, .end = 0x200000000 + 700 * PG },
	{ .obj = 2, .pid = 9, .start = 0x10000, .end = 0x10000 + 1000 * PG },
};
#define NRANGES (sizeof(ranges) / sizeof(ranges[0]))

static void fill(uint8_t *p, uint64_t pid, uint64_t addr)
{
	uint64_t *w = (uint64_t *)p, i;

	for (i = 0; i < PG / 8; i++)
		w[i] = (pid << 48 ^ addr ^ i) * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

static bool whole(int fd, void *p, size_t n, bool out)
{
	while (n) {
		ssize_t k = out ? send(fd, p, n, MSG_NOSIGNAL) : recv(fd, p, n, 0);

		if (k <= 0)
			return false;
		p = (char *)p + k;
		n -= k;
	}
	return true;
}

static bool answer(struct server *s, int fd, struct lp_ps m)
{
	bool lie = s->lie > PARTS && s->gets > s->after;
	uint8_t head[LP_PS_MAX], page[PG];
	uint64_t i;

	m.cmd = LP_PS_ADD_F;
	m.flags = LP_PS_PRESENT_FLAG;
	if (s->lie == PARTS && m.pages > 1)
		m.pages = 1 + m.pages / 3;
	if (lie && s->lie == WRONG_ADDR)
		m.addr += PG;
	if (lie && s->lie == WRONG_PID)
		m.dst++;
	if (lie && s->lie == TOO_MANY)
		m.pages++;
	if (lie && s->lie == NONE)
		m.pages = 0;
	if (lie && s->lie == NOT_PRESENT)
		m.flags = 0;
	if (lie && s->lie == WRONG_COMMAND)
		m.cmd = LP_PS_ADD, m.flags = 0;
	if (lie && s->lie == HANGS_UP)
		return false;
	if (!whole(fd, head, lp_ps_put(head, s->layout, &m), true))
		return false;
	for (i = 0; i < m.pages; i++) {
		fill(page, m.dst, m.addr + i * PG);
		if (lie && s->lie == HALF_PAGE && i == m.pages - 1)
			return whole(fd, page, PG / 2, true) && false;
		if (!whole(fd, page, PG, true))
			return false;
	}
	return !(lie && s->lie == LEAVES);
}

static void *server_main(void *arg)
{
	struct server *s = arg;
	int fd = accept(s->fd, NULL, NULL);
	uint8_t head[LP_PS_MAX];
	const int32_t ok = 0;
	struct lp_ps m;

	while (fd >= 0 && whole(fd, head, s->layout, false) && !lp_ps_get(head, s->layout, &m)) {
		if (m.cmd == LP_PS_CLOSE) {
			s->closed = whole(fd, (void *)&ok, sizeof(ok), true);
			break;
		}
		s->gets++;
		if (m.cmd != LP_PS_GET || !answer(s, fd, m))
			break;
	}
	if (fd >= 0)
		close(fd);
	return NULL;
}

static void serve(struct server *s)
{
	struct sockaddr_un un = { .sun_family = AF_UNIX };

	s->addr = (struct lp_addr){ .unix_path = true };
	snprintf(s->addr.host, sizeof(s->addr.host), "/tmp/lazypages-live-test.%d", getpid());
	snprintf(un.sun_path, sizeof(un.sun_path), "%.100s", s->addr.host);
	unlink(un.sun_path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(s->fd, (struct sockaddr *)&un, sizeof(un)), 0);
	assert_int_equal(listen(s->fd, 1), 0);
}

static struct lp_live *start(struct server *s, uint64_t cache, bool keep, int *rc)
{
	struct lp_live_conf conf = { .layout = s->layout, .timeout_ms = 2000, .ranges = ranges, .nranges = NRANGES,
				     .ahead = 64 * PG, .cache = cache, .keep = keep };
	struct lp_live *l = NULL;
	struct lp_err err;

	serve(s);
	conf.addr = s->addr;
	assert_int_equal(pthread_create(&s->thread, NULL, server_main, s), 0);
	*rc = lp_live_open(&conf, &l, &err);
	return l;
}

static void finish(struct server *s)
{
	pthread_join(s->thread, NULL);
	close(s->fd);
	unlink(s->addr.host);
}

static void check(uint32_t obj, uint64_t addr, const uint8_t *p, uint64_t len)
{
	uint8_t page[PG];

	for (; len; len -= PG, addr += PG, p += PG) {
		fill(page, obj == 0 ? 7 : 9, addr);
		assert_memory_equal(p, page, PG);
	}
}

struct taker {
	struct lp_live *l;
	unsigned seed;
	bool random;
	unsigned lost; /* calls that said so */
};

/* Bulk: everything in order; or reads of some pages anywhere. What is handed out must be right. */
static void *take(void *arg)
{
	struct taker *t = arg;
	struct lp_live_pin pin = { 0 };
	uint8_t buf[16 * PG];
	uint64_t addr, len;
	unsigned i;
	int rc = 0;

	for (i = 0; t->random && i < 300 && !rc; i++) {
		const struct lp_live_range *r = &ranges[rand_r(&t->seed) % NRANGES];

		addr = r->start + rand_r(&t->seed) % ((r->end - r->start) / PG) * PG;
		len = (1 + rand_r(&t->seed) % 16) * PG;
		if (addr + len > r->end && r != &ranges[1])
			len = r->end - addr; /* that one goes on in the next */
		rc = i % 3 ? lp_live_read(t->l, r->obj, addr, buf, len, 5000) : lp_live_copy(t->l, r->obj, addr, buf, len);
		if (!rc)
			check(r->obj, addr, buf, len);
		if (rc == -EAGAIN)
			rc = 0;
	}
	for (i = 0; !t->random && i < NRANGES && !rc; i++) {
		for (addr = ranges[i].start; addr < ranges[i].end && !rc; addr += pin.len) {
			rc = lp_live_pin(t->l, ranges[i].obj, addr, 1 << 20, 5000, &pin);
			if (rc)
				break;
			assert_true(pin.len && addr + pin.len <= ranges[i].end);
			check(ranges[i].obj, addr, pin.bytes, pin.len);
			len = pin.len;
			lp_live_unpin(t->l, &pin);
			pin.len = len;
		}
	}
	t->lost = rc != 0;
	return NULL;
}

/* Several threads take all of it at once; the number of those that were told of a loss. */
static unsigned take_all(struct lp_live *l)
{
	struct taker t[5];
	pthread_t th[5];
	unsigned i, lost = 0;

	for (i = 0; i < 5; i++) {
		t[i] = (struct taker){ .l = l, .seed = i, .random = i > 1 };
		assert_int_equal(pthread_create(&th[i], NULL, take, &t[i]), 0);
	}
	for (i = 0; i < 5; i++) {
		pthread_join(th[i], NULL);
		lost += t[i].lost;
	}
	return lost;
}

static void honest(enum lp_ps_layout layout, enum lie lie, uint64_t cache)
{
	struct server s = { .layout = layout, .lie = lie };
	struct lp_live *l;
	uint64_t bytes, requests;
	int rc;

	l = start(&s, cache, false, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(take_all(l), 0);
	assert_false(lp_live_has(l, 0, 0xf000, PG));
	assert_false(lp_live_has(l, 1, 0x10000, PG));
	assert_int_equal(lp_live_want(l, 0, 0x10000 + 300 * PG, PG), -ENODATA);
	lp_live_stats(l, &bytes, &requests);
	/* Nothing twice, unless it was forgotten. */
	if (cache > (UINT64_C(1) << 30))
		assert_int_equal(bytes, 2000 * PG);
	else
		assert_true(bytes > 2000 * PG);
	assert_int_equal(lp_live_close(l, true), 0);
	finish(&s);
	assert_true(s.closed);
}

static void test_honest(void **state)
{
	honest(LP_PS_24, HONEST, UINT64_MAX);
	honest(LP_PS_32, HONEST, UINT64_MAX);
}

static void test_parts(void **state)
{
	honest(LP_PS_32, PARTS, UINT64_MAX);
}

static void test_small_cache(void **state)
{
	honest(LP_PS_32, HONEST, 8 * PG);
	honest(LP_PS_24, PARTS, 0);
}

/* The relay: everything comes unasked, and stays after the source has gone. */
static void test_keep(void **state)
{
	struct server s = { .layout = LP_PS_32, .lie = PARTS };
	struct lp_live *l;
	int rc;

	l = start(&s, 0, true, &rc);
	assert_int_equal(rc, 0);
	assert_int_equal(lp_live_start(l), 0);
	while (lp_live_left(l))
		usleep(1000);
	assert_false(s.closed); /* the caller says when */
	assert_int_equal(lp_live_finish(l), 0);
	finish(&s);
	assert_true(s.closed);
	assert_int_equal(lp_live_lost(l), 0);
	assert_int_equal(take_all(l), 0);
	assert_int_equal(lp_live_close(l, true), 0);
}

/* From the first answer on: nothing has begun yet. */
static void test_lies_at_once(void **state)
{
	enum lie lie;

	for (lie = WRONG_ADDR; lie <= HALF_PAGE; lie++) {
		struct server s = { .layout = LP_PS_32, .lie = lie };
		struct lp_live *l;
		int rc;

		l = start(&s, UINT64_MAX, false, &rc);
		assert_true(rc < 0);
		assert_null(l);
		finish(&s);
		assert_int_equal(s.gets, 1);
	}
}

/* Later: what was right before stays, the rest never comes, and whoever waits is told. */
static void test_lies_later(void **state)
{
	enum lie lie;

	for (lie = WRONG_ADDR; lie <= HALF_PAGE; lie++) {
		struct server s = { .layout = LP_PS_24, .lie = lie, .after = 12 };
		struct lp_live *l;
		uint8_t page[PG];
		int rc;

		l = start(&s, UINT64_MAX, false, &rc);
		assert_int_equal(rc, 0);
		assert_true(take_all(l) > 0);
		assert_true(lp_live_lost(l) < 0);
		assert_int_equal(lp_live_copy(l, 0, 0x10000, page, PG), 0);
		check(0, 0x10000, page, PG);
		assert_true(lp_live_left(l) > 0);
		assert_true(lp_live_close(l, true) < 0);
		finish(&s);
		assert_false(s.closed);
	}
}

/* Before anybody has asked for a page, so before there is a thread. */
static void test_leaves_early(void **state)
{
	struct server s = { .layout = LP_PS_32, .lie = LEAVES };
	struct lp_live *l;
	int rc;

	l = start(&s, 0, false, &rc);
	assert_int_equal(rc, 0);
	finish(&s);
	assert_int_equal(s.gets, 1);
	assert_int_equal(lp_live_lost(l), -EPIPE);
	lp_live_close(l, false);
}

/* The other layout: this server waits for 8 bytes more. */
static void test_wrong_layout(void **state)
{
	struct server s = { .layout = LP_PS_32 };
	struct lp_live_conf conf = { .layout = LP_PS_24, .timeout_ms = 300, .ranges = ranges, .nranges = NRANGES };
	struct lp_live *l;
	struct lp_err err;

	serve(&s);
	conf.addr = s.addr;
	assert_int_equal(pthread_create(&s.thread, NULL, server_main, &s), 0);
	assert_int_equal(lp_live_open(&conf, &l, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.msg, "layout=32"));
	finish(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_honest), cmocka_unit_test(test_parts), cmocka_unit_test(test_small_cache),
		cmocka_unit_test(test_keep), cmocka_unit_test(test_lies_at_once), cmocka_unit_test(test_lies_later),
		cmocka_unit_test(test_leaves_early), cmocka_unit_test(test_wrong_layout),
	};
	uint8_t *mem = NULL;
	size_t i;

	lp_log_level = LP_LOG_MSG;
	for (i = 0; i < NRANGES; i++) {
		mem = mmap(NULL, ranges[i].end - ranges[i].start, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		ranges[i].mem = mem;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
