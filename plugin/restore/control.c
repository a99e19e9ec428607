/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Control of a running restore. One thread serves the socket: a client that is
 * slow or hostile holds up the other clients, if anybody. It takes r->lock for
 * some microseconds an answer, and gives one answer in PAUSE_MS at most, so that
 * nobody can ask faults to death.
 *
 * What is set lies in struct lp_jctl, in the journal if there is one: the next
 * worker finds it there, and the listening descriptor, too. Clients that wait in
 * its backlog while a worker is replaced do not notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "guard/guard.h"
#include "restore/control.h"
#include "restore/internal.h"

#define CLIENTS	   8
#define WAITERS	   4 /* of them, who wait for the end */
#define LINE_MAX_  (LP_J_SOURCE_MAX + 64) /* switch-source and all servers */
#define PATIENCE   (UINT64_C(5) * 1000000000) /* for a client to ask and to take the answer */
#define PAUSE_MS   2
#define TASKS_MAX  200 /* in an answer */
#define RATE_MIN   (UINT64_C(64) << 10)
#define CATCH_UP   UINT64_C(50000000) /* ns that the background may have been late and make up for */

struct text {
	char *v;
	size_t n, cap;
	bool failed;
};

struct client {
	int fd;
	uint64_t until;
	char line[LINE_MAX_];
	size_t n;
	struct text answer;
	size_t sent;
	bool waits; /* for the end */
};

static void put(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static void put(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	if (t->cap - t->n < 1024) {
		char *v = realloc(t->v, 2 * t->cap + 4096);

		if (!v) {
			t->failed = true;
			return;
		}
		t->v = v;
		t->cap = 2 * t->cap + 4096;
	}
	va_start(ap, fmt);
	n = vsnprintf(t->v + t->n, t->cap - t->n, fmt, ap);
	va_end(ap);
	t->n += n < (int)(t->cap - t->n) ? (size_t)n : t->cap - t->n - 1;
}

/* @s as a string of JSON; at most 600 bytes of it. */
static void put_string(struct text *t, const char *s)
{
	unsigned i;

	put(t, "\"");
	for (i = 0; s[i] && i < 600; i++) {
		unsigned char c = s[i];

		if (c == '"' || c == '\\')
			put(t, "\\%c", c);
		else if (c < 0x20 || c > 0x7e)
			put(t, "\\u%04x", c);
		else
			put(t, "%c", c);
	}
	put(t, "\"");
}

static void refuse(struct text *t, const char *why)
{
	put(t, "{\"ok\": false, \"error\": ");
	put_string(t, why);
	put(t, "}\n");
}

/* ---- The background obeys ---------------------------------------------------- */

bool control_background(const struct lp_restore *r)
{
	uint32_t b = atomic_load_explicit(&r->ctl->background, memory_order_relaxed);

	/* Who is told to finish does so, whatever was set before. */
	return r->hurry || b == LP_J_RUNNING || (b == LP_J_AS_STARTED && r->conf->background);
}

bool control_held(const struct lp_restore *r)
{
	return atomic_load_explicit(&r->ctl->background, memory_order_relaxed) == LP_J_PAUSED ||
	       atomic_load_explicit(&r->ctl->rate, memory_order_relaxed);
}

bool control_turn(struct lp_restore *r)
{
	struct timespec ts;
	bool go;

	pthread_mutex_lock(&r->lock);
	while (!r->stopping && !r->hurry && control_background(r) && r->ctl->rate && r->turn_at > lp_now()) {
		ts.tv_sec = r->turn_at / 1000000000;
		ts.tv_nsec = r->turn_at % 1000000000;
		pthread_cond_timedwait(&r->ctl_cond, &r->lock, &ts);
	}
	go = !r->stopping && control_background(r);
	pthread_mutex_unlock(&r->lock);
	return go;
}

void control_charge(struct lp_restore *r, uint64_t bytes)
{
	uint64_t rate = r->ctl->rate, now;

	if (!rate || r->hurry)
		return;
	pthread_mutex_lock(&r->lock);
	now = lp_now();
	if (r->turn_at + CATCH_UP < now)
		r->turn_at = now - CATCH_UP;
	r->turn_at += bytes * UINT64_C(1000000000) / rate; /* a chunk: no overflow */
	pthread_mutex_unlock(&r->lock);
}

/* Something was set: all who wait for their turn look again. r->lock held. */
static void changed(struct lp_restore *r)
{
	r->turn_at = 0;
	pthread_cond_broadcast(&r->ctl_cond);
	pthread_cond_broadcast(&r->bulk_cond);
}

/* ---- The words --------------------------------------------------------------- */

static const char *background_word(const struct lp_restore *r)
{
	if (r->failed || r->fatal)
		return "ended";
	if (!atomic_load(&r->armed))
		return "waiting";
	if (r->hurry)
		return "finishing";
	if (control_background(r))
		return "running";
	return r->ctl->background == LP_J_PAUSED ? "paused" : "off";
}

static const char *state_word(const struct lp_restore *r)
{
	if (r->fatal)
		return "killed";
	if (r->failed)
		return "failed";
	if (atomic_load(&r->armed))
		return "filling";
	return r->t_first ? "restoring" : "waiting for CRIU";
}

static const char *upgrade_word(uint32_t state)
{
	static const char *const words[] = { "none", "asked", "checking", "replacing", "done", "refused" };

	return state < sizeof(words) / sizeof(words[0]) ? words[state] : "?";
}

static const char *switch_word(uint32_t state)
{
	static const char *const words[] = { "none", "asked", "checking", "replacing", "done", "refused" };

	return state < sizeof(words) / sizeof(words[0]) ? words[state] : "?";
}

/* Where pages come from, as a list. */
static void put_source(struct text *t, const char *source)
{
	const char *word = source ? strchr(source, '\t') : NULL, *end;
	char one[LP_J_SOURCE_MAX];
	bool first = true;

	put(t, "\"from\": [");
	for (; word; word = end) {
		end = strchr(++word, '\t');
		snprintf(one, sizeof(one), "%.*s", (int)(end ? end - word : (ptrdiff_t)strlen(word)), word);
		put(t, "%s", first ? "" : ", ");
		put_string(t, one);
		first = false;
	}
	put(t, "], ");
}

static void say_status(struct lp_restore *r, struct text *t)
{
	uint64_t missing = 0, now = lp_now();
	const struct lp_mm *mm;
	unsigned n = 0;

	pthread_mutex_lock(&r->lock);
	put(t, "{\"ok\": true, \"version\": \"%s\", \"state\": \"%s\", \"seconds\": %.3f, ", LP_VERSION, state_word(r),
	    r->t_first ? (now - r->t_first) / 1e9 : 0.0);
	put(t, "\"background\": {\"state\": \"%s\", \"rate\": %" PRIu64 "}, ", background_word(r), r->ctl->rate);
	put(t, "\"faults\": %" PRIu64 ", \"zero_faults\": %" PRIu64 ", ", atomic_load(&r->faults),
	    atomic_load(&r->zero_faults));
	put(t, "\"bytes\": {\"total\": %" PRIu64 ", \"background\": %" PRIu64 ", \"urgent\": %" PRIu64
	       ", \"dropped\": %" PRIu64 ", \"lost\": %" PRIu64 "}, ",
	    r->total_bytes, atomic_load(&r->filled_bulk), atomic_load(&r->filled_urgent), atomic_load(&r->dropped),
	    atomic_load(r->lost));
	put(t, "\"source\": {\"kind\": \"%s\", ", r->source->ops->name);
	put_source(t, r->conf->source_text);
	put(t, "\"state\": \"%s\", \"errors\": %" PRIu64,
	    r->source_bad_at && now - r->source_bad_at < UINT64_C(2000000000) ? "failing" : "good", r->source_errors);
	if (r->source_bad_at) {
		put(t, ", \"last_error_seconds_ago\": %.1f, \"last_error\": ", (now - r->source_bad_at) / 1e9);
		put_string(t, strerror(-r->source_error));
	}
	put(t, "}, \"forks\": %" PRIu64 ", \"remaps\": %" PRIu64 ", \"removes\": %" PRIu64 ", \"unmaps\": %" PRIu64 ", ",
	    r->forks, r->remaps, r->removes, r->unmaps);
	if (r->j) {
		struct lp_jhead *h = r->j->h;

		put(t, "\"workers\": %u, \"guardian\": %d, \"worker\": %d, ", h->workers, h->guardian, (int)getpid());
		put(t, "\"journal\": {\"cells\": %" PRIu64 ", \"version\": %u, \"engine\": %" PRIu64 ", \"features\": %" PRIu64
		       "}, ",
		    lp_journal_count(r->j), h->version, h->engine, h->features);
		put(t, "\"upgrade\": {\"serial\": %u, \"state\": \"%s\", \"message\": ", h->up.serial,
		    upgrade_word(h->up.state));
		put_string(t, h->up.state == LP_J_UP_REFUSED ? h->up.msg : "");
		put(t, "}, \"switch\": {\"serial\": %u, \"state\": \"%s\", \"message\": ", h->sw.serial,
		    switch_word(h->sw.state));
		put_string(t, h->sw.state == LP_J_SW_REFUSED ? h->sw.msg : "");
		put(t, "}, ");
	}
	put(t, "\"spaces\": [");
	for (mm = r->mms; mm; mm = mm->next) {
		missing += lp_space_missing(mm->space);
		if (n++ >= TASKS_MAX)
			continue;
		put(t, "%s{\"pid\": %d, \"id\": %u, \"host_pid\": %d, \"missing\": %" PRIu64 ", \"state\": \"%s\"}",
		    n > 1 ? ", " : "", mm->pid, mm->id, mm->host_pid, lp_space_missing(mm->space),
		    lp_space_dead(mm->space) ? "ended" :
		    lp_space_young(mm->space) || lp_space_unsettled(mm->space) ? "changing" :
		    atomic_load(&mm->lost_since) ? "waiting for its source" : "good");
	}
	put(t, "], \"nspaces\": %zu, \"missing\": %" PRIu64 "}\n", r->nmms, missing);
	pthread_mutex_unlock(&r->lock);
}

static void done(struct text *t)
{
	put(t, "{\"ok\": true}\n");
}

static void set_background(struct lp_restore *r, enum lp_jbackground b, struct text *t)
{
	pthread_mutex_lock(&r->lock);
	if (r->hurry) {
		refuse(t, "it was told to finish: the background runs until all is filled");
	} else {
		r->ctl->background = b;
		changed(r);
		pr_msg("control: background %s", b == LP_J_PAUSED ? "paused" : "resumed");
		done(t);
	}
	pthread_mutex_unlock(&r->lock);
}

static void throttle(struct lp_restore *r, const char *arg, struct text *t)
{
	uint64_t rate;

	if (lp_size_parse(arg, &rate) || (rate && rate < RATE_MIN)) {
		refuse(t, "throttle takes bytes per second, 64K or more, or 0 for none");
		return;
	}
	pthread_mutex_lock(&r->lock);
	r->ctl->rate = rate;
	changed(r);
	pr_msg("control: background at %s/s", rate ? arg : "any");
	pthread_mutex_unlock(&r->lock);
	done(t);
}

static bool criu_came(struct lp_restore *r)
{
	return atomic_load(&r->accepted);
}

static void cancel(struct lp_restore *r, bool finish, struct text *t)
{
	if (finish && !criu_came(r)) {
		refuse(t, "CRIU has not come yet: there is nothing to finish; cancel --kill ends the daemon");
		return;
	}
	pr_msg("control: cancel --%s", finish ? "finish" : "kill");
	if (!finish)
		atomic_store(&r->cancelled, true);
	/* All threads block it: main gets it through its signalfd, and knows whether CRIU has come. */
	kill(getpid(), SIGTERM);
	done(t);
}

/* Can this worker be replaced on purpose just now? False: why not is said. @what needs it. */
static bool replaceable(struct lp_restore *r, const char *what, struct text *t)
{
	uint32_t up = r->j ? atomic_load(&r->j->h->up.state) : 0, sw = r->j ? atomic_load(&r->j->h->sw.state) : 0;
	char why[128];

	if (!r->j || lp_guard_orphan(r->j)) {
		snprintf(why, sizeof(why), "no guardian, no %s: it outlives the worker, and starts the new one", what);
		refuse(t, why);
	} else if (lp_journal_has(r->j, LP_JF_LAST)) {
		refuse(t, "nobody can go on after this worker: its source gives pages only once, or the journal was full");
	} else if (up == LP_J_UP_ASKED || up == LP_J_UP_CHECKING || up == LP_J_UP_REPLACING) {
		refuse(t, "another upgrade is under way");
	} else if (sw == LP_J_SW_ASKED || sw == LP_J_SW_CHECKING || sw == LP_J_SW_REPLACING) {
		refuse(t, "another switch of the source is under way");
	} else {
		return true;
	}
	return false;
}

/* The guardian does it; here it is only asked, and `status` tells what becomes of it. */
static void upgrade(struct lp_restore *r, const char *path, struct text *t)
{
	struct lp_jupgrade *up;

	if (!replaceable(r, "upgrade", t))
		return;
	up = &r->j->h->up;
	if (*path != '/' || strlen(path) >= sizeof(up->path)) {
		refuse(t, "the new program must be given by its whole path");
	} else {
		strcpy(up->path, path);
		atomic_fetch_add(&up->serial, 1);
		atomic_store(&up->state, LP_J_UP_ASKED);
		lp_guard_tell(r->j);
		put(t, "{\"ok\": true, \"serial\": %u}\n", up->serial);
	}
}

/* Likewise. What @source means is the business of those who open it. */
static void switch_source(struct lp_restore *r, const char *source, struct text *t)
{
	struct lp_jswitch *sw;
	struct lp_jsource *s;

	if (!replaceable(r, "switch of the source", t))
		return;
	sw = &r->j->h->sw;
	s = &sw->v[1 - (sw->cur & 1)];
	if (!*source || strlen(source) >= sizeof(s->text)) {
		refuse(t, "a source is some words, of a limited length");
		return;
	}
	strcpy(s->text, source);
	*sw->msg = 0;
	atomic_fetch_add(&sw->serial, 1);
	atomic_store(&sw->state, LP_J_SW_ASKED);
	lp_crash_point(switch_asked);
	lp_guard_tell(r->j);
	put(t, "{\"ok\": true, \"serial\": %u}\n", sw->serial);
}

static void handle(struct lp_restore *r, char *line, struct text *t)
{
	if (!strcmp(line, "status"))
		say_status(r, t);
	else if (!strcmp(line, "pause"))
		set_background(r, LP_J_PAUSED, t);
	else if (!strcmp(line, "resume"))
		set_background(r, LP_J_RUNNING, t);
	else if (!strncmp(line, "throttle ", 9))
		throttle(r, line + 9, t);
	else if (!strcmp(line, "cancel kill") || !strcmp(line, "cancel finish"))
		cancel(r, line[7] == 'f', t);
	else if (!strncmp(line, "upgrade ", 8))
		upgrade(r, line + 8, t);
	else if (!strncmp(line, "switch-source ", 14))
		switch_source(r, line + 14, t);
	else
		refuse(t, "not understood; another version of lazypages?");
}

/* ---- The socket --------------------------------------------------------------- */

int lp_control_listen(struct lp_jctl *ctl, struct lp_err *err)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX, .sun_path = LP_CTL_SOCKET };
	struct stat st;
	int fd, rc = 0;

	if (ctl->fd >= 0)
		return 0;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return lp_err_sys(err, -errno, "socket");
	unlink(LP_CTL_SOCKET);
	/* The name gets the mode of the socket: so it is never there with another. */
	if (fchmod(fd, 0600) || bind(fd, (void *)&sa, sizeof(sa)) || listen(fd, CLIENTS) || stat(LP_CTL_SOCKET, &st))
		rc = lp_err_sys(err, -errno, LP_CTL_SOCKET);
	if (rc) {
		close(fd);
		return rc;
	}
	ctl->dev = st.st_dev;
	ctl->ino = st.st_ino;
	ctl->fd = fd;
	return 0;
}

static void client_end(struct client *c)
{
	close(c->fd);
	free(c->answer.v);
	memset(c, 0, sizeof(*c));
	c->fd = -1;
}

static void client_new(struct lp_restore *r, struct client *cs)
{
	struct ucred cred = { .uid = (uid_t)-1 };
	socklen_t len = sizeof(cred);
	int fd = accept4(r->ctl->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	unsigned i;

	if (fd < 0)
		return;
	getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len);
	for (i = 0; i < CLIENTS && cs[i].fd >= 0; i++)
		;
	if (i == CLIENTS || (cred.uid && cred.uid != geteuid())) {
		close(fd);
		return;
	}
	cs[i].fd = fd;
	cs[i].until = lp_now() + PATIENCE;
}

/* It wants to be told of the end. False: so do too many. */
static bool client_waits(struct client *cs, struct client *c)
{
	unsigned i, n = 0;

	for (i = 0; i < CLIENTS; i++)
		n += cs[i].waits;
	if (n == WAITERS)
		return false;
	c->waits = true;
	c->until = UINT64_MAX;
	return true;
}

/* The end: nothing is missing, and no task depends on us any more. Or not. */
static void say_end(struct lp_restore *r, struct text *t)
{
	if (r->fatal)
		refuse(t, "the restored tasks were killed");
	else if (r->failed)
		refuse(t, "the restore failed, see the daemon's log");
	else if (atomic_load(r->lost))
		refuse(t, "some pages could not be had and are poisoned");
	else
		done(t);
}

/* True: an answer was made. */
static bool client_go(struct lp_restore *r, struct client *cs, struct client *c)
{
	bool answered = false;
	char *end;
	ssize_t n;

	if (c->waits) { /* it has hung up */
		client_end(c);
		return false;
	}
	if (!c->answer.v) {
		n = recv(c->fd, c->line + c->n, sizeof(c->line) - 1 - c->n, 0);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return false;
		if (n > 0)
			c->n += n;
		end = memchr(c->line, '\n', c->n);
		if (!end && (n <= 0 || c->n == sizeof(c->line) - 1)) {
			client_end(c);
			return false;
		}
		if (!end)
			return false;
		*end = 0;
		if (strcmp(c->line, "wait"))
			handle(r, c->line, &c->answer);
		else if (client_waits(cs, c))
			return true;
		else
			refuse(&c->answer, "too many wait already");
		answered = true;
	}
	n = c->answer.failed || !c->answer.v ? 0 :
		send(c->fd, c->answer.v + c->sent, c->answer.n - c->sent, MSG_NOSIGNAL);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return answered;
	if (n > 0)
		c->sent += n;
	if (n <= 0 || c->sent == c->answer.n)
		client_end(c);
	return answered;
}

void *control_main(void *arg)
{
	const struct timespec nap = { .tv_nsec = PAUSE_MS * 1000000 };
	struct lp_restore *r = arg;
	struct client cs[CLIENTS];
	struct pollfd p[CLIENTS + 2];
	bool stop = false, busy, ended;
	unsigned i, used;

	memset(cs, 0, sizeof(cs));
	for (i = 0; i < CLIENTS; i++)
		cs[i].fd = -1;
	while (!stop) {
		for (used = 0, i = 0; i < CLIENTS; i++) {
			if (cs[i].fd >= 0 && lp_now() > cs[i].until)
				client_end(&cs[i]);
			used += cs[i].fd >= 0;
			p[i] = (struct pollfd){ .fd = cs[i].fd,
						.events = cs[i].waits ? POLLRDHUP : cs[i].answer.v ? POLLOUT : POLLIN };
		}
		/* Others wait in the backlog. */
		p[CLIENTS] = (struct pollfd){ .fd = used < CLIENTS ? r->ctl->fd : -1, .events = POLLIN };
		p[CLIENTS + 1] = (struct pollfd){ .fd = r->ctl_kick, .events = POLLIN };
		if (poll(p, CLIENTS + 2, used ? 500 : -1) < 0)
			continue;
		busy = false;
		for (i = 0; i < CLIENTS; i++)
			if (cs[i].fd >= 0 && p[i].revents)
				busy |= client_go(r, cs, &cs[i]);
		if (p[CLIENTS].revents) {
			client_new(r, cs);
			busy = true;
		}
		if (busy)
			nanosleep(&nap, NULL);
		pthread_mutex_lock(&r->lock);
		stop = r->stopping;
		pthread_mutex_unlock(&r->lock);
	}
	/* Who has just come to wait is told, too. */
	for (i = 0; i < CLIENTS; i++)
		client_new(r, cs);
	for (i = 0; i < CLIENTS; i++)
		if (cs[i].fd >= 0 && !cs[i].waits)
			client_go(r, cs, &cs[i]);
	pthread_mutex_lock(&r->lock);
	ended = r->done;
	pthread_mutex_unlock(&r->lock);
	for (i = 0; i < CLIENTS; i++) {
		/* If only this worker has come to its end, the next one is asked again. */
		if (cs[i].waits && ended) {
			say_end(r, &cs[i].answer);
			/* Some bytes, into an empty buffer. */
			if (!cs[i].answer.failed)
				(void)!send(cs[i].fd, cs[i].answer.v, cs[i].answer.n, MSG_NOSIGNAL);
		}
		if (cs[i].fd >= 0)
			client_end(&cs[i]);
	}
	return NULL;
}
