/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages trace`: the records of `lazypages daemon --trace`, in words or as
 * JSON, or replayed. Reads only; owns the file and what it sifts by.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "base/err.h"
#include "cli/cli.h"
#include "engine/engine.h"
#include "trace/replay.h"
#include "trace/words.h"

struct opts {
	const char *file;
	bool replay, json, faults, has_address, has_space, has_pid, only_some;
	uint64_t address, space, pid;
	bool only[256];
};

static void usage(FILE *f)
{
	fputs("usage: lazypages trace [OPTIONS] FILE\n"
	      "\n"
	      "Show what `lazypages daemon --trace FILE` recorded, one line a record: time in\n"
	      "seconds, thread, space, and the call, message or answer.\n"
	      "\n"
	      "      --pid PID        only spaces of the task PID (in the images, or as restored) and of\n"
	      "                       children that it forked\n"
	      "      --space N        only space #N\n"
	      "      --address ADDR   only what is about the page at ADDR\n"
	      "      --faults         only page faults and what was done about them\n"
	      "      --only NAME,...  only records of these types (copy, remap, fault, ...)\n"
	      "      --json           one JSON object a line\n"
	      "      --replay         give what was recorded to the engine again, and compare what it\n"
	      "                       says with what it said then\n"
	      "  -h, --help           this text\n"
	      "\n"
	      "Exit code: 0 shown, or replayed without a difference; 1 there is a difference, or the\n"
	      "trace is not whole (cut off, damaged); 2 wrong usage.\n",
	      f);
}

/* ---- The file ------------------------------------------------------------------ */

struct input {
	const char *name;
	int fd;
	bool eof, ended; /* ended: END was seen */
	size_t pos, have;
	uint64_t offset; /* of pos in the file */
	uint64_t number; /* of the record at pos */
	uint8_t buf[1 << 20];
};

static int refill(struct input *in, struct lp_err *err)
{
	ssize_t n;

	memmove(in->buf, in->buf + in->pos, in->have - in->pos);
	in->have -= in->pos;
	in->pos = 0;
	do {
		n = read(in->fd, in->buf + in->have, sizeof(in->buf) - in->have);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return lp_err_sys(err, -errno, "%s: cannot read it", in->name);
	in->have += n;
	in->eof = !n;
	return 0;
}

static int input_open(struct input *in, const char *name, struct lp_err *err)
{
	unsigned version;
	int rc = 0;

	in->name = name;
	in->fd = open(name, O_RDONLY | O_CLOEXEC);
	if (in->fd < 0)
		return lp_err_sys(err, -errno, "%s", name);
	while (!rc && !in->eof && in->have < LP_TRACE_HEAD)
		rc = refill(in, err);
	if (rc)
		return rc;
	rc = lp_trace_head_check(in->buf, in->have, &version);
	if (rc == -EPROTO)
		return lp_err(err, rc, "%s: a trace of version %u, this program reads 1 to %u: use the lazypages that made it",
			      name, version, LP_TRACE_VERSION);
	if (rc)
		return lp_err(err, rc, "%s: %s: is it what `lazypages daemon --trace` wrote?", name,
			      in->have ? "not a trace" : "empty");
	in->pos = in->offset = LP_TRACE_HEAD;
	return 0;
}

/* 1: a record; 0: the end, and the trace is whole; else -errno. */
static int input_next(struct input *in, struct lp_rec *r, struct lp_err *err)
{
	int n, rc;

	for (;;) {
		n = lp_rec_decode(in->buf + in->pos, in->have - in->pos, in->number, r);
		if (n != -EAGAIN || in->eof)
			break;
		rc = refill(in, err);
		if (rc)
			return rc;
	}
	if (in->ended) {
		if (in->pos == in->have)
			return 0;
		return lp_err(err, -EBADMSG, "%s: there is something behind the end, from byte %" PRIu64 " on", in->name,
			      in->offset);
	}
	if (n == -EAGAIN)
		return lp_err(err, n,
			      "%s: cut off after %" PRIu64 " records, at byte %" PRIu64
			      ": the daemon was killed, had no room for more (see its log), or still runs",
			      in->name, in->number, in->offset);
	if (n < 0)
		return lp_err(err, n, "%s: %s at byte %" PRIu64 ", record %" PRIu64 ": get the file again", in->name,
			      n == -EBADMSG ? "damaged" : "not understood", in->offset, in->number);
	if (!in->number != (r->type == LP_REC_BEGIN))
		return lp_err(err, -EBADMSG, "%s: record %" PRIu64 " is `%s`: no daemon begins so", in->name, in->number,
			      lp_rec_info(r->type)->name);
	in->pos += n;
	in->offset += n;
	in->number++;
	in->ended = r->type == LP_REC_END;
	return 1;
}

/* ---- Sifting --------------------------------------------------------------------- */

/* What records tell by the way: whose a space is, which flights faults wait for. */
struct sieve {
	struct {
		uint32_t pid, host_pid;
	} *spaces;
	size_t nspaces;
	uint64_t *urgent;
	size_t nurgent, cap_urgent;
	bool piece_ok; /* so was the claim that the next pieces belong to */
};

static int sieve_space(struct sieve *s, uint64_t id, uint32_t pid, uint32_t host_pid)
{
	if (id >= s->nspaces) {
		size_t n = id * 2 + 64;
		void *p = realloc(s->spaces, n * sizeof(*s->spaces));

		if (!p)
			return -ENOMEM;
		s->spaces = p;
		memset(s->spaces + s->nspaces, 0, (n - s->nspaces) * sizeof(*s->spaces));
		s->nspaces = n;
	}
	s->spaces[id].pid = pid;
	s->spaces[id].host_pid = host_pid;
	return 0;
}

static int sieve_flight(struct sieve *s, uint64_t id)
{
	if (s->nurgent == s->cap_urgent) {
		size_t cap = s->cap_urgent * 2 + 64;
		uint64_t *p = realloc(s->urgent, cap * sizeof(*p));

		if (!p)
			return -ENOMEM;
		s->urgent = p;
		s->cap_urgent = cap;
	}
	s->urgent[s->nurgent++] = id;
	return 0;
}

static size_t find_urgent(const struct sieve *s, uint64_t id)
{
	size_t i;

	for (i = s->nurgent; i-- > 0;)
		if (s->urgent[i] == id)
			return i;
	return SIZE_MAX;
}

/* Record @number teaches it something. Numbers of spaces are given in turn: greater ones are nobody's. */
static int sieve_learn(struct sieve *s, const struct lp_rec *r, uint64_t number)
{
	const uint64_t *v = r->v;

	if (r->type == LP_REC_SPACE && v[0] <= number)
		return sieve_space(s, v[0], v[1], v[2]);
	if (r->type == LP_REC_FORK && v[1] <= number && v[0] < s->nspaces)
		return sieve_space(s, v[1], s->spaces[v[0]].pid, s->spaces[v[0]].host_pid);
	if ((r->type == LP_REC_FAULT && !v[5] && v[3] == LP_FILL) || (r->type == LP_REC_EARLY && !v[5]))
		return sieve_flight(s, v[4]);
	return 0;
}

static void sieve_forget(struct sieve *s, const struct lp_rec *r)
{
	size_t i;

	if (r->type != LP_REC_FINISH || r->v[2])
		return;
	i = find_urgent(s, r->v[1]);
	if (i != SIZE_MAX)
		s->urgent[i] = s->urgent[--s->nurgent];
}

static bool of_a_fault(const struct sieve *s, const struct lp_rec *r)
{
	switch (r->type) {
	case LP_REC_PAGEFAULT:
	case LP_REC_FAULT:
	case LP_REC_EARLY:
	case LP_REC_ANSWERED:
	case LP_REC_DEFER:
	case LP_REC_ZEROPAGE:
	case LP_REC_WAKE:
		return true;
	case LP_REC_NEXT_DEFERRED:
	case LP_REC_NEXT_WAKE:
		return r->v[1];
	case LP_REC_COPY:
	case LP_REC_ADVANCE:
	case LP_REC_FINISH:
		return find_urgent(s, r->v[1]) != SIZE_MAX;
	default:
		return false;
	}
}

static bool wanted(const struct opts *o, struct sieve *s, const struct lp_rec *r)
{
	int at = lp_rec_find(r->type, LP_K_SPACE);
	bool in_space = at >= 0 && !(r->type == LP_REC_NEXT && r->v[5]);
	uint64_t id = in_space ? r->v[at] : 0;
	bool ok = true;

	/* Pieces name no space: they go with their claim. */
	if (r->type != LP_REC_PIECE) {
		if (o->has_space)
			ok &= in_space && id == o->space;
		if (o->has_pid)
			ok &= in_space && id < s->nspaces &&
			      (s->spaces[id].pid == o->pid || s->spaces[id].host_pid == o->pid);
		if (r->type == LP_REC_NEXT || r->type == LP_REC_FAULT || r->type == LP_REC_EARLY)
			s->piece_ok = ok && (!o->faults || r->type != LP_REC_NEXT);
		if (o->faults)
			ok &= of_a_fault(s, r);
	} else {
		ok = s->piece_ok;
	}
	if (o->has_address)
		ok &= lp_rec_about(r, o->address);
	return ok && (!o->only_some || o->only[r->type]);
}

/* ---- Showing ----------------------------------------------------------------------- */

static json_t *json_field(enum lp_rec_kind kind, uint64_t v)
{
	char hex[20];

	switch (kind) {
	case LP_K_ADDR:
	case LP_K_IMG:
	case LP_K_BITS:
		snprintf(hex, sizeof(hex), "0x%" PRIx64, v);
		return json_string(hex);
	case LP_K_TIME:
		return v == UINT64_MAX ? json_null() : json_integer(v);
	case LP_K_RC:
		return (int64_t)v < 0 ? json_string(lp_rec_rc(v)) : json_integer(v);
	case LP_K_PID:
		return json_integer((int32_t)v);
	case LP_K_VERDICT:
		return json_string(lp_rec_verdict(v));
	case LP_K_MARK:
		return json_string(lp_rec_mark(v));
	case LP_K_HOW:
		return json_string(lp_rec_how(v));
	default:
		return json_integer(v);
	}
}

static int show_json(const struct lp_rec *r, uint64_t number)
{
	const struct lp_rec_info *t = lp_rec_info(r->type);
	char thread[16];
	unsigned i;
	json_t *o;
	int rc;

	lp_rec_thread(r, thread, sizeof(thread));
	o = json_pack("{s:I,s:I,s:s,s:s}", "record", (json_int_t)number, "ns", (json_int_t)r->time, "thread", thread, "type",
		      t->name);
	for (i = 0; i < t->n; i++)
		json_object_set_new(o, t->f[i].name, json_field(t->f[i].kind, r->v[i]));
	rc = o ? json_dumpf(o, stdout, JSON_COMPACT) : -1;
	json_decref(o);
	putchar('\n');
	return rc ? -ENOMEM : 0;
}

static void show_words(const struct lp_rec *r)
{
	int at = lp_rec_find(r->type, LP_K_SPACE);
	char words[LP_WORDS_MAX], thread[16], space[16] = "";

	lp_rec_words(r, words);
	lp_rec_thread(r, thread, sizeof(thread));
	if (at >= 0 && !(r->type == LP_REC_NEXT && r->v[5]))
		snprintf(space, sizeof(space), "#%" PRIu64, r->v[at]);
	printf("%5" PRIu64 ".%06u %-7s %4s  %s\n", r->time / 1000000000, (unsigned)(r->time % 1000000000 / 1000), thread, space,
	       words);
}

static int show(struct input *in, const struct opts *o, struct lp_err *err)
{
	struct sieve s = { 0 };
	struct lp_rec r;
	int rc, bad = 0;

	while (!bad && (rc = input_next(in, &r, err)) > 0) {
		if (sieve_learn(&s, &r, in->number)) {
			bad = lp_err(err, -ENOMEM, "out of memory");
			break;
		}
		if (wanted(o, &s, &r)) {
			if (!o->json)
				show_words(&r);
			else if (show_json(&r, in->number - 1))
				bad = lp_err(err, -ENOMEM, "cannot write the output: free some space or memory");
		}
		sieve_forget(&s, &r);
	}
	free(s.spaces);
	free(s.urgent);
	return bad ? bad : rc;
}

/* ---- Replaying ------------------------------------------------------------------------ */

static void replay_json(const struct lp_replay_stats *s, uint64_t records, int rc, const char *why)
{
	json_t *o = json_pack("{s:I,s:I,s:I,s:I,s:I,s:b}", "records", (json_int_t)records, "calls", (json_int_t)s->calls,
			      "compared", (json_int_t)s->compared, "spaces", (json_int_t)s->spaces, "flights",
			      (json_int_t)s->flights, "same", !rc);

	if (*why)
		json_object_set_new(o, "why", json_string(why));
	json_dumpf(o, stdout, JSON_INDENT(2));
	json_decref(o);
	putchar('\n');
}

static int replay(struct input *in, const struct opts *o, struct lp_err *err)
{
	struct lp_replay *p = lp_replay_new();
	char why[256] = "", words[LP_WORDS_MAX];
	struct lp_replay_stats stats;
	struct lp_rec r;
	int rc = -ENOMEM, said = 0;

	if (!p)
		return lp_err(err, rc, "out of memory");
	while (!said && (rc = input_next(in, &r, err)) > 0)
		said = lp_replay_step(p, &r, why, sizeof(why));
	lp_replay_stats(p, &stats);
	lp_replay_free(p);
	if (said) {
		lp_rec_words(&r, words);
		rc = lp_err(err, said < 0 ? said : -EILSEQ, "%s: record %" PRIu64 " at %" PRIu64 ".%06u s (%.150s): %s%s", in->name,
			    in->number - 1, r.time / 1000000000, (unsigned)(r.time % 1000000000 / 1000), words,
			    said == LP_REPLAY_DIFFERS	     ? "first difference: " :
			    said == LP_REPLAY_NO_MEMORY	     ? "no difference up to here: " :
			    said == -EINVAL		     ? "no daemon writes this: " : "",
			    why);
	}
	if (o->json)
		replay_json(&stats, in->number, rc, rc ? err->msg : "");
	else if (!rc)
		printf("%s: %" PRIu64 " records, %" PRIu64 " calls of the engine, %" PRIu64 " of its answers compared, %" PRIu64
		       " spaces, %" PRIu64 " flights: no difference\n",
		       in->name, in->number, stats.calls, stats.compared, stats.spaces, stats.flights);
	return rc;
}

/* ---- The command ------------------------------------------------------------------------ */

static int bad_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int bad_usage(const char *fmt, ...)
{
	va_list ap;

	fputs("lazypages trace: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputs(": try `lazypages trace --help`\n", stderr);
	return -EINVAL;
}

static int number(const char *name, const char *s, uint64_t *v)
{
	char *end;

	errno = 0;
	*v = strtoull(s, &end, 0);
	return errno || end == s || *end || *s == '-' ? bad_usage("%s takes a number, not `%s`", name, s) : 0;
}

static int only(struct opts *o, const char *list)
{
	char name[32];
	unsigned type;
	size_t n;

	for (;; list += n + 1) {
		n = strcspn(list, ",");
		snprintf(name, sizeof(name), "%.*s", (int)(n < sizeof(name) ? n : sizeof(name) - 1), list);
		type = lp_rec_by_name(name);
		if (!type)
			return bad_usage("--only: there are no records `%s`", name);
		o->only[type] = o->only_some = true;
		if (!list[n])
			return 0;
	}
}

/* 0; 1: helped, nothing to do; -EINVAL: said why. */
static int parse(int argc, char **argv, struct opts *o)
{
	enum { PID = 256, SPACE, ADDRESS, FAULTS, ONLY, JSON, REPLAY };
	static const struct option longs[] = {
		{ "pid", required_argument, NULL, PID },	 { "space", required_argument, NULL, SPACE },
		{ "address", required_argument, NULL, ADDRESS }, { "faults", no_argument, NULL, FAULTS },
		{ "only", required_argument, NULL, ONLY },	 { "json", no_argument, NULL, JSON },
		{ "replay", no_argument, NULL, REPLAY },	 { "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	int c, rc = 0;

	while (!rc && (c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case PID:
			rc = number("--pid", optarg, &o->pid);
			o->has_pid = true;
			break;
		case SPACE:
			rc = number("--space", optarg, &o->space);
			o->has_space = true;
			break;
		case ADDRESS:
			rc = number("--address", optarg, &o->address);
			o->has_address = true;
			break;
		case FAULTS:
			o->faults = true;
			break;
		case ONLY:
			rc = only(o, optarg);
			break;
		case JSON:
			o->json = true;
			break;
		case REPLAY:
			o->replay = true;
			break;
		case 'h':
			usage(stdout);
			return 1;
		default: /* getopt has said what */
			fputs("lazypages trace: try `lazypages trace --help`\n", stderr);
			return -EINVAL;
		}
	}
	if (rc)
		return rc;
	if (argc - optind != 1)
		return optind == argc ? bad_usage("no file given") : bad_usage("more than one file: %s", argv[optind + 1]);
	if (o->replay && (o->has_pid || o->has_space || o->has_address || o->faults || o->only_some))
		return bad_usage("--replay needs all records");
	o->file = argv[optind];
	return 0;
}

int cmd_trace(int argc, char **argv)
{
	struct opts o = { 0 };
	struct lp_err err = { "" };
	struct input *in;
	int rc = parse(argc, argv, &o);

	if (rc)
		return rc < 0 ? 2 : 0;
	in = calloc(1, sizeof(*in));
	if (!in) {
		fputs("lazypages trace: out of memory\n", stderr);
		return 1;
	}
	in->fd = -1;
	rc = input_open(in, o.file, &err);
	if (!rc)
		rc = o.replay ? replay(in, &o, &err) : show(in, &o, &err);
	if ((fflush(stdout) || ferror(stdout)) && !rc)
		rc = lp_err(&err, -EIO, "cannot write the output: free some space");
	if (rc)
		fprintf(stderr, "lazypages trace: %s\n", err.msg);
	if (in->fd >= 0)
		close(in->fd);
	free(in);
	return rc ? 1 : 0;
}
