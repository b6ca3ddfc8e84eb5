// The tile kernel on an emulation of the tile registers, for tests.
#include "../int8.h"
#include "../table.h"
// Vectors wider than the processor's pass between inlined functions only, where no calling convention applies.
#pragma clang diagnostic ignored "-Wpsabi"
#define TK_LEVEL emulated_tiles
#define TK_WIDTH 16
#include "../kernels/vector.h"

/// Each register as 16 rows of 64 bytes.
static _Thread_local uint32_t tiles[8][16][16];

TK_INLINE void tile_configure(void) { memset(tiles, 0xFF, sizeof tiles); }
TK_INLINE void tile_release(void) {}
TK_INLINE void tile_zero(int tile) { memset(tiles[tile], 0, sizeof tiles[tile]); }

TK_INLINE void tile_load(int tile, const void *from, int64_t row_bytes) {
    for (int i = 0; i < 16; i++) memcpy(tiles[tile][i], (const char *)from + i * row_bytes, 64);
}

TK_INLINE void tile_store(int tile, void *to, int64_t row_bytes) {
    for (int i = 0; i < 16; i++) memcpy((char *)to + i * row_bytes, tiles[tile][i], 64);
}

TK_INLINE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

TK_INLINE void tile_dot(int sums, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++) {
            float sum = float_of(tiles[sums][i][j]);
            for (int k = 0; k < 16; k++) {
                const uint32_t x = tiles[a][i][k], y = tiles[b][k][j];
                sum += float_of(x << 16) * float_of(y << 16);
                sum += float_of(x & 0xFFFF0000) * float_of(y & 0xFFFF0000);
            }
            memcpy(&tiles[sums][i][j], &sum, sizeof sum);
        }
}

TK_INLINE void tile_dot_int8(int sums, int a, int b) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 16; j++)
            for (int k = 0; k < 16; k++) {
                uint8_t x[4];
                int8_t y[4];
                memcpy(x, &tiles[a][i][k], 4);
                memcpy(y, &tiles[b][k][j], 4);
                for (int q = 0; q < 4; q++) tiles[sums][i][j] += (uint32_t)(x[q] * y[q]);
            }
}

#include "../kernels/tiles.h"
