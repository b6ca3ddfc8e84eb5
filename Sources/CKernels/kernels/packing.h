// Copies of operands in the order in which the product's innermost loop reads them.

/// Whether numbers are neighbours of those in other rows.
TK_INLINE bool lies_by_columns(const tk_operand *a) { return !a->patches && a->row == 1 && a->column != 1; }

/// `count` floats of whole vectors.
TK_INLINE void round_in_place(float *values, int64_t count) {
    for (int64_t i = 0; i < count; i += TK_WIDTH) store(values + i, round_to_bfloat16(load(values + i)));
}

/// A copy without the call that a small memcpy of unknown size is.
TK_INLINE void copy_floats(float *to, const float *from, int64_t count) {
    if (count >= TK_WIDTH) {
        for (int64_t i = 0; i < count - TK_WIDTH; i += TK_WIDTH) store(to + i, load(from + i));
        store(to + count - TK_WIDTH, load(from + count - TK_WIDTH));    // overlaps the one before
    } else {
        for (int64_t i = 0; i < count; i++) to[i] = from[i];
    }
}

/// Neighbouring values of an operand as floats.
TK_INLINE void copy_values(float *to, const void *from, bool is_rounded, int64_t count) {
    if (is_rounded) widen(from, to, count);
    else copy_floats(to, from, count);
}

TK_INLINE float value_at(const tk_operand *o, int64_t i, int64_t p) {
    const void *element = tk_element(o, i, p);
    return o->is_rounded ? widened(*(const uint16_t *)element) : *(const float *)element;
}

TK_INLINE void fill_zero(float *to, int64_t count) {
    int64_t i = 0;
    for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(to + i, (vfloat)0.0f);
    for (; i < count; i++) to[i] = 0;
}

#if TK_WIDTH == 16
#define TK_LOW_HALVES 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define TK_HIGH_HALVES 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#elif TK_WIDTH == 8
#define TK_LOW_HALVES 0, 8, 1, 9, 2, 10, 3, 11
#define TK_HIGH_HALVES 4, 12, 5, 13, 6, 14, 7, 15
#else
#define TK_LOW_HALVES 0, 4, 1, 5
#define TK_HIGH_HALVES 2, 6, 3, 7
#endif

/// Transposes a square of TK_WIDTH rows. Each round is a perfect shuffle of the whole square, which moves the lowest
/// bit of the column's number into the row's.
TK_INLINE void transpose(vfloat square[TK_WIDTH]) {
#pragma clang loop unroll(full)
    for (int round = 1; round < TK_WIDTH; round *= 2) {
        vfloat shuffled[TK_WIDTH];
#pragma clang loop unroll(full)
        for (int i = 0; i < TK_WIDTH / 2; i++) {
            shuffled[2 * i] = __builtin_shufflevector(square[i], square[i + TK_WIDTH / 2], TK_LOW_HALVES);
            shuffled[2 * i + 1] = __builtin_shufflevector(square[i], square[i + TK_WIDTH / 2], TK_HIGH_HALVES);
        }
#pragma clang loop unroll(full)
        for (int i = 0; i < TK_WIDTH; i++) square[i] = shuffled[i];
    }
}

/// Where a row of a patch matrix lies in the images. Rows are visited in order, so that only the first one divides.
typedef struct {
    int64_t x, y, image;
} patch_place;

TK_INLINE patch_place patch_place_at(const tk_patches *p, int64_t row) {
    const int64_t line = row / p->places_width;
    return (patch_place){row % p->places_width, line % p->places_height, line / p->places_height};
}

TK_INLINE void advance(const tk_patches *p, patch_place *place) {
    if (++place->x < p->places_width) return;
    place->x = 0;
    if (++place->y < p->places_height) return;
    place->y = 0;
    place->image++;
}

/// The coordinate in the image for a kernel offset, or -1 where there is none.
TK_INLINE int64_t image_coordinate(bool is_transposed, int64_t place, int64_t offset, int64_t pad, int64_t stride,
                                   int64_t extent) {
    int64_t i;
    if (is_transposed) {
        i = place + pad - offset;
        if (stride > 1 && i >= 0) {
            const uint32_t quotient = (uint32_t)i / (uint32_t)stride;
            i = quotient * stride == i ? (int64_t)quotient : -1;
        }
    } else {
        i = place * stride - pad + offset;
    }
    return i < extent ? i : -1;
}

/// Copies `count` columns of a row of a patch matrix, beginning at channel `channel` of kernel place (ky, kx); what
/// lies outside the image is zero.
TK_INLINE void gather_patch(const tk_patches *p, patch_place place, int64_t ky, int64_t kx, int64_t channel,
                            int64_t count, float *out) {
    const tk_convolution *c = p->c;
    const float *image = p->image + place.image * p->image_height * p->image_width * p->image_channels;
    // Neighbouring kernel columns are neighbours in the image too: inside it, a whole kernel row is one run.
    const bool joins_columns = c->dilation_width == 1 && p->group_channels == p->image_channels;
    while (count > 0) {
        const int64_t y = image_coordinate(false, place.y, ky * c->dilation_height, c->pad_top,
                                           c->stride_height, p->image_height);
        const int64_t x = image_coordinate(false, place.x, kx * c->dilation_width, c->pad_left,
                                           c->stride_width, p->image_width);
        int64_t columns = 1;
        if (joins_columns && x >= 0 && x + c->kernel_width - kx <= p->image_width) columns = c->kernel_width - kx;
        int64_t run = columns * p->group_channels - channel;
        if (run > count) run = count;
        if (y >= 0 && x >= 0) copy_floats(out, image + (y * p->image_width + x) * p->image_channels + channel, run);
        else fill_zero(out, run);
        out += run;
        count -= run;
        channel = 0;
        kx += columns;
        if (kx == c->kernel_width) {
            kx = 0;
            ky++;
        }
    }
}

/// Rows first_k ..< first_k + ks of patches as panels.
static void pack_patches(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks, float *packed) {
    enum { most = 32 * PANEL };
    const tk_patches *p = b->patches;
    for (int64_t n0 = 0; n0 < n; n0 += most) {
        const int64_t width = n - n0 < most ? n - n0 : most, whole = width / PANEL * PANEL;
        const int64_t last = whole < width ? panel_width(n, n0 + whole) : 0;
        const int64_t column = b->first_column + n0, kernel_place = column / p->group_channels;
        const int64_t ky = kernel_place / p->c->kernel_width, kx = kernel_place % p->c->kernel_width;
        patch_place place = patch_place_at(p, b->first_row + first_k);
        float row[most];
        fill_zero(row + whole, last);
        for (int64_t k = 0; k < ks; k++, advance(p, &place)) {
            gather_patch(p, place, ky, kx, column % p->group_channels, width, row);
            for (int64_t j = 0; j < whole; j += PANEL)
                memcpy(packed + (n0 + j) * ks + k * PANEL, row + j, PANEL * sizeof(float));
            if (last > 0) copy_floats(packed + (n0 + whole) * ks + k * last, row + whole, last);
        }
    }
}

/// `width` columns of an array whose columns lie apart and whose rows are neighbours, as rows that lie `panel` apart.
TK_INLINE void pack_transposed(const float *source, int64_t column, int64_t width, int64_t panel, int64_t ks,
                               float *out) {
    for (int64_t j0 = 0; j0 < width; j0 += TK_WIDTH) {
        const int64_t columns = width - j0 < TK_WIDTH ? width - j0 : TK_WIDTH;
        int64_t k = 0;
        for (; k + TK_WIDTH <= ks; k += TK_WIDTH) {
            vfloat square[TK_WIDTH];
#pragma clang loop unroll(full)
            for (int j = 0; j < TK_WIDTH; j++)
                square[j] = j < columns ? load(source + (j0 + j) * column + k) : (vfloat)0.0f;
            transpose(square);
#pragma clang loop unroll(full)
            for (int i = 0; i < TK_WIDTH; i++) store(out + (k + i) * panel + j0, square[i]);
        }
        for (; k < ks; k++)
            for (int64_t j = j0; j < j0 + columns; j++) out[k * panel + j] = source[j * column + k];
    }
}

/// Columns j ..< j + width of the right operand, rows first_k ..< first_k + ks, as one panel [k][panel] with zeros
/// beyond the last column. Not for patches.
TK_INLINE void pack_panel(const tk_operand *b, int64_t j, int64_t width, int64_t panel, int64_t first_k, int64_t ks,
                          float *out) {
    if (width < panel) fill_zero(out, panel * ks);
    if (b->column == 1) {
        for (int64_t k = 0; k < ks; k++)
            copy_values(out + k * panel, tk_element(b, first_k + k, j), b->is_rounded, width);
    } else if (b->row == 1 && !b->is_rounded) {
        pack_transposed(tk_element(b, first_k, j), b->column, width, panel, ks, out);
    } else {
        for (int64_t i = 0; i < width; i++)
            for (int64_t k = 0; k < ks; k++) out[k * panel + i] = value_at(b, first_k + k, j + i);
    }
}

/// Whether bfloat16 numbers begin where a pair may.
TK_INLINE bool is_aligned(const tk_operand *o) { return (uintptr_t)o->data % sizeof(int32_t) == 0; }

/// Two vectors of bfloat16 numbers in each other's halves of 32 bits.
TK_INLINE vuint pair(ushorts low, ushorts high) {
    return __builtin_convertvector(low, vuint) | __builtin_convertvector(high, vuint) << 16;
}

/// Columns of `ks` rows of bfloat16 numbers, `row` apart, as pairs of rows in lines of whole vectors, `line` apart; zeros
/// beyond the last column, and where there is no second row. Each vector goes to `parts` places, which lie `part` apart:
/// its neighbours follow.
TK_INLINE void interleave_rows(const uint16_t *from, int64_t row, int64_t columns, int64_t ks, const int parts,
                               int64_t part, int64_t line, int32_t *to) {
    enum { ahead = 12, cache_line = 32 };           // rows lie too far apart for the processor to guess the next
    for (int64_t k = 0; k < ks; k += 2, from += 2 * row, to += line) {
        if (k + ahead + 1 < ks)
            for (int64_t j = 0; j < columns; j += cache_line) {
                __builtin_prefetch(from + ahead * row + j);
                __builtin_prefetch(from + (ahead + 1) * row + j);
            }
        for (int64_t j = 0; j < columns; j += TK_WIDTH) {
            const ushorts low = load_halves_up_to(from + j, columns - j);
            const ushorts high = k + 1 == ks ? (ushorts)0 : load_halves_up_to(from + row + j, columns - j);
            const vuint pairs = pair(low, high);
            for (int p = 0; p < parts; p++)
                memcpy(to + (j / TK_WIDTH * parts + p) * part, (const int32_t *)&pairs + p * (TK_WIDTH / parts),
                       sizeof pairs / (size_t)parts);
        }
    }
}

/// Rows first ..< first + rows of the left operand for k in first_k ..< first_k + ks, LEFT_STRIDE apart. Not for
/// floats that lie by columns.
static void pack_rows(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks, float *packed) {
    if (a->patches) {
        const tk_patches *p = a->patches;
        const int64_t column = a->first_column + first_k, kernel_place = column / p->group_channels;
        const int64_t ky = kernel_place / p->c->kernel_width, kx = kernel_place % p->c->kernel_width;
        patch_place place = patch_place_at(p, a->first_row + first);
        for (int64_t i = 0; i < rows; i++, advance(p, &place))
            gather_patch(p, place, ky, kx, column % p->group_channels, ks, packed + i * LEFT_STRIDE);
        return;
    }
    for (int64_t i = 0; i < rows; i++) {
        float *out = packed + i * LEFT_STRIDE;
        if (a->column == 1) copy_values(out, tk_element(a, first + i, first_k), a->is_rounded, ks);
        else for (int64_t k = 0; k < ks; k++) out[k] = value_at(a, first + i, first_k + k);
    }
}

/// Adds the sums of some rows of the left operand. Long sums are added up by blocks, which keeps their error small.
static void add_row_sums(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks, float *sums) {
    enum { most = 64 };
    for (int64_t i0 = 0; i0 < rows; i0 += most) {
        const int64_t count = rows - i0 < most ? rows - i0 : most;
        float block[most] = {0};
        if (a->row == 1) {
            for (int64_t k = 0; k < ks; k++) {
                float widened_line[most];
                const float *line = tk_element(a, first + i0, first_k + k);
                if (a->is_rounded) {
                    widen((const uint16_t *)(const void *)line, widened_line, count);
                    line = widened_line;
                }
                int64_t i = 0;
                for (; i + TK_WIDTH <= count; i += TK_WIDTH) store(block + i, load(block + i) + load(line + i));
                for (; i < count; i++) block[i] += line[i];
            }
        } else {
            for (int64_t i = 0; i < count; i++)
                for (int64_t k = 0; k < ks; k++) block[i] += value_at(a, first + i0 + i, first_k + k);
        }
        for (int64_t i = 0; i < count; i++) sums[i0 + i] += block[i];
    }
}
