/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Using a seal: load it, compare it with the images, verify pages. Of the table
 * of sums nothing is kept: a block of 4 KiB is read, and proved by the head, for
 * each call. The page cache holds what is needed often.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "images/seal_int.h"

#define READ_STEP (64u << 10)

int lp_verify_parse(const char *s, enum lp_verify *v)
{
	if (!strcmp(s, "auto"))
		*v = LP_VERIFY_AUTO;
	else if (!strcmp(s, "require"))
		*v = LP_VERIFY_REQUIRE;
	else if (!strcmp(s, "no"))
		*v = LP_VERIFY_NO;
	else
		return -EINVAL;
	return 0;
}

int seal_pread(int fd, void *buf, uint64_t len, uint64_t off, bool nowait)
{
	uint8_t *p = buf;

	while (len) {
		struct iovec iov = { p, len };
		ssize_t n = preadv2(fd, &iov, 1, (off_t)off, nowait ? RWF_NOWAIT : 0);

		if (n < 0 && errno == EINTR)
			continue;
		/* A file system that does not know the flag: it is a small read. */
		if (n < 0 && nowait && (errno == EOPNOTSUPP || errno == ENOSYS)) {
			nowait = false;
			continue;
		}
		if (n < 0)
			return -errno;
		if (!n)
			return -EIO;
		p += n;
		off += n;
		len -= n;
	}
	return 0;
}

static int load_head(struct lp_seal *s, struct lp_err *err)
{
	uint8_t fixed[LP_SEAL_FIXED];
	struct stat st;
	uint64_t len;
	int rc;

	if (fstat(s->fd, &st) || !S_ISREG(st.st_mode))
		return lp_err(err, -EBADMSG, LP_SEAL_FILE ": not a regular file");
	if (st.st_size < (off_t)sizeof(fixed))
		return lp_err(err, -EBADMSG,
			      LP_SEAL_FILE ": damaged: it has only %" PRIu64
					   " bytes: seal the checkpoint again, if it is known to be good",
			      (uint64_t)st.st_size);
	rc = seal_pread(s->fd, fixed, sizeof(fixed), 0, false);
	if (rc)
		return lp_err_sys(err, rc, LP_SEAL_FILE ": cannot read it");
	rc = lp_seal_head_len(fixed, &len, err);
	if (rc)
		return rc;
	/* No more is allocated than there are bytes. */
	if (len > (uint64_t)st.st_size)
		return lp_err(err, -EBADMSG, LP_SEAL_FILE ": damaged: it is cut short: seal the checkpoint "
						   "again, if it is known to be good");
	s->buf = malloc(len);
	if (!s->buf)
		return lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory for %" PRIu64 " bytes", len);
	rc = seal_pread(s->fd, s->buf, len, 0, false);
	if (rc)
		return lp_err_sys(err, rc, LP_SEAL_FILE ": cannot read it");
	return lp_seal_head_get(s->buf, len, (uint64_t)st.st_size, &s->h, err);
}

int seal_load(int dirfd, struct lp_seal **out, struct lp_err *err)
{
	struct lp_seal *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory");
	s->fd = openat(dirfd, LP_SEAL_FILE, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (s->fd < 0) {
		rc = -errno;
		if (rc == -ENOENT)
			lp_err(err, rc, LP_SEAL_FILE ": there is none: make it with `lazypages seal` where the checkpoint is known to be good");
		else
			lp_err_sys(err, rc, LP_SEAL_FILE ": cannot open it");
	} else {
		rc = load_head(s, err);
	}
	if (rc)
		lp_seal_close(s);
	else
		*out = s;
	return rc;
}

void lp_seal_close(struct lp_seal *s)
{
	if (!s)
		return;
	if (s->fd >= 0)
		close(s->fd);
	lp_seal_head_free(&s->h);
	free(s->buf);
	free(s->map);
	free(s);
}

int seal_sum_file(const struct lp_imgdir *d, const char *name, const char *shown, uint8_t sum[16], uint64_t *size,
		  struct lp_err *err)
{
	XXH3_state_t *h = XXH3_createState();
	XXH128_canonical_t c;
	uint64_t at = 0;
	uint8_t *buf;
	ssize_t n;
	int fd, rc = 0;

	buf = malloc(READ_STEP);
	fd = h && buf ? lp_open_regular(d, name, shown, size, err) : lp_err(err, -ENOMEM, "%s: no memory", shown);
	if (fd < 0) {
		rc = fd;
		goto out;
	}
	XXH3_128bits_reset(h);
	for (;;) {
		n = read(fd, buf, READ_STEP);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			break;
		XXH3_128bits_update(h, buf, n);
		at += n;
	}
	if (n < 0)
		rc = lp_err_sys(err, -errno, "%s: cannot read it", shown);
	else if (at != *size)
		rc = lp_err(err, -EBUSY, "%s: its size changes: do not write to a checkpoint in use", shown);
	close(fd);
	XXH128_canonicalFromHash(&c, XXH3_128bits_digest(h));
	memcpy(sum, c.digest, 16);
out:
	free(buf);
	XXH3_freeState(h);
	return rc;
}

bool seal_is_pages(const char *name, uint32_t *id)
{
	char again[32];
	unsigned v;

	if (sscanf(name, "pages-%u.img", &v) != 1)
		return false;
	snprintf(again, sizeof(again), "pages-%u.img", v);
	*id = v;
	return !strcmp(name, again);
}

static bool ends(const char *s, const char *with)
{
	size_t n = strlen(s), k = strlen(with);

	return n > k && !strcmp(s + n - k, with);
}

int seal_list(const struct lp_imgdir *d, int (*fn)(void *arg, const struct lp_imgdir *d, const char *name), void *arg,
	      struct lp_err *err)
{
	char shown[LP_NAME_MAX];
	struct dirent *e;
	struct stat st;
	DIR *dir;
	int fd, rc = 0;

	fd = openat(d->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	dir = fd >= 0 ? fdopendir(fd) : NULL;
	if (!dir) {
		lp_imgdir_name(d, ".", shown);
		rc = lp_err_sys(err, -errno, "%s: cannot list it", shown);
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (!rc && (errno = 0, e = readdir(dir))) {
		/* runc keeps descriptors.json beside the images. */
		if (!ends(e->d_name, ".img") && !ends(e->d_name, ".json"))
			continue;
		if (fstatat(d->fd, e->d_name, &st, 0) || !S_ISREG(st.st_mode))
			continue;
		rc = fn(arg, d, e->d_name);
	}
	if (!rc && errno) {
		lp_imgdir_name(d, ".", shown);
		rc = lp_err_sys(err, -errno, "%s: cannot list it", shown);
	}
	closedir(dir);
	return rc;
}

static const struct lp_seal_file *find_file(const struct lp_seal *s, unsigned depth, uint32_t id)
{
	size_t lo, hi, mid;

	for (lo = 0, hi = s->h.nfiles; lo < hi;) {
		const struct lp_seal_file *x = &s->h.files[mid = lo + (hi - lo) / 2];

		if (x->depth < depth || (x->depth == depth && x->id < id))
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo < s->h.nfiles && s->h.files[lo].depth == depth && s->h.files[lo].id == id ? &s->h.files[lo] : NULL;
}

/* Which file of the seal is each file of the images? */
static int map_files(struct lp_seal *s, const struct lp_images *im, struct lp_err *err)
{
	size_t i;

	s->nmap = lp_images_nfiles(im);
	s->map = calloc(s->nmap + 1, sizeof(*s->map));
	if (!s->map)
		return lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory");
	for (i = 0; i < s->nmap; i++) {
		const struct lp_pages_file *f = lp_images_file(im, i);
		const struct lp_seal_file *x = find_file(s, f->depth, im->file_ids[i]);

		if (!x)
			return lp_err(err, -EINVAL,
				      LP_SEAL_FILE ": it does not know %s: it is the seal of another checkpoint: seal this one",
				      f->name);
		if (x->size != f->size)
			return lp_err(err, -EBADMSG,
				      "%s: %" PRIu64 " bytes, but %" PRIu64 " when it was sealed: copy the checkpoint again",
				      f->name, f->size, x->size);
		s->map[i] = (uint32_t)(x - s->h.files);
	}
	return 0;
}

/* All that was read before any page: inventory, process tree, VMAs, pagemaps, also of parents. */
static int check_small(const struct lp_seal *s, const struct lp_images *chain, struct lp_err *err)
{
	char name[LP_SEAL_NAME_MAX + 1], shown[LP_NAME_MAX];
	uint64_t size = 0;
	uint8_t sum[16];
	uint32_t i;
	int rc;

	for (i = 0; i < s->h.nsmall; i++) {
		const struct lp_seal_small *m = &s->h.small[i];

		if (m->depth >= chain->ndirs)
			return lp_err(err, -EINVAL,
				      LP_SEAL_FILE ": it has a parent of depth %" PRIu32
						   " that is not here: restore the symlink `parent`",
				      m->depth);
		memcpy(name, m->name, m->name_len);
		name[m->name_len] = 0;
		lp_imgdir_name(&chain->dirs[m->depth], name, shown);
		rc = seal_sum_file(&chain->dirs[m->depth], name, shown, sum, &size, err);
		if (rc)
			return rc;
		if (size != m->size)
			return lp_err(err, -EBADMSG,
				      "%s: %" PRIu64 " bytes, but %" PRIu64 " when it was sealed: copy the checkpoint again",
				      shown, size, m->size);
		if (memcmp(sum, m->sum, 16))
			return lp_err(err, -EBADMSG,
				      "%s: its checksum is not that of the seal: it is damaged: copy the checkpoint again",
				      shown);
	}
	return 0;
}

int lp_seal_open(const struct lp_images *im, const char *dir, enum lp_verify v, struct lp_seal **out,
		 struct lp_err *err)
{
	struct lp_images chain = { 0 };
	uint8_t ident[LP_IMAGES_IDENT_LEN];
	struct lp_seal *s = NULL;
	int rc;

	*out = NULL;
	if (v == LP_VERIFY_NO)
		return 0;
	rc = lp_open_dirs(&chain, dir, err);
	if (!rc)
		rc = seal_load(chain.dirs[0].fd, &s, err);
	/* Before the identity: of a damaged image it says only that it is another one. */
	if (!rc)
		rc = check_small(s, &chain, err);
	if (!rc)
		rc = lp_images_ident(im, dir, ident, err);
	if (!rc && memcmp(ident, s->h.ident, sizeof(ident)))
		rc = lp_err(err, -EINVAL, LP_SEAL_FILE ": it is the seal of another checkpoint: seal this one");
	if (!rc)
		rc = map_files(s, im, err);
	lp_close_dirs(&chain);
	if (rc == -ENOENT && !s && v == LP_VERIFY_AUTO)
		return 0;
	if (rc)
		lp_seal_close(s);
	else
		*out = s;
	return rc;
}

int seal_block(const struct lp_seal *s, uint64_t page, bool nowait, uint8_t sums[LP_SEAL_BLOCK * 8], uint64_t *n)
{
	uint64_t block = page / LP_SEAL_BLOCK, first = block * LP_SEAL_BLOCK;
	int rc;

	*n = s->h.npages - first < LP_SEAL_BLOCK ? s->h.npages - first : LP_SEAL_BLOCK;
	rc = seal_pread(s->fd, sums, 8 * *n, s->h.len + 8 * first, nowait);
	if (rc)
		return rc;
	return lp_seal_sum(sums, 8 * *n) == lp_seal_get_u64(s->h.blocks + 8 * block) ? 0 : -EUCLEAN;
}

static int check_pages(const struct lp_seal *s, const struct lp_seal_file *f, uint64_t off, const void *buf, uint64_t len,
		       bool nowait, uint64_t *good)
{
	uint8_t sums[LP_SEAL_BLOCK * 8];
	uint64_t page = f->first + off / LP_SEAL_PAGE, from = 0, n = 0;
	const uint8_t *p = buf;
	int rc;

	for (*good = 0; *good < len; *good += LP_SEAL_PAGE, page++) {
		if (page >= from + n) {
			rc = seal_block(s, page, nowait, sums, &n);
			if (rc)
				return rc;
			from = page / LP_SEAL_BLOCK * LP_SEAL_BLOCK;
		}
		if (lp_seal_sum(p + *good, LP_SEAL_PAGE) != lp_seal_get_u64(sums + 8 * (page - from)))
			return -EBADMSG;
	}
	return 0;
}

int lp_seal_check(const struct lp_seal *s, uint32_t file, uint64_t off, const void *buf, uint64_t len, bool nowait,
		  uint64_t *good)
{
	return check_pages(s, &s->h.files[s->map[file]], off, buf, len, nowait, good);
}

static int read_pages(const struct lp_seal *s, const struct lp_seal_file *f, int fd, uint64_t off, void *buf, uint64_t len,
		      uint64_t *bad)
{
	uint8_t page[LP_SEAL_PAGE], *to = buf;
	uint64_t skip, n, good = 0;
	int rc = 0;

	while (len) {
		skip = off % LP_SEAL_PAGE;
		if (!skip && len >= LP_SEAL_PAGE) {
			n = len - len % LP_SEAL_PAGE;
			rc = seal_pread(fd, to, n, off, false);
			if (!rc)
				rc = check_pages(s, f, off, to, n, false, &good);
		} else {
			n = LP_SEAL_PAGE - skip < len ? LP_SEAL_PAGE - skip : len;
			rc = seal_pread(fd, page, sizeof(page), off - skip, false);
			if (!rc)
				rc = check_pages(s, f, off - skip, page, sizeof(page), false, &good);
			if (!rc)
				memcpy(to, page + skip, n);
		}
		if (rc) {
			*bad = off - skip + good;
			return rc;
		}
		to += n;
		off += n;
		len -= n;
	}
	return 0;
}

int lp_seal_read(const struct lp_seal *s, const struct lp_images *im, uint32_t file, uint64_t off, void *buf,
		 uint64_t len, uint64_t *bad)
{
	int fd = lp_images_file(im, file)->fd;

	return s ? read_pages(s, &s->h.files[s->map[file]], fd, off, buf, len, bad) : seal_pread(fd, buf, len, off, false);
}

int lp_seal_read_name(const struct lp_seal *s, const char *name, int fd, uint64_t off, void *buf, uint64_t len, uint64_t *bad)
{
	const struct lp_seal_file *f;
	uint32_t id;

	if (!s || !seal_is_pages(name, &id))
		return seal_pread(fd, buf, len, off, false);
	*bad = off;
	f = find_file(s, 0, id);
	if (!f || off > f->size || len > f->size - off)
		return -EBADMSG;
	return read_pages(s, f, fd, off, buf, len, bad);
}

int lp_seal_view(const struct lp_seal *s, const struct lp_images *im, struct lp_seal **out, struct lp_err *err)
{
	struct lp_seal *v = malloc(sizeof(*v));
	int rc;

	if (!v)
		return lp_err(err, -ENOMEM, LP_SEAL_FILE ": no memory");
	*v = *s;
	v->map = NULL;
	rc = map_files(v, im, err);
	if (rc) {
		lp_seal_view_end(v);
		return rc;
	}
	*out = v;
	return 0;
}

void lp_seal_view_end(struct lp_seal *v)
{
	if (!v)
		return;
	free(v->map);
	free(v);
}
