/* SPDX-License-Identifier: GPL-2.0-only */
/* The guardian's journal: cells, notes that grow, answers, descriptors, what a stranger's journal is. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard/journal.h"

static struct lp_journal *fresh(void)
{
	struct lp_journal *j;
	struct lp_err err;

	assert_int_equal(lp_journal_create(&j, &err), 0);
	return j;
}

static uint64_t word(const struct lp_journal *j, uint64_t i)
{
	return j->cells[i].word;
}

static void cells(void **state)
{
	struct lp_journal *j = fresh(), *again;
	struct lp_err err;
	int fd;

	assert_int_equal(lp_journal_add(j, LP_J_REMAP, 31, 0x12345, 0xfedcba98, 1, 2, UINT64_MAX), 0);
	assert_int_equal(lp_journal_count(j), 1);
	assert_int_equal(lp_jkind(word(j, 0)), LP_J_REMAP);
	assert_int_equal(lp_ja(word(j, 0)), 31);
	assert_int_equal(lp_jb(word(j, 0)), 0x2345); /* 16 bits */
	assert_int_equal(lp_jmm(word(j, 0)), 0xfedcba98);
	assert_int_equal(j->cells[0].z, UINT64_MAX);

	/* Who has another mapping of it sees the same. */
	fd = dup(j->fd);
	assert_int_equal(lp_journal_attach(fd, &again, &err), 0);
	assert_int_equal(lp_journal_add(j, LP_J_SETTLED, 0, 0, 7, 0, 0, 0), 0);
	assert_int_equal(lp_journal_count(again), 2);
	assert_int_equal(lp_jmm(word(again, 1)), 7);
	lp_journal_free(again);
	lp_journal_free(j);
}

static void strangers(void **state)
{
	struct lp_journal *j = fresh(), *out;
	struct lp_err err;
	int fd = dup(j->fd), null = open("/dev/null", O_RDONLY);

	j->h->version++;
	assert_int_equal(lp_journal_attach(fd, &out, &err), -EINVAL);
	j->h->version--;
	j->h->engine++;
	assert_int_equal(lp_journal_attach(fd, &out, &err), -EINVAL);
	j->h->engine--;
	j->h->features |= UINT64_C(1) << 63;
	assert_int_equal(lp_journal_attach(fd, &out, &err), -EINVAL);
	j->h->features = LP_J_FEATURES;
	assert_int_equal(lp_journal_attach(fd, &out, &err), 0);
	out->fd = -1;
	lp_journal_free(out);
	j->h->cap = UINT64_MAX / 32;
	assert_int_equal(lp_journal_attach(fd, &out, &err), -EINVAL);
	assert_int_equal(lp_journal_attach(null, &out, &err), -EINVAL);
	close(fd);
	close(null);
	j->h->cap = 1;
	lp_journal_free(j);
}

/* More than was allocated at first. */
static void grows(void **state)
{
	struct lp_journal *j = fresh();
	uint64_t i, n = 3 * j->h->cap + 5;

	for (i = 0; i < n; i++)
		assert_int_equal(lp_journal_add(j, LP_J_REMOVE, 0, 0, 1, i, i + 1, 0), 0);
	assert_int_equal(lp_journal_count(j), n);
	assert_true(j->h->cap >= n);
	for (i = 0; i < n; i++)
		assert_int_equal(j->cells[i].x, i);
	assert_false(lp_journal_has(j, LP_JF_BROKEN));
	lp_journal_free(j);
}

static void done(void **state)
{
	struct lp_journal *j = fresh();

	lp_journal_done(j, 1, 5, 0x1000, 0x2000);
	lp_journal_done(j, 1, 5, 0x2000, 0x5000);
	assert_int_equal(lp_journal_count(j), 1);
	assert_int_equal(j->cells[0].x, 0x1000);
	assert_int_equal(j->cells[0].y, 0x5000);
	/* A message was read in between: from here on addresses may mean something else. */
	lp_journal_done(j, 1, 6, 0x5000, 0x6000);
	assert_int_equal(lp_journal_count(j), 2);
	assert_int_equal(j->cells[0].y, 0x5000);
	lp_journal_done(j, 2, 6, 0x6000, 0x7000);
	lp_journal_done(j, 2, 6, 0x8000, 0x9000);
	assert_int_equal(lp_journal_count(j), 4);
	lp_journal_free(j);
}

static void answers(void **state)
{
	struct lp_journal *j = fresh();
	unsigned i;

	lp_journal_begin(j);
	for (i = 0; i < LP_J_ANSWERS_MAX + 3; i++)
		assert_int_equal(lp_journal_answer(j, i % 3 == 2 ? -EAGAIN : (int)(i % 3)), i % 3 == 2 ? -EAGAIN : (int)(i % 3));
	lp_journal_answers(j, 9);
	assert_int_equal(lp_journal_count(j), 2);
	assert_int_equal(lp_ja(word(j, 0)), LP_J_ANSWERS_MAX);
	assert_int_equal(lp_ja(word(j, 1)), 3);
	assert_int_equal(j->cells[0].x & 63, 0 | 1 << 2 | 2 << 4);
	assert_int_equal(j->cells[1].x, 0 | 1 << 2 | 2 << 4);
	/* Those of a call that failed are forgotten. */
	lp_journal_begin(j);
	lp_journal_answer(j, 1);
	lp_journal_begin(j);
	lp_journal_answers(j, 9);
	assert_int_equal(lp_journal_count(j), 2);
	lp_journal_free(j);
}

static void control(void **state)
{
	struct lp_journal *j = fresh();
	struct lp_jhand *h = &j->h->hand;
	struct msghdr m = { .msg_control = h->ctl, .msg_controllen = sizeof(h->ctl) };
	struct iovec iov = { h->buf, 1 };
	int s[2], sent = open("/dev/null", O_RDONLY), fd;
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} c = { { 0 } };
	struct msghdr out = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };

	assert_int_equal(lp_jhand_fd(h), -1);
	memset(h->ctl, 0xff, sizeof(h->ctl));
	assert_int_equal(lp_jhand_fd(h), -1);
	memset(h->ctl, 0, sizeof(h->ctl));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	c.align = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(&c.align), &sent, sizeof(sent));
	assert_int_equal(sendmsg(s[0], &out, 0), 1);
	m.msg_iov = &iov;
	m.msg_iovlen = 1;
	assert_int_equal(recvmsg(s[1], &m, 0), 1);
	fd = lp_jhand_fd(h);
	assert_true(fd >= 0 && fcntl(fd, F_GETFD) >= 0);
	close(fd);
	close(sent);
	close(s[0]);
	close(s[1]);
	lp_journal_free(j);
}

static int null_fd(void)
{
	int fd = open("/dev/null", O_RDONLY);

	assert_true(fd > 2);
	return fd;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* In a child, since it closes what it does not know. */
static void sweep(void **state)
{
	struct lp_journal *j = fresh();
	int task = null_fd(), pidfd = null_fd(), child = null_fd(), closed = null_fd(), in_zone = null_fd(),
	    strange = null_fd(), kept = null_fd(), orphan = null_fd(), st;
	pid_t pid;

	lp_journal_add(j, LP_J_SPACE, 0, 0, 0, 1000, (uint64_t)task | (uint64_t)pidfd << 32, 1);
	lp_journal_add(j, LP_J_FORK, 0, 0, 0, child, 1, 0);
	lp_journal_add(j, LP_J_FORK, 0, 0, 0, closed, 2, 0);
	lp_journal_add(j, LP_J_CLOSE, 0, 0, 2, 0, 0, 0);
	lp_journal_add(j, LP_J_SKIP, 0, 0, 0, orphan + 1, 0, 0);
	j->h->zone.msgs[3].event = UFFD_EVENT_FORK;
	j->h->zone.msgs[3].arg.fork.ufd = in_zone;
	lp_journal_keep(j, kept);
	pid = fork();
	if (!pid) {
		lp_journal_sweep(j, "lazy-pages.socket");
		_exit(!(is_open(task) && is_open(pidfd) && is_open(child) && is_open(in_zone) && is_open(kept) &&
			is_open(j->fd) && is_open(orphan) && !is_open(strange) && !is_open(closed) && is_open(2)));
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	/* Its number is used again, by a space that lives. */
	lp_journal_add(j, LP_J_FORK, 0, 0, 0, closed, 3, 0);
	pid = fork();
	if (!pid) {
		lp_journal_sweep(j, "lazy-pages.socket");
		_exit(!(is_open(closed) && !is_open(strange)));
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	for (st = 3; st < 20; st++)
		if (st != j->fd && (st == task || st == pidfd || st == child || st == closed || st == in_zone ||
				    st == strange || st == kept || st == orphan))
			close(st);
	lp_journal_free(j);
}

/* CRIU's connection, accepted as the last thing that a worker did. */
static void sweep_accepted(void **state)
{
	struct lp_journal *j = fresh();
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = "journal_test.socket" };
	int l = socket(AF_UNIX, SOCK_STREAM, 0), c = socket(AF_UNIX, SOCK_STREAM, 0), a, st;
	char dir[] = "/tmp/lp-journal.XXXXXX";
	pid_t pid;

	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_int_equal(bind(l, (void *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(connect(c, (void *)&sa, sizeof(sa)), 0);
	a = accept(l, NULL, NULL);
	assert_true(a >= 0);
	j->h->listen_fd = l;
	lp_journal_flag(j, LP_JF_LISTENING);
	pid = fork();
	if (!pid) {
		lp_journal_sweep(j, sa.sun_path);
		_exit(!(is_open(l) && is_open(a) && !is_open(c)));
	}
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_int_equal(st, 0);
	assert_int_equal(j->h->hand_sock, a);
	assert_true(lp_journal_has(j, LP_JF_ACCEPTED));
	close(l);
	close(c);
	close(a);
	unlink(sa.sun_path);
	assert_int_equal(chdir("/"), 0);
	rmdir(dir);
	lp_journal_free(j);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cells), cmocka_unit_test(strangers), cmocka_unit_test(grows),
		cmocka_unit_test(done), cmocka_unit_test(answers), cmocka_unit_test(control),
		cmocka_unit_test(sweep), cmocka_unit_test(sweep_accepted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
