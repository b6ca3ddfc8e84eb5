// What libFuzzer offers to programs that bring their own `main`.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Reads libFuzzer's flags and calls `read` with one input after the other. Does not return unless it is done.
int LLVMFuzzerRunDriver(int *argc, char ***argv, int (*read)(const uint8_t *bytes, size_t count));
