/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A file system with a bad disk, over /dev/fuse: the regular files of one
 * directory, read-only; what the control file names cannot be read (EIO). Its
 * lines are NAME FIRST LAST, in bytes, and it is looked at with each read. In the
 * foreground until it is unmounted or killed. Speaks the kernel's protocol
 * itself, so nothing is needed to build it.
 *
 *   badfs DIR MOUNTPOINT CONTROL
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define MANY	  512
#define MAX_WRITE 65536

static struct {
	char name[256];
	struct stat st;
	int fd;
} files[MANY]; /* nodeid 2 and on; 1 is the directory */
static unsigned nfiles;
static const char *control;
static int dev;

static void reply(const struct fuse_in_header *in, int error, const void *data, size_t len)
{
	struct fuse_out_header out = { .len = sizeof(out) + (error ? 0 : len), .error = error, .unique = in->unique };
	struct iovec iov[2] = { { &out, sizeof(out) }, { (void *)data, len } };

	/* ENOENT: the request was interrupted. */
	if (writev(dev, iov, error || !len ? 1 : 2) < 0 && errno != ENOENT)
		perror("badfs: /dev/fuse");
}

static void attr_of(uint64_t node, struct fuse_attr *a)
{
	memset(a, 0, sizeof(*a));
	a->ino = node;
	a->nlink = 1;
	a->blksize = 4096;
	if (node == 1) {
		a->mode = S_IFDIR | 0755;
		return;
	}
	a->mode = S_IFREG | 0644;
	a->size = files[node - 2].st.st_size;
	a->blocks = files[node - 2].st.st_blocks;
	a->mtime = files[node - 2].st.st_mtim.tv_sec;
	a->mtimensec = files[node - 2].st.st_mtim.tv_nsec;
}

static void lookup(const struct fuse_in_header *in, const char *name)
{
	struct fuse_entry_out e = { .attr_valid = 3600, .entry_valid = 3600 };
	unsigned i;

	for (i = 0; i < nfiles && strcmp(files[i].name, name); i++)
		;
	if (i == nfiles) {
		reply(in, -ENOENT, NULL, 0);
		return;
	}
	e.nodeid = i + 2;
	attr_of(e.nodeid, &e.attr);
	reply(in, 0, &e, sizeof(e));
}

static int is_bad(const char *name, unsigned long long off, unsigned long long end)
{
	unsigned long long first, last;
	char bad[256];
	int found = 0;
	FILE *f = fopen(control, "re");

	while (f && !found && fscanf(f, "%255s %llu %llu", bad, &first, &last) == 3)
		found = !strcmp(bad, name) && off <= last && end > first;
	if (f)
		fclose(f);
	return found;
}

static void do_read(const struct fuse_in_header *in, const struct fuse_read_in *r)
{
	static char buf[MAX_WRITE];
	size_t size = r->size < sizeof(buf) ? r->size : sizeof(buf);
	ssize_t n;

	/* Never a short one: for the kernel that is the end of the file. */
	if (is_bad(files[in->nodeid - 2].name, r->offset, r->offset + size)) {
		reply(in, -EIO, NULL, 0);
		return;
	}
	n = pread(files[in->nodeid - 2].fd, buf, size, (off_t)r->offset);
	reply(in, n < 0 ? -errno : 0, buf, n < 0 ? 0 : (size_t)n);
}

static void do_readdir(const struct fuse_in_header *in, const struct fuse_read_in *r)
{
	static char buf[4096];
	size_t at = 0;
	unsigned i;

	memset(buf, 0, sizeof(buf));
	for (i = (unsigned)r->offset; i < nfiles; i++) {
		struct fuse_dirent *d = (struct fuse_dirent *)(buf + at);
		size_t n = strlen(files[i].name), size = FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + n);

		if (at + size > sizeof(buf) || at + size > r->size)
			break;
		d->ino = i + 2;
		d->off = i + 1;
		d->namelen = (uint32_t)n;
		d->type = DT_REG;
		memcpy(d->name, files[i].name, n);
		at += size;
	}
	reply(in, 0, buf, at);
}

static void handle(const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_init_in *init = arg;
	struct fuse_attr_out attr = { .attr_valid = 3600 };
	struct fuse_statfs_out fs = { .st = { .bsize = 4096, .namelen = 255 } };
	struct fuse_init_out io = { .major = 7, .minor = 31, .max_write = MAX_WRITE };
	struct fuse_open_out o = { 0 };

	switch (in->opcode) {
	case FUSE_INIT:
		io.max_readahead = init->max_readahead;
		io.max_pages = MAX_WRITE / 4096;
		io.flags = init->flags & (FUSE_ASYNC_READ | FUSE_MAX_PAGES);
		reply(in, 0, &io, sizeof(io));
		break;
	case FUSE_LOOKUP:
		lookup(in, arg);
		break;
	case FUSE_GETATTR:
		attr_of(in->nodeid, &attr.attr);
		reply(in, 0, &attr, sizeof(attr));
		break;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		reply(in, 0, &o, sizeof(o));
		break;
	case FUSE_READ:
		do_read(in, arg);
		break;
	case FUSE_READDIR:
		do_readdir(in, arg);
		break;
	case FUSE_STATFS:
		reply(in, 0, &fs, sizeof(fs));
		break;
	case FUSE_RELEASE:
	case FUSE_RELEASEDIR:
	case FUSE_FLUSH:
	case FUSE_ACCESS:
		reply(in, 0, NULL, 0);
		break;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		break;
	default:
		reply(in, -ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	static char buf[MAX_WRITE + 4096];
	char opts[100];
	struct dirent *e;
	DIR *d;
	ssize_t n;

	if (argc != 4)
		return fputs("badfs DIR MOUNTPOINT CONTROL\n", stderr), 2;
	control = argv[3];
	d = opendir(argv[1]);
	while (d && nfiles < MANY && (e = readdir(d))) {
		if (fstatat(dirfd(d), e->d_name, &files[nfiles].st, 0) || !S_ISREG(files[nfiles].st.st_mode))
			continue;
		files[nfiles].fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
		snprintf(files[nfiles].name, sizeof(files[nfiles].name), "%s", e->d_name);
		nfiles += files[nfiles].fd >= 0;
	}
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (!d || dev < 0)
		return perror("badfs: /dev/fuse"), 77;
	snprintf(opts, sizeof(opts), "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", dev);
	if (mount("badfs", argv[2], "fuse", MS_RDONLY | MS_NODEV | MS_NOSUID, opts))
		return perror("badfs: mount"), 77;
	while ((n = read(dev, buf, sizeof(buf))) > 0 || (n < 0 && errno == EINTR) || (n < 0 && errno == ENOENT))
		if (n >= (ssize_t)sizeof(struct fuse_in_header))
			handle((void *)buf, buf + sizeof(struct fuse_in_header));
	return 0; /* ENODEV: unmounted */
}
