/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * `lazypages check`: can this machine restore lazily, and if not, what helps?
 * Each line is one feature of the kernel, one permission or one program, tried
 * rather than looked up. Exit status 0 when everything a restore needs is there.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <jansson.h>
#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "ledger/ledger.h"
#include "sandbox/sandbox.h"

/* Headers older than the kernel we may run on. */
#define FEATURE_POISON	   (UINT64_C(1) << 14)
#define FEATURE_MINOR_SHM  (UINT64_C(1) << 10)
#define FEATURE_MINOR_HUGE (UINT64_C(1) << 9)
#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

enum need { REQUIRED, BETTER };

struct report {
	json_t *items;
	bool json, ok;
	struct lp_err *first; /* not NULL: only what is missing first, and nothing is printed */
};

static void item(struct report *r, const char *name, bool good, enum need need, const char *detail, const char *remedy)
{
	const char *verdict = good ? "ok" : need == REQUIRED ? "MISSING" : "absent";

	if (!good && need == REQUIRED) {
		if (r->ok && r->first)
			lp_err(r->first, -ENOTSUP, "%s: %s: %s", name, detail, remedy);
		r->ok = false;
	}
	if (r->first)
		return;
	if (r->json) {
		json_array_append_new(r->items, json_pack("{s:s, s:b, s:b, s:s, s:s}", "name", name, "ok", good, "required",
							  need == REQUIRED, "detail", detail, "remedy",
							  good ? "" : remedy));
		return;
	}
	printf("%-8s %-28s %s\n", verdict, name, detail);
	if (!good)
		printf("%-8s %-28s -> %s\n", "", "", remedy);
}

static void check_uffd(struct report *r)
{
	static const struct {
		const char *name;
		uint64_t bit;
		enum need need;
		const char *what, *remedy;
	} features[] = {
		{ "event-fork", UFFD_FEATURE_EVENT_FORK, REQUIRED, "children of restored tasks", "Linux 4.11 or newer" },
		{ "event-remap", UFFD_FEATURE_EVENT_REMAP, REQUIRED, "mremap", "Linux 4.11 or newer" },
		{ "event-remove", UFFD_FEATURE_EVENT_REMOVE, REQUIRED, "madvise(DONTNEED, FREE, REMOVE)", "Linux 4.11 or newer" },
		{ "event-unmap", UFFD_FEATURE_EVENT_UNMAP, REQUIRED, "munmap", "Linux 4.11 or newer" },
		{ "missing-shmem", UFFD_FEATURE_MISSING_SHMEM, BETTER, "lazy shared memory", "Linux 4.11 or newer" },
		{ "missing-hugetlbfs", UFFD_FEATURE_MISSING_HUGETLBFS, BETTER, "lazy huge pages", "Linux 4.11 or newer" },
		{ "minor-shmem", FEATURE_MINOR_SHM, BETTER, "shared memory from one copy", "Linux 5.14 or newer" },
		{ "minor-hugetlbfs", FEATURE_MINOR_HUGE, BETTER, "huge pages from one copy", "Linux 5.13 or newer" },
		{ "poison", FEATURE_POISON, BETTER, "SIGBUS for pages that are lost", "Linux 6.6 or newer" },
	};
	struct uffdio_api api = { .api = UFFD_API };
	char detail[256];
	size_t i;
	int fd;

	fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	snprintf(detail, sizeof(detail), "%s", fd < 0 ? strerror(errno) : "the system call works");
	item(r, "userfaultfd", fd >= 0, REQUIRED, detail,
	     errno == ENOSYS ? "a kernel with CONFIG_USERFAULTFD=y" :
			       "run as root, or sysctl vm.unprivileged_userfaultfd=1");
	if (fd < 0)
		return;
	if (ioctl(fd, UFFDIO_API, &api))
		api.features = 0;
	close(fd);
	for (i = 0; i < sizeof(features) / sizeof(features[0]); i++)
		item(r, features[i].name, api.features & features[i].bit, features[i].need, features[i].what,
		     features[i].remedy);
}

static void check_userns(struct report *r)
{
	char buf[8] = "";
	ssize_t n = -1;
	int fd = open("/proc/sys/vm/unprivileged_userfaultfd", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		n = read(fd, buf, sizeof(buf) - 1);
		close(fd);
	}
	item(r, "user namespaces", n > 0 && buf[0] == '1', BETTER, "lazy restore of containers in a user namespace",
	     "sysctl vm.unprivileged_userfaultfd=1");
	fd = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	item(r, "/dev/userfaultfd", fd >= 0, BETTER, fd < 0 ? strerror(errno) : "usable by this user",
	     "Linux 6.1 or newer; access is given by its file mode");
	if (fd >= 0)
		close(fd);
}

static void check_permissions(struct report *r)
{
	struct rlimit rl = { 0 };
	char detail[256];
	unsigned long long caps = 0;
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");
	static const struct {
		const char *name;
		unsigned bit;
		enum need need;
		const char *what;
	} wanted[] = {
		{ "CAP_SYS_ADMIN", 21, REQUIRED, "CRIU's restore (or CAP_CHECKPOINT_RESTORE)" },
		{ "CAP_SYS_PTRACE", 19, BETTER, "userfaultfds that see faults of the kernel" },
		{ "CAP_NET_ADMIN", 12, BETTER, "reports of exits at once" },
		{ "CAP_SYS_RESOURCE", 24, BETTER, "more descriptors; dump of other users' tasks" },
		{ "CAP_SYS_NICE", 23, BETTER, "faults before other work of the machine" },
	};
	size_t i;

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	if (f)
		fclose(f);
	if (caps & (1ULL << 40))
		caps |= 1ULL << 21;
	for (i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++)
		item(r, wanted[i].name, caps >> wanted[i].bit & 1, wanted[i].need, wanted[i].what,
		     "run as root or with this capability");
	getrlimit(RLIMIT_NOFILE, &rl);
	snprintf(detail, sizeof(detail), "%llu (one for each task and each fork of it)", (unsigned long long)rl.rlim_max);
	item(r, "open files, hard limit", rl.rlim_max >= 4096, BETTER, detail, "ulimit -Hn 1048576");
}

static void check_ledger(struct report *r)
{
	struct lp_err err = { "the kernel tells in which order threads change their layout (BPF)" };
	int fds[LP_LEDGER_FDS];
	bool good = !lp_ledger_load(fds, &err);

	item(r, "ledger", good, BETTER, err.msg,
	     "root or CAP_BPF and CAP_PERFMON, Linux 5.15 or newer with BTF, x86-64; without it the order is guessed");
	lp_ledger_close(fds);
}

/* The first line of `CRIU --version`, or what went wrong. */
static bool criu_version(const char *criu, char *buf, size_t len)
{
	int p[2], status = -1;
	ssize_t n;
	pid_t pid;

	snprintf(buf, len, "cannot run `%s`", criu);
	if (pipe2(p, O_CLOEXEC))
		return false;
	pid = fork();
	if (!pid) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

		dup2(p[1], 1);
		dup2(null, 2);
		execlp(criu, criu, "--version", (char *)NULL);
		_exit(127);
	}
	close(p[1]);
	if (pid < 0) {
		close(p[0]);
		return false;
	}
	n = read(p[0], buf, len - 1);
	close(p[0]);
	waitpid(pid, &status, 0);
	if (n <= 0 || !WIFEXITED(status) || WEXITSTATUS(status)) {
		snprintf(buf, len, "`%s` is not there or does not start on this kernel", criu);
		return false;
	}
	buf[n] = 0;
	buf[strcspn(buf, "\n")] = 0;
	return true;
}

static void check_criu(struct report *r, const char *criu)
{
	char detail[300];
	bool good = criu_version(criu, detail, sizeof(detail));

	item(r, "criu", good, REQUIRED, detail, "install CRIU 4.1.1 or newer, `make criu`, or name it with --criu");
}

int check_needs(const char *criu, struct lp_err *err)
{
	struct report r = { .ok = true, .first = err };

	check_uffd(&r);
	check_permissions(&r);
	check_criu(&r, criu);
	return r.ok ? 0 : -ENOTSUP;
}

int cmd_check(int argc, char **argv)
{
	static const struct option longs[] = {
		{ "criu", required_argument, NULL, 'c' },
		{ "json", no_argument, NULL, 'j' },
		{ "sandbox", no_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	struct report r = { .ok = true };
	const char *criu = "criu";
	struct utsname u;
	unsigned role;
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'c':
			criu = optarg;
			break;
		case 'j':
			r.json = true;
			break;
		case 's':
			for (role = 0; role < LP_ROLES_OF_ALL; role++)
				lp_sandbox_show(role, stdout);
			return 0;
		case 'h':
			puts("Usage: lazypages check [--criu PATH] [--json]\n"
			     "       lazypages check --sandbox\n\n"
			     "Tries what a lazy restore needs of this machine; status 0 when nothing required is missing.\n"
			     "With --sandbox: which capabilities and system calls guardian, worker and server keep.");
			return 0;
		default:
			fputs("lazypages check: try `lazypages check --help`\n", stderr);
			return 2;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "lazypages check: what is `%s`? try `lazypages check --help`\n", argv[optind]);
		return 2;
	}
	r.items = json_array();
	uname(&u);
	if (!r.json)
		printf("%-8s %-28s %s %s\n", "", "kernel", u.release, u.machine);
	check_uffd(&r);
	check_userns(&r);
	check_permissions(&r);
	check_ledger(&r);
	check_criu(&r, criu);
	if (r.json) {
		json_t *top = json_pack("{s:s, s:b, s:O}", "kernel", u.release, "ok", r.ok, "items", r.items);

		json_dumpf(top, stdout, JSON_INDENT(2));
		puts("");
		json_decref(top);
	} else {
		puts(r.ok ? "\nThis machine can restore lazily." : "\nThis machine cannot restore lazily: see MISSING.");
	}
	json_decref(r.items);
	return r.ok ? 0 : 1;
}
