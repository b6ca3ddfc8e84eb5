// The tile kernel with tiles that cost nothing: products and loads do nothing, stores write zeros. It takes the place of
// the emulation, so that a machine without tiles shows what the rest of the kernel costs: copying operands, and what
// follows the sums. On tiles both go on side by side: a product takes at least the longer of them, at most their sum.
#include "../../Sources/CKernels/int8.h"
#include "../../Sources/CKernels/table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), \
                             apply_to = function)
#define TK_LEVEL emulated_tiles
#define TK_HAS_MASKS
#define TK_HAS_BFLOAT16
#define TK_WIDTH 16
#include "../../Sources/CKernels/kernels/vector.h"

TK_INLINE void tile_configure(void) {}
TK_INLINE void tile_release(void) {}
TK_INLINE void tile_zero(int tile) { (void)tile; }
TK_INLINE void tile_dot(int sums, int a, int b) { (void)sums, (void)a, (void)b; }
TK_INLINE void tile_dot_int8(int sums, int a, int b) { (void)sums, (void)a, (void)b; }

/// What would be loaded must have been computed.
TK_INLINE void tile_load(int tile, const void *from, int64_t row_bytes) {
    (void)tile;
    __asm__ volatile("" ::"r"(from), "r"(row_bytes) : "memory");
}

TK_INLINE void tile_store(int tile, void *to, int64_t row_bytes) {
    (void)tile;
    for (int i = 0; i < 16; i++) memset((char *)to + i * row_bytes, 0, 64);
}

#include "../../Sources/CKernels/kernels/tiles.h"
#pragma clang attribute pop
