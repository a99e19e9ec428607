/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Plays scenario files: one call of the engine a line, `COMMAND -> RESULT`.
 * What is right of the arrow must be what the call says. `#` begins a comment.
 *
 *   space S A-B [img X [obj O]]   a registered range, with bytes in the images
 *   wiped S A-B                   MADV_WIPEONFORK
 *   fork S -> C | exit S
 *   remap S FROM TO LEN | remove S A-B | unmap S A-B
 *   fault S A [ahead N] [as F]    -> fill A+L img X | zero | wait | later
 *   next [bytes N] [pieces N] [at T] [as F]  -> S fill A+L img X, ... | none | at T
 *   head F -> A+L img X | nothing
 *   advance F N | finish F | answered S A | defer S A | stall S T
 *   wakes S, deferred S           -> addresses in rising order | none
 *   peek S A                      -> img X [obj O] | zero
 *   complete S, registered S A-B, unsettled S, young S, doubtful S A  -> yes | no
 *   dontfork S A-B                MADV_DONTFORK
 *   kernel S A-B ... | none       what is registered there when the engine asks; at first: EAGAIN
 *   settled S                     -> yes | again
 *   book S N                      from now on all changes of S are entered; N: its name, see `change S fork`
 *   change S unmap A-B            the kernel has made it, or refused it; messages come by the lines above
 *   change S remap FROM LEN TO_LEN [to A] [area A] [maymove] [dontunmap] [grew]  to: MREMAP_FIXED; it and
 *                                 dontunmap say maymove, too; area: LP_REMAP_AREA, 0 if none was looked for
 *   change S fork N               N: the name of the child's book
 *   change S dontfork|dofork|wipe|keep|guard A-B
 *   change S remove N A-B         N: its number, see `call`
 *   call S N                      the next REMOVE is that of `change S remove N`
 *   book-lost S
 *   booked S                      -> yes | no
 *   settlings                     -> BOOK GUESSED  settled moments with messages: by the book, and without
 *   old-shrink                    first of all: a kernel whose REMAP tells the old length of a move that shrinks
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"
#include "test/lib/model.h"

#define SPACES 10
#define FLIGHTS 26
#define WORDS 16
#define TEXT 512

struct kernel {
	bool known;
	uint64_t a[WORDS], b[WORDS];
	unsigned n;
};

struct play {
	struct kernel k[SPACES];
	struct lp_engine *e;
	struct lp_space *s[SPACES];
	struct lp_flight *f[FLIGHTS];
	char out[TEXT];
	char *word[WORDS];
	unsigned n;
};

static void __attribute__((format(printf, 2, 3))) say(struct play *p, const char *fmt, ...)
{
	size_t n = strlen(p->out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(p->out + n, TEXT - n, fmt, ap);
	va_end(ap);
}

static uint64_t num(const char *s)
{
	return strtoull(s, NULL, 0);
}

static bool range(const char *s, uint64_t *a, uint64_t *b)
{
	const char *dash = strchr(s, '-');

	if (!dash)
		return false;
	*a = num(s);
	*b = num(dash + 1);
	return *a < *b;
}

/* The word after @key, or NULL. */
static const char *after(const struct play *p, const char *key)
{
	unsigned i;

	for (i = 1; i + 1 < p->n; i++)
		if (!strcmp(p->word[i], key))
			return p->word[i + 1];
	return NULL;
}

static struct lp_space **space(struct play *p)
{
	uint64_t i = p->n > 1 ? num(p->word[1]) : SPACES;

	return i < SPACES ? &p->s[i] : NULL;
}

static struct lp_flight **flight(struct play *p, const char *name)
{
	return name && name[0] >= 'a' && name[0] <= 'z' && !name[1] ? &p->f[name[0] - 'a'] : NULL;
}

static void say_piece(struct play *p, const struct lp_piece *h)
{
	say(p, "0x%" PRIx64 "+0x%" PRIx64 " img 0x%" PRIx64, h->addr, h->len, h->img);
}

static void keep(struct play *p, struct lp_flight *f)
{
	struct lp_flight **slot = flight(p, after(p, "as"));

	if (slot && !*slot)
		*slot = f;
	else
		lp_flight_finish(f);
}

static int cmp(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void say_list(struct play *p, struct lp_space *s, bool (*get)(struct lp_space *, uint64_t *))
{
	uint64_t a[32];
	unsigned i, n = 0;

	while (n < 32 && get(s, &a[n]))
		n++;
	qsort(a, n, sizeof(a[0]), cmp);
	for (i = 0; i < n; i++)
		say(p, "%s0x%" PRIx64, i ? " " : "", a[i]);
	if (!n)
		say(p, "none");
}

static int do_fault(struct play *p, struct lp_space *s)
{
	const char *ahead = after(p, "ahead");
	enum lp_verdict v;
	struct lp_flight *f;
	int rc = lp_space_fault(s, num(p->word[2]), ahead ? num(ahead) : MD_PAGE, &v, &f);

	if (rc)
		return rc;
	if (v != LP_FILL) {
		say(p, v == LP_ZERO ? "zero" : v == LP_WAIT ? "wait" : "later");
		return 0;
	}
	say(p, "fill ");
	say_piece(p, lp_flight_head(f));
	keep(p, f);
	return 0;
}

static int do_next(struct play *p)
{
	const char *bytes = after(p, "bytes"), *pieces = after(p, "pieces"), *at = after(p, "at");
	struct lp_flight *f;
	uint64_t when;
	unsigned i = 0;
	int rc = lp_engine_next(p->e, bytes ? num(bytes) : UINT64_MAX, pieces ? num(pieces) : 64, at ? num(at) : 0, &f,
				&when);

	if (rc == -EAGAIN && when == LP_NEVER)
		say(p, "none");
	else if (rc == -EAGAIN)
		say(p, "at %" PRIu64, when);
	if (rc)
		return rc == -EAGAIN ? 0 : rc;
	while (i < SPACES && p->s[i] != lp_flight_space(f))
		i++;
	say(p, "%u fill ", i);
	say_piece(p, lp_flight_head(f));
	keep(p, f);
	return 0;
}

static int do_space(struct play *p, struct lp_space **s)
{
	const char *img = after(p, "img"), *obj = after(p, "obj");
	uint64_t a, b;
	int rc = 0;

	if (!range(p->word[2], &a, &b))
		return -EINVAL;
	if (!*s)
		rc = lp_space_new(p->e, &p->k[s - p->s], s);
	if (!rc)
		rc = lp_space_add_extent(*s, a, b);
	if (!rc && img)
		rc = lp_space_add_missing(*s, a, b, num(img), obj ? num(obj) : 1);
	return rc;
}

static int do_range(struct play *p, struct lp_space *s, const char *cmd)
{
	uint64_t a, b;

	if (!range(p->word[2], &a, &b))
		return -EINVAL;
	if (!strcmp(cmd, "remove"))
		return lp_space_remove(s, a, b);
	if (!strcmp(cmd, "unmap"))
		return lp_space_unmap(s, a, b);
	if (!strcmp(cmd, "wiped"))
		return lp_space_add_wiped(s, a, b);
	if (!strcmp(cmd, "dontfork"))
		return lp_space_add_dontfork(s, a, b);
	if (strcmp(cmd, "registered"))
		return -EINVAL;
	say(p, lp_space_registered(s, a, b) ? "yes" : "no");
	return 0;
}

static int do_flight(struct play *p, struct lp_flight **f, const char *cmd)
{
	int rc = 0;

	if (!f || !*f)
		return -EINVAL;
	if (!strcmp(cmd, "finish")) {
		rc = lp_flight_finish(*f);
		*f = NULL;
	} else if (!strcmp(cmd, "head")) {
		if (lp_flight_head(*f))
			say_piece(p, lp_flight_head(*f));
		else
			say(p, "nothing");
	} else if (p->n == 3 && lp_flight_head(*f) && num(p->word[2]) <= lp_flight_head(*f)->len) {
		lp_flight_advance(*f, num(p->word[2]));
	} else {
		rc = -EINVAL;
	}
	return rc;
}

static int do_peek(struct play *p, struct lp_space *s)
{
	uint64_t img;
	uint32_t obj;

	if (!lp_space_peek(s, num(p->word[2]), &img, &obj)) {
		say(p, "zero");
		return 0;
	}
	say(p, "img 0x%" PRIx64, img);
	if (obj != 1)
		say(p, " obj %u", obj);
	return 0;
}

static int there(void *host, uint64_t start, uint64_t len)
{
	const struct kernel *k = host;
	unsigned i;

	if (!k->known)
		return -EAGAIN;
	for (i = 0; i < k->n; i++)
		if (start >= k->a[i] && start + len <= k->b[i])
			return 1;
	return 0;
}

static int do_kernel(struct play *p)
{
	uint64_t i = num(p->word[1]);
	struct kernel *k = &p->k[i < SPACES ? i : 0];
	unsigned w;

	if (i >= SPACES)
		return -EINVAL;
	*k = (struct kernel){ .known = true };
	for (w = 2; w < p->n; w++) {
		if (!strcmp(p->word[w], "none"))
			continue;
		if (!range(p->word[w], &k->a[k->n], &k->b[k->n]))
			return -EINVAL;
		k->n++;
	}
	return 0;
}

static int change_remap(const struct play *p, struct lp_change *c)
{
	unsigned i;

	if (p->n < 6)
		return -EINVAL;
	c->from = num(p->word[3]);
	c->len = num(p->word[4]);
	c->to_len = num(p->word[5]);
	for (i = 6; i < p->n; i++) {
		if (!strcmp(p->word[i], "to") && i + 1 < p->n) {
			c->flags |= LP_REMAP_FIXED | LP_REMAP_MAYMOVE;
			c->to = num(p->word[++i]);
		} else if (!strcmp(p->word[i], "area") && i + 1 < p->n) {
			c->flags |= LP_REMAP_AREA;
			c->to = num(p->word[++i]);
		} else if (!strcmp(p->word[i], "dontunmap")) {
			c->flags |= LP_REMAP_DONTUNMAP | LP_REMAP_MAYMOVE;
		} else if (!strcmp(p->word[i], "maymove")) {
			c->flags |= LP_REMAP_MAYMOVE;
		} else if (!strcmp(p->word[i], "grew")) {
			c->flags |= LP_REMAP_GREW;
		} else {
			return -EINVAL;
		}
	}
	return 0;
}

static int do_change(struct play *p, struct lp_space *s)
{
	static const char *const kinds[] = {
		[LP_CHANGE_UNMAP] = "unmap",	   [LP_CHANGE_REMAP] = "remap",	  [LP_CHANGE_FORK] = "fork",
		[LP_CHANGE_DONTFORK] = "dontfork", [LP_CHANGE_DOFORK] = "dofork", [LP_CHANGE_WIPE] = "wipe",
		[LP_CHANGE_KEEP] = "keep",	   [LP_CHANGE_REMOVE] = "remove", [LP_CHANGE_GUARD] = "guard",
	};
	struct lp_change c = { .kind = LP_CHANGE_UNMAP };
	uint64_t end;

	while (c.kind <= LP_CHANGE_LAST && strcmp(p->word[2], kinds[c.kind]) != 0)
		c.kind++;
	if (c.kind > LP_CHANGE_LAST || p->n < 4)
		return -EINVAL;
	if (c.kind == LP_CHANGE_REMAP)
		return change_remap(p, &c) ? -EINVAL : lp_space_changed(s, &c);
	if (c.kind == LP_CHANGE_FORK || c.kind == LP_CHANGE_REMOVE)
		c.to = num(p->word[3]);
	if (c.kind != LP_CHANGE_FORK) {
		if (!range(p->word[p->n - 1], &c.from, &end))
			return -EINVAL;
		c.len = end - c.from;
	}
	return lp_space_changed(s, &c);
}

static int do_settlings(struct play *p)
{
	uint64_t booked, guessed;

	lp_engine_settlings(p->e, &booked, &guessed);
	say(p, "%" PRIu64 " %" PRIu64, booked, guessed);
	return 0;
}

static int command(struct play *p, const char *want)
{
	const char *cmd = p->word[0];
	struct lp_space **s = space(p);

	if (!strcmp(cmd, "next"))
		return do_next(p);
	if (!strcmp(cmd, "settlings"))
		return do_settlings(p);
	if (p->n < 2)
		return -EINVAL;
	if (!strcmp(cmd, "head") || !strcmp(cmd, "advance") || !strcmp(cmd, "finish"))
		return do_flight(p, flight(p, p->word[1]), cmd);
	if (!strcmp(cmd, "kernel"))
		return do_kernel(p);
	if (!s || (!*s && strcmp(cmd, "space") != 0))
		return -EINVAL;
	if (!strcmp(cmd, "exit")) {
		lp_space_exit(*s);
		return 0;
	}
	if (!strcmp(cmd, "fork")) {
		uint64_t c = want ? num(want) : SPACES;

		if (c >= SPACES || p->s[c])
			return -EINVAL;
		say(p, "%" PRIu64, c);
		return lp_space_fork(*s, &p->k[c], &p->s[c]);
	}
	if (!strcmp(cmd, "wakes") || !strcmp(cmd, "deferred")) {
		say_list(p, *s, cmd[0] == 'w' ? lp_space_next_wake : lp_space_next_deferred);
		return 0;
	}
	if (!strcmp(cmd, "settled")) {
		int rc = lp_space_settled(*s);

		say(p, rc ? "again" : "yes");
		return rc == -EAGAIN ? 0 : rc;
	}
	if (!strcmp(cmd, "unsettled") || !strcmp(cmd, "young")) {
		say(p, (cmd[0] == 'u' ? lp_space_unsettled(*s) : lp_space_young(*s)) ? "yes" : "no");
		return 0;
	}
	if (!strcmp(cmd, "complete")) {
		say(p, lp_space_complete(*s) ? "yes" : "no");
		return 0;
	}
	if (!strcmp(cmd, "booked")) {
		say(p, lp_space_booked(*s) ? "yes" : "no");
		return 0;
	}
	if (!strcmp(cmd, "book-lost")) {
		lp_space_book_lost(*s);
		return 0;
	}
	if (p->n < 3)
		return -EINVAL;
	if (!strcmp(cmd, "book")) {
		lp_space_book(*s, num(p->word[2]));
		return 0;
	}
	if (!strcmp(cmd, "call")) {
		lp_space_call(*s, num(p->word[2]));
		return 0;
	}
	if (!strcmp(cmd, "change"))
		return do_change(p, *s);
	if (!strcmp(cmd, "doubtful")) {
		say(p, lp_space_doubtful(*s, num(p->word[2])) ? "yes" : "no");
		return 0;
	}
	if (!strcmp(cmd, "space"))
		return do_space(p, s);
	if (!strcmp(cmd, "fault"))
		return do_fault(p, *s);
	if (!strcmp(cmd, "peek"))
		return do_peek(p, *s);
	if (!strcmp(cmd, "defer"))
		return lp_space_defer(*s, num(p->word[2]));
	if (!strcmp(cmd, "remap"))
		return p->n == 5 ? lp_space_remap(*s, num(p->word[2]), num(p->word[3]), num(p->word[4])) : -EINVAL;
	if (!strcmp(cmd, "answered")) {
		lp_space_answered(*s, num(p->word[2]));
		return 0;
	}
	if (!strcmp(cmd, "stall")) {
		lp_space_stall(*s, num(p->word[2]));
		return 0;
	}
	return do_range(p, *s, cmd);
}

static bool play_line(struct play *p, char *line, const char *file, unsigned no)
{
	char *arrow, *w, *save, *hash = strchr(line, '#'), want[TEXT] = "";
	int rc;

	if (hash)
		*hash = 0;
	line[strcspn(line, "\n")] = 0;
	arrow = strstr(line, "->");
	if (arrow) {
		*arrow = 0;
		for (w = strtok_r(arrow + 2, " \t", &save); w; w = strtok_r(NULL, " \t", &save))
			snprintf(want + strlen(want), TEXT - strlen(want), "%s%s", want[0] ? " " : "", w);
	}
	p->n = 0;
	p->out[0] = 0;
	for (w = strtok_r(line, " \t", &save); w && p->n < WORDS; w = strtok_r(NULL, " \t", &save))
		p->word[p->n++] = w;
	if (!p->n)
		return true;
	rc = command(p, arrow ? want : NULL);
	if (!rc && (!arrow || !strcmp(p->out, want)))
		return true;
	if (rc == -EINVAL)
		printf("%s:%u: not understood: `%s`\n", file, no, p->word[0]);
	else if (rc)
		printf("%s:%u: %s: %s\n", file, no, p->word[0], strerror(-rc));
	else
		printf("%s:%u: %s says `%s`, not `%s`\n", file, no, p->word[0], p->out, want);
	return false;
}

static bool play_file(const char *file)
{
	struct lp_engine_conf conf = { .page = MD_PAGE, .seed = 1, .there = there };
	struct play p = { .e = NULL };
	FILE *in = fopen(file, "r");
	char line[TEXT];
	unsigned no = 0, i;
	bool ok;

	if (!in)
		perror(file);
	while (in && fgets(line, sizeof(line), in) && ++no && *line == '#')
		;
	conf.old_shrink = !strcmp(line, "old-shrink\n");
	if (in && !conf.old_shrink) {
		rewind(in);
		no = 0;
	}
	p.e = lp_engine_new(&conf);
	ok = in && p.e;
	while (ok && fgets(line, sizeof(line), in))
		ok = play_line(&p, line, file, ++no);
	if (in)
		fclose(in);
	for (i = 0; i < FLIGHTS; i++)
		if (p.f[i])
			lp_flight_finish(p.f[i]);
	for (i = 0; i < SPACES; i++)
		if (p.s[i])
			lp_space_free(p.s[i]);
	if (p.e && lp_engine_nodes(p.e)) {
		printf("%s: nodes leaked\n", file);
		ok = false;
	}
	lp_engine_free(p.e);
	return ok;
}

int main(int argc, char **argv)
{
	unsigned passed = 0, failed = 0;
	int i;

	for (i = 1; i < argc; i++) {
		bool ok = play_file(argv[i]);

		printf("%s %s\n", ok ? "PASS" : "FAIL", argv[i]);
		if (ok)
			passed++;
		else
			failed++;
	}
	printf("%u passed, %u failed\n", passed, failed);
	return failed || !passed;
}
