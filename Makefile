# A thin front for meson: "make help" lists the targets.

BUILD ?= build
PREFIX ?= /usr/local
MESON ?= /usr/bin/meson
PYTHON = /usr/bin/python3
# A QEMU source tree to build in, instead of Debian's
QEMU_TREE ?=
# Further options, such as -Dqemu_configure=--enable-asan
MESON_ARGS ?=
# Of "make check", for example --suite unit, or a test's name
TESTS ?=

export MESON
mandir = $(DESTDIR)$(PREFIX)/share/man/man1
with_env = . $(abspath $(BUILD))/snap-env.sh &&

.PHONY: all check check-sanitizers demo bench man manual install clean distclean help deps test-deps docs-deps

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD) --quiet

$(BUILD)/build.ninja: | deps
	@$(MESON) setup $(if $(QEMU_TREE),-Dqemu_tree=$(abspath $(QEMU_TREE))) $(MESON_ARGS) $(BUILD)

deps:
	@scripts/install-deps build

test-deps: deps
	@scripts/install-deps test
	@scripts/fetch-emulators

docs-deps: deps
	@scripts/install-deps docs

check: test-deps all
	@scripts/run-tests $(BUILD) $(TESTS)

# In a build of its own
check-sanitizers: test-deps
	@$(MAKE) --no-print-directory all BUILD=$(BUILD)-asan \
	    MESON_ARGS='-Dqemu_configure=--enable-asan,--enable-ubsan $(MESON_ARGS)'
	@TIMEOUT_MULTIPLIER=$${TIMEOUT_MULTIPLIER:-10} \
	    scripts/run-tests $(BUILD)-asan $(TESTS)

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

# The man page needs Sphinx, which nothing else does
install: all
	@if scripts/install-deps --check docs; then scripts/build-man $(BUILD); fi
	install -D -m 755 $(BUILD)/qemu-snap $(DESTDIR)$(PREFIX)/bin/qemu-snap
	@if [ -e $(BUILD)/qemu-snap.1 ]; then set -x; \
	    install -D -m 644 $(BUILD)/qemu-snap.1 $(mandir)/qemu-snap.1; fi

clean:
	rm -rf $(BUILD) $(BUILD)-asan

# What was fetched goes as well, so the next build gets the newest QEMU
distclean: clean
	rm -rf $(addprefix subprojects/, apt emulators guest packagecache qemu .lock)

help:
	@echo 'make            build $(BUILD)/qemu-snap'
	@echo 'make check      ... and run the tests; TESTS="--suite unit" for some of them'
	@echo 'make check-sanitizers'
	@echo '                ... with AddressSanitizer and UndefinedBehaviorSanitizer'
	@echo 'make demo       ... and show it with a Linux guest'
	@echo 'make bench      ... and measure it beside its peers'
	@echo 'make man        build the man page'
	@echo 'make manual     build all of QEMU'"'"'s manual with it, as HTML'
	@echo 'make install    install to PREFIX ($(PREFIX)), below DESTDIR'
	@echo 'make clean      remove $(BUILD) and $(BUILD)-asan'
	@echo 'make distclean  ... and all that was fetched'
	@echo
	@echo 'QEMU_TREE=/path/to/qemu builds in that tree, instead of Debian'"'"'s source'
