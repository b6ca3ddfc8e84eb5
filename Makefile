# make demo   everything from nothing to a trained model that names what is in a picture (about 10 minutes)
# make test   builds and runs every test
# make fuzz   damaged files in every format, for FUZZ_SECONDS a format, under the address sanitizer
# make libfuzz  the same formats under libFuzzer, which follows the code that an input reaches (Fuzz/README.md)
# make sanitize  the kernels and the pool under the address, undefined-behaviour and thread sanitizers
# make lint   the style that continuous integration asks for

SHELL := /bin/bash
PACKAGES := libjpeg62-turbo-dev libpng-dev libwebp-dev zlib1g-dev dataset-fashion-mnist
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)
RUN := runs/demo
FUZZ_SECONDS := 60
FUZZ_SEED := 1
FUZZ_RUNS := 2000000

.PHONY: demo test fuzz libfuzz sanitize lint build setup clean

# Installs Debian packages only if one is missing.
setup:
	@dpkg -s $(PACKAGES) >/dev/null 2>&1 \
		|| { $(SUDO) apt-get update -q && $(SUDO) apt-get install -y -q $(PACKAGES); }

# With Swift's libraries inside: it starts in half the time, and runs where Swift is not installed.
build: setup
	swift build -c release --product tessera --static-swift-stdlib -Xswiftc -use-ld=lld

demo: build
	@rm -rf $(RUN)
	bash Examples/demo.sh .build/release/tessera $(RUN)

# In release: the kernels are vector code, and a debug build of it is 50 times slower. One test after the other: some
# choose the instruction set and the number of threads, which are the process's.
# What failed is said once more at the end, above the summary.
test: setup
	swift build -c release --build-tests -Xswiftc -enable-testing
	@swift test -c release --skip-build -Xswiftc -enable-testing --no-parallel 2>&1 | tee .build/test.log; \
		status=$${PIPESTATUS[0]}; [ $$status = 0 ] || { echo "What failed:"; grep -a "^✘" .build/test.log; }; exit $$status

# Swift under the address sanitizer; C also under the one for undefined behaviour.
FUZZ_BUILD := -c release --scratch-path .build-fuzz -Xswiftc -enable-testing --sanitize=address \
	-Xcc -fsanitize=undefined -Xcc -fno-sanitize-recover=undefined

fuzz: setup
	swift build --build-tests $(FUZZ_BUILD)
	ASAN_OPTIONS=detect_leaks=0 TESSERA_FUZZ_SECONDS=$(FUZZ_SECONDS) TESSERA_FUZZ_SEED=$(FUZZ_SEED) \
		swift test --skip-build $(FUZZ_BUILD) --no-parallel --filter FuzzTests

libfuzz: setup
	cd Fuzz && swift build -c release --scratch-path ../.build-libfuzz --product Fuzz \
		-Xswiftc -sanitize=fuzzer,address -Xswiftc -enable-testing \
		-Xcc -fsanitize=fuzzer-no-link,address -Xswiftc -use-ld=lld
	RUNS=$(FUZZ_RUNS) SECONDS_EACH=$(FUZZ_SECONDS) Fuzz/run.sh $(FORMATS)

KERNELS := $(wildcard Sources/CKernels/*.c Sources/CKernels/levels/*.c)
SANITIZED := clang -g -O1 -std=gnu11 -D_GNU_SOURCE -ISources/CKernels/include Tests/Sanitizers/kernels.c $(KERNELS) \
	-lm -lpthread
# Swift's thread sanitizer knows Dispatch and wants it linked.
SWIFT_LIBRARIES = $(dir $(realpath $(shell which swift)))../lib/swift/linux

sanitize:
	@mkdir -p .build
	$(SANITIZED) -fsanitize=address,undefined -fno-sanitize-recover=all -o .build/sanitize-address
	.build/sanitize-address
	$(SANITIZED) -fsanitize=thread -L$(SWIFT_LIBRARIES) -Wl,-rpath,$(SWIFT_LIBRARIES) -ldispatch -lBlocksRuntime \
		-o .build/sanitize-thread
	.build/sanitize-thread

lint:
	swift format lint --strict --recursive --parallel Package.swift Sources Tests Examples

clean:
	rm -rf .build runs
