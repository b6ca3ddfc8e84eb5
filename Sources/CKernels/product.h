// What products are made of: operands that are strided arrays or patches of an image, and blocks of them.
#pragma once
#include "CKernels.h"

/// The patches of an image as the rows of a matrix: row = output place, column = (kernel row, kernel column, channel).
/// With `is_transposed_convolution` (depthwise only) the image is the gradient of a convolution's output, and places
/// are those of its input.
typedef struct {
    const tk_convolution *c;
    const float *image;         // the first channel of the group
    int64_t image_height, image_width, image_channels;      // as laid out in memory
    int64_t group_channels;     // channels of a patch
    int64_t places_height, places_width;                    // rows of the matrix an image has
    bool is_transposed_convolution;
} tk_patches;

/// A matrix: element (i, p) at data[i * row + p * column], or patches.
typedef struct {
    const float *data;
    bool is_rounded;                                        // data holds bfloat16 numbers; then row and column count those
    bool ends_in_zeros;                                     // that follow each row up to a multiple of 32
    int64_t row, column;
    const tk_patches *patches;
    int64_t first_row, first_column;                        // offsets into patches
} tk_operand;

/// The bytes of so many floats, or bfloat16 numbers.
static inline int64_t tk_bytes(bool is_rounded, int64_t count) {
    return count * (int64_t)(is_rounded ? sizeof(uint16_t) : sizeof(float));
}

/// Where element (i, p) of an operand that is not patches lies.
static inline const void *tk_element(const tk_operand *o, int64_t i, int64_t p) {
    return (const char *)o->data + tk_bytes(o->is_rounded, i * o->row + p * o->column);
}

/// c = epilogue(a x b) for one thread. b may be packed beforehand (pack_right for each k block), as is cheaper when
/// many blocks share it.
typedef struct {
    int64_t m, n, k;
    tk_operand a, b;
    const float *packed_b;                                  // or NULL; of packed_columns, from packed_first on
    int64_t packed_columns, packed_first;
    float *c;
    int64_t c_row;
    bool c_is_rounded;                                      // c gets bfloat16 numbers, which c_row counts; not with
                                                            // accumulate
    float alpha;
    bool accumulate;
    const float *bias;
    tk_activation activation;
    float *preactivation;
    uint16_t *rounded_preactivation;
    const float *residual;
    int64_t residual_row;
    float *row_sums;                                        // added to; not for patches
    tk_precision precision;
} tk_block;

/// Whether more than the sums goes into the result.
static inline bool tk_has_epilogue(const tk_block *t) {
    return t->bias || t->activation != TK_IDENTITY || t->preactivation ||
           t->rounded_preactivation || t->residual;
}

enum {
    TK_K_BLOCK = 512,           // the longest range of k whose packed operands fit the caches
    TK_LEFT_ROWS = 48,          // the most rows of a left operand that are copied at a time
    TK_LEFT_SCRATCH = 80 * (TK_K_BLOCK + 32),   // floats: those rows, or for tiles 32 rows and their three parts
    TK_TILE_ROWS = 32,
    TK_COLUMN_STEP = 96,        // a whole number of panels of every kernel: where a packed operand may be divided
};

/// The ranges of k that a product takes at a time: about equal, and whole steps of the tile kernel.
static inline int64_t tk_k_block(int64_t k) {
    const int64_t blocks = (k + TK_K_BLOCK - 1) / TK_K_BLOCK;
    return blocks > 1 ? ((k + blocks - 1) / blocks + 31) / 32 * 32 : k;
}

/// The kernels of products: one instance for each instruction set, and for each precision of the tile kernel.
struct tk_products {
#define X(result, name, arguments) result (*name) arguments;
#include "kernels/product.def"
#undef X
};

extern const struct tk_products tk_products_portable, tk_products_avx2, tk_products_avx512;
extern const struct tk_products tk_products_int16_portable, tk_products_int16_avx2, tk_products_int16_avx512,
    tk_products_int16_vnni;
extern const struct tk_products tk_products_bfloat16;
extern const struct tk_products tk_products_bytes, tk_products_bytes_bfloat16;
/// For TK_BFLOAT16, TK_SPLIT3 and TK_SPLIT6.
extern const struct tk_products tk_products_tiles[3], tk_products_emulated_tiles[3];

/// The kernels for a precision at the current level.
const struct tk_products *tk_products(tk_precision precision);

/// Whether they are of tiles, which take TK_TILE_ROWS rows of the left operand at a time.
bool tk_uses_tiles(tk_precision precision);

/// A product of operands of any kind, on all threads.
void tk_multiply_block(const tk_block *block);

/// Scratch floats that product_block needs for a block: rows of the left operand, then the right one unless it is packed
/// already, then sums that are not complete, where the result has no room for floats.
int64_t tk_block_scratch(const tk_block *block);

static inline int64_t tk_partial_sums(const tk_block *t) {
    return t->c_is_rounded && t->k > TK_K_BLOCK ? t->m * t->n : 0;
}

/// Scratch memory of the calling thread, at least `count` floats; valid until its next call.
float *tk_scratch(int64_t count);

/// The same, but other memory: for what the tasks of the calling thread read, and is valid until its next call.
float *tk_shared_scratch(int64_t count);
