# SPDX-License-Identifier: GPL-2.0-only
# lazypages: `make` builds build/bin/lazypages; `make help` lists the rest.

VERSION   := 0.1.0
PREFIX    ?= /usr/local
SBINDIR   ?= $(PREFIX)/sbin
MANDIR    ?= $(PREFIX)/share/man
UNITDIR   ?= $(PREFIX)/lib/systemd/system
DESTDIR   ?=
CC        ?= gcc
CLANG     ?= clang
PKGCONFIG ?= pkg-config
PROTOC_C  ?= protoc-c
BPFTOOL   ?= $(or $(shell command -v bpftool),/usr/sbin/bpftool)

# Each sanitizer has its own tree, so that switching costs no rebuild.
SANITIZE  ?=
B         := build$(if $(SANITIZE),/san-$(SANITIZE))

PKGS      := libprotobuf-c libnl-3.0 jansson libxxhash liblz4 libzstd gnutls libseccomp libbpf
CFLAGS    ?= -O2 -g
WARN      := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-unused-parameter \
	     -Wformat=2 -Wvla
CPPFLAGS  += -D_GNU_SOURCE -DLP_VERSION='"$(VERSION)"' -Iplugin -I. -I$(B)/gen
LDLIBS    += -lpthread

NO_LIBS   := help deps clean criu criu-peer zdtm check check-san check-more check-kernels check-kill check-pairs check-patches check-upgrade \
	     check-pressure check-zdtm check-zdtm-full bench demo ci
ifneq ($(filter-out $(NO_LIBS),$(or $(MAKECMDGOALS),all)),)
ifeq ($(shell $(PKGCONFIG) --exists $(PKGS) && for t in $(PROTOC_C) $(BPFTOOL) $(CLANG); do command -v $$t > /dev/null || exit 1; done && echo ok),)
$(error missing libraries, protoc-c, bpftool or clang (wanted: $(PKGS)): run `make deps`)
endif
endif
ALL_CFLAGS = -std=gnu11 -MMD -MP $(CFLAGS) $(WARN) $(CPPFLAGS) $(shell $(PKGCONFIG) --cflags $(PKGS)) $(SANFLAGS)
ALL_LIBS   = $(LDLIBS) $(shell $(PKGCONFIG) --libs $(PKGS))

ifeq ($(SANITIZE),address)
SANFLAGS  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
else ifeq ($(SANITIZE),thread)
SANFLAGS  := -fsanitize=thread -fno-omit-frame-pointer
else ifneq ($(SANITIZE),)
$(error SANITIZE is `address` or `thread`, not `$(SANITIZE)`)
endif

V ?= 0
ifeq ($(V),0)
Q := @
say = @printf '  %-8s %s\n' "$(1)" "$(2)";
endif

PROTOS    := $(wildcard images/*.proto)
PB_C      := $(PROTOS:%.proto=$(B)/gen/%.pb-c.c)
PB_H      := $(PB_C:.c=.h)
LIB_SRC   := $(wildcard plugin/base/*.c plugin/engine/*.c plugin/source/*.c plugin/restore/*.c plugin/guard/*.c \
	     plugin/proto/*.c plugin/net/*.c plugin/live/*.c plugin/serve/*.c plugin/trace/*.c plugin/sandbox/*.c images/*.c) \
	     $(filter-out %.bpf.c,$(wildcard plugin/ledger/*.c))
CLI_SRC   := $(wildcard plugin/cli/*.c)
UNIT_SRC  := $(wildcard test/unit/*_test.c)
# Programs of tests and benchmarks: one file each, linked with the library.
PROG_SRC  := $(wildcard test/kernel/*.c test/criu/*.c test/bench/*.c test/scenario/*.c test/net/*.c)
TLIB_SRC  := $(wildcard test/lib/*.c)

LIB_OBJ   := $(LIB_SRC:%.c=$(B)/obj/%.o) $(PB_C:$(B)/gen/%.c=$(B)/obj/gen/%.o)
CLI_OBJ   := $(CLI_SRC:%.c=$(B)/obj/%.o)
TLIB_OBJ  := $(TLIB_SRC:%.c=$(B)/obj/%.o)
UNIT_BIN  := $(UNIT_SRC:test/unit/%.c=$(B)/test/unit/%)
PROG_BIN  := $(PROG_SRC:test/%.c=$(B)/test/%)
LIB       := $(B)/liblazypages.a
BIN       := $(B)/bin/lazypages
MANPAGES  := $(wildcard doc/*.scd)
MAN       := $(MANPAGES:doc/%.scd=$(B)/man/%)

.PHONY: all man unit progs
all: $(BIN) man

$(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h &: %.proto
	$(call say,PROTOC,$<)
	$(Q)mkdir -p $(B)/gen && $(PROTOC_C) --c_out=$(B)/gen $<

$(LIB_OBJ) $(CLI_OBJ): | $(PB_H)

# The program that runs in the kernel, as a header that has its code.
BPF_FLAGS := -O2 -g -target bpf -Wall -Werror -Iplugin -I/usr/include/$(shell $(CC) -print-multiarch)
$(B)/gen/ledger/%.skel.h: plugin/ledger/%.bpf.c plugin/ledger/shared.h
	$(call say,BPF,$<)
	$(Q)mkdir -p $(@D) && $(CLANG) $(BPF_FLAGS) -c -o $(@:.skel.h=.bpf.o) $< && \
		$(BPFTOOL) gen skeleton $(@:.skel.h=.bpf.o) name $*_bpf > $@.tmp && mv $@.tmp $@

$(B)/obj/plugin/ledger/ledger.o: $(B)/gen/ledger/watch.skel.h

$(B)/obj/gen/%.o: $(B)/gen/%.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -Wno-shadow -c -o $@ $<

$(B)/obj/%.o: %.c
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D) && $(CC) $(ALL_CFLAGS) -c -o $@ $<

$(LIB): $(LIB_OBJ)
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BIN): $(CLI_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(B)/test/unit/%_test: $(B)/obj/test/unit/%_test.o $(TLIB_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS) -lcmocka

$(B)/test/%: $(B)/obj/test/%.o $(TLIB_OBJ) $(LIB)
	$(call say,LINK,$@)
	$(Q)mkdir -p $(@D) && $(CC) $(SANFLAGS) $(LDFLAGS) -o $@ $^ $(ALL_LIBS)

$(B)/man/%: doc/%.scd
	$(call say,SCDOC,$@)
	$(Q)mkdir -p $(@D) && scdoc < $< > $@

man: $(MAN)
unit: $(UNIT_BIN)
progs: $(PROG_BIN)

.PRECIOUS: $(B)/obj/%.o $(B)/gen/%.pb-c.c $(B)/gen/%.pb-c.h
-include $(shell find $(B)/obj -name '*.d' 2>/dev/null)

# ---- CRIU, and what a fresh machine lacks ----

include criu-patches/criu.mk

.PHONY: deps demo help clean install
help:
	@printf '%s\n' \
	  'make              build/bin/lazypages and the man pages' \
	  'make deps         install what a fresh Debian 12 lacks (as root)' \
	  'make criu         build/bin/criu: CRIU with our patches; make zdtm: its test suite' \
	  'make demo         the main job: a Redis dumped and restored, eagerly and lazily' \
	  'make check        the tests; make check-san: under AddressSanitizer and ThreadSanitizer' \
	  'make check-more   all cases of lazypages restore, TLS and lost pages: what make check leaves out' \
	  'make check-kernels  kernel stress and restores under other kernels, in QEMU (KERNELS_ARGS=--help)' \
	  'make check-pressure  restores with full memory cgroups, without descriptors, of many mappings, tasks, forks' \
	  'make check-zdtm   the tests of CRIU itself that lazy restore is about, lazily; check-zdtm-full: all of them' \
	  'make check-kill   worker, guardian and both killed, until KILLS (1000) workers are dead: long' \
	  'make check-upgrade  the daemon replaced by another program in the middle, UPGRADES (100) times' \
	  'make check-pairs  all pairs of ours and CRIU 4.1/4.2 over its page-server protocol; live migration of a Redis' \
	  'make check-patches  the patch series on every version of CRIU that it is for' \
	  'make bench        side by side with stock CRIU and the raw limit; writes build/bench.json' \
	  'make fuzz         the fuzzers, FUZZ_SECONDS each (default 60)' \
	  'make install      DESTDIR= PREFIX=   SANITIZE=address|thread   V=1'

# apt only when something is missing: it is slow, and needs root and a network.
PACKAGES = $(shell sed 's/\#.*//' .ci/packages)
deps:
	@missing=; for p in $(PACKAGES); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
		echo "  APT     $$missing"; \
		apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends \
			-o Dpkg::Use-Pty=0 install $$missing > /dev/null || exit 1; \
	fi

# deps may install what the next make needs to know, so each step is a make of its own.
demo:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu
	@test/criu/demo

install: all
	install -D -m 755 $(BIN) $(DESTDIR)$(SBINDIR)/lazypages
	sed 's|@SBINDIR@|$(SBINDIR)|' plugin/guard/lazypages-daemon@.service | \
		install -D -m 644 /dev/stdin $(DESTDIR)$(UNITDIR)/lazypages-daemon@.service
	for m in $(MAN); do install -D -m 644 $$m $(DESTDIR)$(MANDIR)/man$${m##*.}/$${m##*/} || exit 1; done

clean:
	rm -rf build/obj build/gen build/test build/san-* build/fuzz build/man build/bin/lazypages build/liblazypages.a

# ---- tests ----

.PHONY: check check-san check-more check-built bench fuzz
check:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu unit progs fuzzers
	@test/run --build build lint unit scenario kernel criu net fuzz

check-san:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory criu progs
	@$(MAKE) --no-print-directory SANITIZE=address all unit progs
	@$(MAKE) --no-print-directory SANITIZE=thread all unit progs
	@ASAN_OPTIONS=detect_leaks=1 test/run --build build/san-address unit scenario san
	@TSAN_OPTIONS=halt_on_error=1 test/run --build build/san-thread unit scenario san

check-more:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/run --build build more

bench:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/bench/run $(BENCH)

.PHONY: check-kill
KILLS ?= 1000
check-kill:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/criu/kill_loop --kills $(KILLS)

.PHONY: check-upgrade
UPGRADES ?= 100
check-upgrade:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/criu/oracle_loop --runs 1 --workers 1,2 --threads 1,2,4 --kill upgrade --every 200 --upgrades $(UPGRADES)

# Not parts of `make check`: they take minutes, and the first downloads kernels and installs QEMU.
.PHONY: check-kernels check-pressure
check-kernels:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/kernel/matrix $(KERNELS_ARGS)

check-pressure:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu progs
	@test/run --build build pressure

# Not a part of `make check`: CRIU's own tests take minutes to build and to run.
.PHONY: check-zdtm check-zdtm-full
check-zdtm:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu zdtm
	@test/run --build build zdtm

# Goes on where it was interrupted. A mode that our programs do not have yet is left out (status 77).
ZDTM_FULL := '--mode eager' '--mode lazy' '--mode remote --server ours' '--mode remote-tls --server ours' \
	     '--mode migrate' '--mode lazy --daemon stock'
check-zdtm-full:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu zdtm
	@bad=0; for m in $(ZDTM_FULL); do \
		test/zdtm/run $$m $(ZDTM) < /dev/null; rc=$$?; \
		case $$m:$$rc in *:0|*:77|*stock:1|*eager:1) ;; *) bad=1 ;; esac; \
	done; test/zdtm/report && [ $$bad = 0 ]

# CRIU of both dialects against ours, each way; the cases of test/net/live that make check leaves out.
.PHONY: check-pairs
check-pairs:
	@$(MAKE) --no-print-directory deps
	@$(MAKE) --no-print-directory all criu criu-peer progs
	@test/net/live table && test/run --build build pairs

# libFuzzer over the real sources; seeds are named by what they mean.
FUZZ_SECONDS ?= 60
FUZZ_FLAGS    = -O1 -g -std=gnu11 $(WARN) $(CPPFLAGS) -fsanitize=fuzzer,address,undefined \
	        -fno-sanitize-recover=undefined $(shell $(PKGCONFIG) --cflags libprotobuf-c)
FUZZERS      := build/fuzz/images_fuzz $(if $(wildcard test/fuzz/engine_fuzz.c),build/fuzz/engine_fuzz) \
	        build/fuzz/proto_fuzz build/fuzz/serve_fuzz build/fuzz/trace_fuzz build/fuzz/criu_ps_fuzz \
	        build/fuzz/ps_fuzz build/fuzz/seal_fuzz

build/fuzz/images_fuzz: test/fuzz/images_fuzz.c $(wildcard images/*.[ch]) $(PB_C) build/fuzz/images_seeds
	$(call say,FUZZER,$@)
	$(Q)$(CLANG) $(FUZZ_FLAGS) -o $@ $< $(wildcard images/*.c) plugin/base/err.c $(PB_C) \
		$(shell $(PKGCONFIG) --libs libprotobuf-c libxxhash)

build/fuzz/seal_fuzz: test/fuzz/seal_fuzz.c $(wildcard images/sealfmt.[ch])
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -o $@ $< images/sealfmt.c plugin/base/err.c \
		$(shell $(PKGCONFIG) --libs libxxhash)

build/fuzz/images_seeds: test/fuzz/images_seeds.c test/lib/imgbuild.c $(LIB)
	$(call say,CC,$@)
	$(Q)mkdir -p $(@D)/images && $(CC) $(ALL_CFLAGS) -MF $(@D)/images_seeds.d -o $@ $(filter-out $(LIB),$^) $(LIB) $(ALL_LIBS)
	$(Q)$@ $(@D)/images

MODEL_C := $(wildcard test/lib/model*.c)
build/fuzz/engine_fuzz: test/fuzz/engine_fuzz.c $(MODEL_C) $(wildcard plugin/engine/*.[ch])
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D)/engine && $(CLANG) $(FUZZ_FLAGS) -Itest/lib -o $@ $< $(MODEL_C) $(wildcard plugin/engine/*.c)

build/fuzz/proto_fuzz: test/fuzz/proto_fuzz.c $(wildcard plugin/proto/*.[ch])
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -o $@ $< $(wildcard plugin/proto/*.c) \
		$(shell $(PKGCONFIG) --libs libxxhash liblz4 libzstd gnutls)

build/fuzz/trace_fuzz: test/fuzz/trace_fuzz.c $(wildcard plugin/trace/*.[ch] plugin/engine/*.[ch])
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -o $@ $< $(wildcard plugin/trace/*.c plugin/engine/*.c) \
		$(shell $(PKGCONFIG) --libs libxxhash)

build/fuzz/criu_ps_fuzz: test/fuzz/criu_ps_fuzz.c $(wildcard plugin/proto/criu_ps.[ch] plugin/proto/wire.h)
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -o $@ $< plugin/proto/criu_ps.c

SERVE_C := $(wildcard plugin/serve/*.c plugin/live/*.c plugin/net/*.c plugin/proto/*.c plugin/base/*.c images/*.c) test/lib/imgbuild.c
build/fuzz/serve_fuzz: test/fuzz/serve_fuzz.c test/fuzz/serve_seeds.py $(SERVE_C) $(wildcard plugin/*/*.h images/*.h) $(PB_C)
	$(call say,FUZZER,$@)
	$(Q)$(CLANG) $(FUZZ_FLAGS) -Wno-shadow -o $@ $< $(SERVE_C) $(PB_C) \
		$(shell $(PKGCONFIG) --libs libprotobuf-c libxxhash liblz4 libzstd gnutls)
	$(Q)mkdir -p $(@D)/serve && python3 test/fuzz/serve_seeds.py $(@D)/serve

build/fuzz/ps_fuzz: test/fuzz/ps_fuzz.c $(SERVE_C) $(wildcard plugin/*/*.h images/*.h) $(PB_C)
	$(call say,FUZZER,$@)
	$(Q)mkdir -p $(@D) && $(CLANG) $(FUZZ_FLAGS) -Wno-shadow -o $@ $< $(SERVE_C) $(PB_C) \
		$(shell $(PKGCONFIG) --libs libprotobuf-c libxxhash liblz4 libzstd gnutls)

.PHONY: fuzzers
fuzzers: $(FUZZERS)
fuzz: $(FUZZERS)
	@for f in $(FUZZERS); do n=$${f##*/}; n=$${n%_fuzz}; mkdir -p build/fuzz/corpus-$$n; \
		$$f -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -print_final_stats=1 build/fuzz/corpus-$$n \
			$$( [ -d build/fuzz/$$n ] && echo build/fuzz/$$n ) 2> build/fuzz/$$n.log || \
			{ tail -n 40 build/fuzz/$$n.log; exit 1; }; \
		grep -E 'stat::(number|average)' build/fuzz/$$n.log | sed "s/^/$$n: /"; done
