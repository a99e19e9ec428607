# SPDX-License-Identifier: GPL-2.0-only
# CRIU itself, patched: `make criu` builds build/bin/criu, `make criu-peer` build/bin/criu-4.1.1,
# `make zdtm` the test suite, `make check-patches` tries the
# series on every version in BASE. CRIU_VERSION=V selects another version than the newest; CRIU_DIST is a directory
# with tarballs, for when the distribution does not answer.

CRIU_BIN  := build/bin/criu
CRIU_SRC  := build/criu-src
CRIU_WANT := $(or $(CRIU_VERSION),newest)
# Written by get-criu: the version selected, and what had been asked for.
CRIU_SEL  := $(CRIU_SRC)/selected
CRIU_IN   := criu-patches/get-criu criu-patches/BASE criu-patches/series $(wildcard criu-patches/*.patch \
	     criu-patches/*/*.patch)

V ?= 0
ifeq ($(V),0)
Q   ?= @
say ?= @printf '  %-8s %s\n' "$(1)" "$(2)";
endif

# Our own flags, sanitizers and -j are none of CRIU's business.
CRIU_MAKE := env -u MAKEFLAGS -u MFLAGS -u MAKEOVERRIDES -u MAKELEVEL -u CFLAGS -u CPPFLAGS -u LDFLAGS -u V -u Q \
	     make -j$(shell nproc)
# $(call criu-log,COMMANDS,LOG): run quietly, show the log's end on failure.
criu-log   = { $(1); } > $(2) 2>&1 || { tail -n 30 $(2) >&2; echo "failed, see $(2)" >&2; exit 1; }
criu-tree  = $(CRIU_SRC)/criu-$$(cut -d' ' -f1 $(CRIU_SEL))

# Another version than last time, or a tree that is gone, is not seen by its date.
CRIU_HAD := $(shell cat $(CRIU_SEL) 2>/dev/null)
ifeq ($(and $(filter $(CRIU_WANT),$(word 2,$(CRIU_HAD))),$(wildcard \
      $(CRIU_SRC)/criu-$(word 1,$(CRIU_HAD))/.lazypages-stamp)),)
.PHONY: $(CRIU_SEL)
endif

.PHONY: criu criu-peer zdtm check-patches
criu: $(CRIU_BIN)
zdtm: $(CRIU_SRC)/zdtm-built

$(CRIU_SEL): $(CRIU_IN)
	$(Q)CRIU_VERSION='$(CRIU_VERSION)' criu-patches/get-criu

$(CRIU_BIN): $(CRIU_SEL)
	$(call say,BUILD,$@)
	$(Q)t=$(criu-tree); $(call criu-log,$(CRIU_MAKE) -C $$t criu,build/criu-build.log)
	$(Q)install -D -m 755 $(criu-tree)/criu/criu $@

# Another version as a peer: CRIU before 4.2 speaks another dialect of the page-server protocol. test/net/live uses it.
PEER      := 4.1.1
criu-peer: build/bin/criu-$(PEER)
build/bin/criu-$(PEER): $(CRIU_IN)
	$(call say,BUILD,$@)
	$(Q)t=$$(criu-patches/get-criu --tree $(PEER)) && \
		$(call criu-log,$(CRIU_MAKE) -C $$t criu,build/criu-peer-build.log) && install -D -m 755 $$t/criu/criu $@

# Everything that zdtm.py would otherwise build on its first run, too.
$(CRIU_SRC)/zdtm-built: $(CRIU_SEL) $(CRIU_BIN)
	$(call say,BUILD,zdtm)
	$(Q)t=$(criu-tree); $(call criu-log,$(CRIU_MAKE) -C $$t crit && $(CRIU_MAKE) -C $$t/test umount2 zdtm_ct && \
		$(CRIU_MAKE) -C $$t/test/zdtm,build/zdtm-build.log)
	$(Q)cp $(CRIU_SEL) $@

check-patches:
	$(Q)criu-patches/check-patches
