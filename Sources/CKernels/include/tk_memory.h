// Buffers for tensors: 64-byte aligned, recycled by size so that a training step does not ask the system for pages.
#pragma once
#include <stddef.h>
#include <stdint.h>

/// Memory for `count` floats, uninitialised. Aborts with a message when the system has none left.
float *tk_allocate(int64_t count);
/// The same, all zeros (untouched pages cost nothing until they are used).
float *tk_allocate_zeroed(int64_t count);
/// Gives back memory that tk_allocate returned for this count.
void tk_release(float *memory, int64_t count);
/// Returns recycled buffers to the system.
void tk_trim(void);
/// Bytes handed out now, and the most there have been.
int64_t tk_bytes_in_use(void);
int64_t tk_peak_bytes(void);
/// How many buffers have been handed out so far.
int64_t tk_allocation_count(void);
