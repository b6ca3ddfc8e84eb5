// The tile kernel on tile registers. Processors that have them also convert to bfloat16.
#if defined(__x86_64__)
#include "../int8.h"
#include "../table.h"
#include <immintrin.h>
#pragma clang attribute push(__attribute__((                                                                           \
    target("amx-tile,amx-bf16,amx-int8,avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,bmi2"))), apply_to = function)
#define TK_LEVEL tiles
#define TK_HAS_MASKS
#define TK_HAS_BFLOAT16
#define TK_WIDTH 16
#include "../kernels/vector.h"

/// Eight tiles of 16 rows of 64 bytes.
TK_INLINE void tile_configure(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } configuration = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        configuration.row_bytes[i] = 64;
        configuration.rows[i] = 16;
    }
    _tile_loadconfig(&configuration);
}

/// A configured thread saves eight kilobytes at each context switch.
#define tile_release() _tile_release()
#define tile_zero(tile) _tile_zero(tile)
#define tile_load(tile, from, row_bytes) _tile_loadd(tile, from, row_bytes)
#define tile_store(tile, to, row_bytes) _tile_stored(tile, to, row_bytes)
#define tile_dot(sums, a, b) _tile_dpbf16ps(sums, a, b)
#define tile_dot_int8(sums, a, b) _tile_dpbusd(sums, a, b)

#include "../kernels/tiles.h"
#pragma clang attribute pop
#endif
