# A thin front end of meson: "make help" lists the targets.

BUILD ?= build
FUZZ_BUILD ?= $(BUILD)-fuzz
PREFIX ?= /usr/local
MESON ?= /usr/bin/meson
PYTHON = /usr/bin/python3
# A QEMU source tree to build in, instead of Debian's
QEMU_TREE ?=
# Further options, such as -Dqemu_configure=--enable-asan
MESON_ARGS ?=
# Tests that "make check" runs: for example --suite unit, or a test's name
TESTS ?=
# Busy loops next to each test of "make check-busy", and how often it runs each
LOOPS ?= 8
REPEAT ?= 1
# Another QEMU whose source the patches fit
OTHER_QEMU ?= 10.2.2
# How long "make fuzz" runs each fuzzer, and which ones it runs
SECONDS ?= 600
FUZZERS ?=

export MESON
mandir = $(DESTDIR)$(PREFIX)/share/man/man1
with_env = . $(abspath $(BUILD))/snap-env.sh &&

.PHONY: all analyze check check-busy check-sanitizers check-other-qemu \
        fuzz demo bench man manual install clean distclean help deps test-deps docs-deps fuzz-deps

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja: | deps
	@$(MESON) setup $(if $(QEMU_TREE),-Dqemu_tree=$(abspath $(QEMU_TREE))) $(MESON_ARGS) $(BUILD)

$(FUZZ_BUILD)/build.ninja: | fuzz-deps
	@$(MESON) setup $(if $(QEMU_TREE),-Dqemu_tree=$(abspath $(QEMU_TREE))) -Dfuzz=true $(FUZZ_BUILD)

deps:
	@scripts/install-deps build

test-deps: deps
	@scripts/install-deps test
	@scripts/fetch-emulators

docs-deps: deps
	@scripts/install-deps docs

fuzz-deps: deps
	@scripts/install-deps fuzz

# The fuzzers need a build of their own
check: test-deps all $(if $(TESTS),,$(FUZZ_BUILD)/build.ninja)
	@scripts/run-tests $(if $(TESTS),,--and $(FUZZ_BUILD)) $(BUILD) $(TESTS)

# The loops run in each test's session, since the scheduler may divide the
# processors by session.
check-busy: test-deps all
	@TIMEOUT_MULTIPLIER=$${TIMEOUT_MULTIPLIER:-20} scripts/run-tests $(BUILD) \
	    --wrapper '$(abspath scripts/busy) $(LOOPS)' --repeat $(REPEAT) \
	    $(or $(TESTS),--suite vm --suite tool)

fuzz: $(FUZZ_BUILD)/build.ninja
	@ninja -C $(FUZZ_BUILD) --quiet test-programs.stamp
	@. $(abspath $(FUZZ_BUILD))/snap-env.sh && \
	    PYTHONPATH=tests/snap $(PYTHON) tests/snap/fuzz/run.py \
	    --seconds $(SECONDS) --work $(abspath $(FUZZ_BUILD))/corpus $(FUZZERS)

# In a build of its own
check-sanitizers: test-deps
	@$(MAKE) --no-print-directory all BUILD=$(BUILD)-asan \
	    MESON_ARGS='-Dqemu_configure=--enable-asan,--enable-ubsan $(MESON_ARGS)'
	@TIMEOUT_MULTIPLIER=$${TIMEOUT_MULTIPLIER:-10} \
	    scripts/run-tests $(BUILD)-asan $(TESTS)

# In another QEMU's source tree
check-other-qemu:
	@scripts/fetch-tree $(OTHER_QEMU) $(abspath subprojects/qemu-$(OTHER_QEMU))
	@$(MAKE) --no-print-directory check BUILD=$(BUILD)-$(OTHER_QEMU) \
	    QEMU_TREE=subprojects/qemu-$(OTHER_QEMU) \
	    TESTS='$(or $(TESTS),--suite unit --suite tool)'

analyze: all
	@scripts/install-deps analyze
	@scripts/analyze $(BUILD)

demo: test-deps all
	@$(with_env) $(PYTHON) tests/snap/demo.py $(ARGS)

bench: test-deps all
	@$(with_env) $(PYTHON) tests/snap/bench.py $(ARGS)

man: docs-deps all
	@scripts/build-man $(BUILD)

manual: docs-deps $(BUILD)/build.ninja
	@$(MESON) configure $(BUILD) -Ddocs=true
	@ninja -C $(BUILD) --quiet manual
	@echo 'See $(BUILD)/qemu/docs/manual/index.html'

# Only the man page needs Sphinx
install: all
	@if scripts/install-deps --check docs; then scripts/build-man $(BUILD); fi
	install -D -m 755 $(BUILD)/qemu-snap $(DESTDIR)$(PREFIX)/bin/qemu-snap
	install -D -m 644 tools/snap/qapi/snap.json \
	    $(DESTDIR)$(PREFIX)/share/qemu-snap/snap.json
	@if [ -e $(BUILD)/qemu-snap.1 ]; then set -x; \
	    install -D -m 644 $(BUILD)/qemu-snap.1 $(mandir)/qemu-snap.1; fi

clean:
	rm -rf $(BUILD) $(BUILD)-asan $(BUILD)-$(OTHER_QEMU) $(FUZZ_BUILD)

# Remove what was fetched as well, so that the next build gets the newest QEMU
distclean: clean
	rm -rf $(addprefix subprojects/, apt emulators guest packagecache qemu qemu-$(OTHER_QEMU) .lock)

help:
	@echo 'make            build $(BUILD)/qemu-snap'
	@echo 'make check      ... and run the tests; TESTS="--suite unit" selects some'
	@echo 'make check-busy ... and run those of vm/ and tool/, each next to LOOPS ($(LOOPS))'
	@echo '                busy loops; REPEAT=3 repeats them, TESTS selects some'
	@echo 'make check-sanitizers'
	@echo '                ... with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make check-other-qemu'
	@echo '                ... built in the source tree of QEMU $(OTHER_QEMU): units and tool'
	@echo 'make analyze    analyze the code statically, which takes some minutes'
	@echo 'make fuzz       run each fuzzer for SECONDS ($(SECONDS)); FUZZERS="save" selects one;'
	@echo '                continues from $(FUZZ_BUILD)/corpus'
	@echo 'make demo       ... and show it with a Linux guest'
	@echo 'make bench      ... and measure it against its peers; ARGS=--help has options'
	@echo 'make man        build the man page'
	@echo 'make manual     build all of QEMU'"'"'s manual with its pages, as HTML'
	@echo 'make install    install to PREFIX ($(PREFIX)), below DESTDIR'
	@echo 'make clean      remove $(BUILD), $(BUILD)-asan and $(FUZZ_BUILD)'
	@echo 'make distclean  ... and everything that was fetched'
	@echo
	@echo 'QEMU_TREE=/path/to/qemu builds in that tree instead of Debian'"'"'s source'
