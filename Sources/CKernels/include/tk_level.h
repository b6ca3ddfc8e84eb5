// Instruction sets. One is chosen when the process starts: the best that the processor has, or the one that the
// environment variable TESSERA_ISA names (portable, avx2, avx512, amx).
#pragma once
#include <stdbool.h>

typedef enum { TK_PORTABLE, TK_AVX2, TK_AVX512, TK_AMX } tk_level;

tk_level tk_current_level(void);
bool tk_level_is_supported(tk_level level);
const char *tk_level_name(tk_level level);

/// Changes the level (for tests and benchmarks). False, and no change, if this processor lacks it.
bool tk_select_level(tk_level level);

/// For tests on any machine: products of bfloat16 and of 8-bit integers run the tile kernels on an emulation of the
/// tile registers.
void tk_emulate_tiles(bool on);

/// Whether one instruction at the current level multiplies and adds 8-bit and 16-bit integers (VNNI).
bool tk_has_vnni(void);

/// Whether instructions at the current level multiply bfloat16 numbers, on tiles or on vectors.
bool tk_has_bfloat16(void);

/// For tests on a processor that has them: AVX-512 does without VNNI and without bfloat16.
void tk_avoid_extensions(bool on);
