/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A program whose first steps after a restore show whether its VMAs have their
 * anon_vma: first_prog DIR.
 *
 * Each of its mappings has pages in the checkpoint. As soon as it runs again it
 * takes away access to a part of each and gives it back, with a touch of both
 * ends between: the parts merge only if the whole had an anon_vma before.
 * mremap() of the whole says EFAULT if they have not. Leaves the number of
 * refusals in DIR/out.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAPPINGS 256
#define PAGE 4096UL
#define PAGES 16

static char *at[MAPPINGS];

int main(int argc, char **argv)
{
	unsigned i, refused = 0, wrong = 0;
	FILE *f;
	int fd;

	if (argc != 2 || chdir(argv[1]))
		errx(2, "usage: first_prog DIR");
	for (i = 0; i < MAPPINGS; i++) {
		/* A hole behind each: they shall not merge with each other. */
		at[i] = mmap(NULL, (PAGES + 1) * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (at[i] == MAP_FAILED || munmap(at[i] + PAGES * PAGE, PAGE))
			err(2, "mmap");
		memset(at[i], 1 + i % 255, PAGES * PAGE);
	}
	fd = open("ready", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	if (fd < 0)
		err(2, "ready");
	close(fd);
	/* Dumped here: so often that it is where the restore finds it. */
	while (access("go", F_OK))
		;
	for (i = 0; i < MAPPINGS; i++) {
		volatile char *p = at[i];
		char *to;

		if (mprotect(at[i] + 4 * PAGE, 8 * PAGE, PROT_NONE))
			err(2, "mprotect");
		wrong += p[0] != (char)(1 + i % 255);
		wrong += p[(PAGES - 1) * PAGE] != (char)(1 + i % 255);
		if (mprotect(at[i] + 4 * PAGE, 8 * PAGE, PROT_READ | PROT_WRITE))
			err(2, "mprotect");
		to = mremap(at[i], PAGES * PAGE, 2 * PAGES * PAGE, MREMAP_MAYMOVE);
		if (to == MAP_FAILED) {
			refused++;
			continue;
		}
		wrong += to[7 * PAGE] != (char)(1 + i % 255);
	}
	f = fopen("out.new", "we");
	if (!f || fprintf(f, "refused %u wrong %u\n", refused, wrong) < 0 || fclose(f) || rename("out.new", "out"))
		err(2, "out");
	return 0;
}
