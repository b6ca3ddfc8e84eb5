// Matrix products: c = a x b by blocks, after Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008).
//
// The right operand is packed into panels of PANEL columns, [k block][panel][k][PANEL], so that the innermost loop reads
// it linearly; rows of the left operand are read where they are if their columns are contiguous, else from a packed copy.
// The innermost loop keeps ROWS x COLUMNS vectors of sums in registers.

#if TK_WIDTH == 16
enum { ROWS = 12, COLUMNS = 2 };        // 24 sums, 2 columns of b, and broadcasts from memory: 26 of 32 registers
#else
enum { ROWS = 6, COLUMNS = 2 };         // 12 sums of 16 registers
#endif
enum {
    PANEL = COLUMNS * TK_WIDTH,
    K_BLOCK = 256,                      // a panel of b, K_BLOCK x PANEL, stays in the first cache
    M_BLOCK = 8 * 12,                   // rows of a packed at a time
};

TK_INLINE float round_to_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) bits |= 0x400000;    // NaN stays NaN
    else bits += 0x7FFF + (bits >> 16 & 1);
    bits &= 0xFFFF0000;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static int64_t TK_KERNEL(packed_right_size)(int64_t n, int64_t k) { return (n + PANEL - 1) / PANEL * PANEL * k; }

/// Copies `count` columns of row `row` of a patch matrix, from `first` on; what lies outside the image is zero.
TK_INLINE void gather_patch_row(const tk_patches *p, int64_t row, int64_t first, int64_t count, float *out) {
    const tk_convolution *c = p->c;
    const int64_t x = row % p->places_width, rest = row / p->places_width;
    const int64_t y = rest % p->places_height, image = rest / p->places_height;
    const float *base = p->image + image * p->image_height * p->image_width * p->image_channels;
    int64_t channel = first % p->group_channels, place = first / p->group_channels;
    while (count > 0) {
        const int64_t ky = place / c->kernel_width, kx = place % c->kernel_width;
        const int64_t run = p->group_channels - channel < count ? p->group_channels - channel : count;
        int64_t iy, ix;
        bool inside;
        if (p->is_transposed_convolution) {
            iy = y + c->pad_top - ky * c->dilation_height;
            ix = x + c->pad_left - kx * c->dilation_width;
            inside = iy >= 0 && ix >= 0 && iy % c->stride_height == 0 && ix % c->stride_width == 0;
            iy /= c->stride_height;
            ix /= c->stride_width;
        } else {
            iy = y * c->stride_height - c->pad_top + ky * c->dilation_height;
            ix = x * c->stride_width - c->pad_left + kx * c->dilation_width;
            inside = iy >= 0 && ix >= 0;
        }
        if (inside && iy < p->image_height && ix < p->image_width) {
            const float *source = base + (iy * p->image_width + ix) * p->image_channels + channel;
            if (run >= 8) memcpy(out, source, (size_t)run * sizeof(float));
            else for (int64_t i = 0; i < run; i++) out[i] = source[i];
        } else {
            for (int64_t i = 0; i < run; i++) out[i] = 0;
        }
        out += run;
        count -= run;
        channel = 0;
        place++;
    }
}

/// Rows first .. first + ks of the right operand as panels, zero-padded to a multiple of PANEL columns.
static void TK_KERNEL(pack_right)(const tk_operand *b, int64_t n, int64_t first_k, int64_t ks, tk_precision precision,
                                  float *packed) {
    const int64_t panels = (n + PANEL - 1) / PANEL;
    if (b->patches) {
        float row[PANEL * 64];
        for (int64_t n0 = 0; n0 < n; n0 += PANEL * 64) {
            const int64_t width = n - n0 < PANEL * 64 ? n - n0 : PANEL * 64;
            for (int64_t k = 0; k < ks; k++) {
                gather_patch_row(b->patches, b->first_row + first_k + k, b->first_column + n0, width, row);
                for (int64_t j = width; j % PANEL; j++) row[j] = 0;
                for (int64_t j = 0; j < width; j += PANEL)
                    memcpy(packed + (n0 + j) * ks + k * PANEL, row + j, PANEL * sizeof(float));
            }
        }
    } else {
        for (int64_t panel = 0; panel < panels; panel++) {
            float *out = packed + panel * PANEL * ks;
            const int64_t width = n - panel * PANEL < PANEL ? n - panel * PANEL : PANEL;
            const float *source = b->data + first_k * b->row + panel * PANEL * b->column;
            if (width < PANEL) memset(out, 0, (size_t)(PANEL * ks) * sizeof(float));
            if (b->column == 1) {
                for (int64_t k = 0; k < ks; k++)
                    memcpy(out + k * PANEL, source + k * b->row, (size_t)width * sizeof(float));
            } else {
                // Columns are far apart: take four rows of each at a time, so that every line read is used.
                int64_t k = 0;
                for (; k + 4 <= ks; k += 4)
                    for (int64_t j = 0; j < width; j++) {
                        const float *s = source + k * b->row + j * b->column;
                        float *o = out + k * PANEL + j;
                        o[0] = s[0];
                        o[PANEL] = s[b->row];
                        o[2 * PANEL] = s[2 * b->row];
                        o[3 * PANEL] = s[3 * b->row];
                    }
                for (; k < ks; k++)
                    for (int64_t j = 0; j < width; j++) out[k * PANEL + j] = source[k * b->row + j * b->column];
            }
        }
    }
    if (precision == TK_BFLOAT16)
        for (int64_t i = 0; i < panels * PANEL * ks; i++) packed[i] = round_to_bfloat16(packed[i]);
}

/// `rows` rows of the left operand for multiply_add, zero-padded to a multiple of ROWS: rows of `ks` columns if its
/// columns are contiguous (or patches), else [k][ROWS] for each group of ROWS rows.
TK_INLINE void pack_left(const tk_operand *a, int64_t first, int64_t rows, int64_t first_k, int64_t ks,
                         tk_precision precision, float *packed) {
    const int64_t padded = (rows + ROWS - 1) / ROWS * ROWS;
    if (a->patches || a->column == 1) {
        for (int64_t i = 0; i < rows; i++) {
            float *out = packed + i * ks;
            if (a->patches)
                gather_patch_row(a->patches, a->first_row + first + i, a->first_column + first_k, ks, out);
            else memcpy(out, a->data + (first + i) * a->row + first_k, (size_t)ks * sizeof(float));
        }
        memset(packed + rows * ks, 0, (size_t)((padded - rows) * ks) * sizeof(float));
    } else {
        const float *source = a->data + first * a->row + first_k * a->column;
        if (rows < padded) memset(packed + (padded - ROWS) * ks, 0, (size_t)(ROWS * ks) * sizeof(float));
        const int64_t whole = a->row == 1 ? rows / ROWS * ROWS : 0;
        for (int64_t k = 0; k < ks; k++, source += a->column) {
            for (int64_t i = 0; i < whole; i += ROWS) memcpy(packed + i * ks + k * ROWS, source + i, ROWS * sizeof(float));
            for (int64_t i = whole; i < rows; i++)
                packed[i / ROWS * ROWS * ks + k * ROWS + i % ROWS] = source[i * a->row];
        }
    }
    if (precision == TK_BFLOAT16)
        for (int64_t i = 0; i < padded * ks; i++) packed[i] = round_to_bfloat16(packed[i]);
}

/// Adds the product of ROWS rows of a and one panel of b to the sums.
TK_INLINE void multiply_add(const float *a, int64_t a_row, int64_t a_column, const float *b, int64_t ks,
                            vfloat sums[ROWS][COLUMNS]) {
    for (int64_t k = 0; k < ks; k++, a += a_column, b += PANEL) {
        vfloat right[COLUMNS];
#pragma clang loop unroll(full)
        for (int j = 0; j < COLUMNS; j++) right[j] = load(b + j * TK_WIDTH);
#pragma clang loop unroll(full)
        for (int i = 0; i < ROWS; i++) {
            const vfloat left = a[i * a_row];
#pragma clang loop unroll(full)
            for (int j = 0; j < COLUMNS; j++) sums[i][j] = fma_(left, right[j], sums[i][j]);
        }
    }
}

/// What comes after the last sum, on up to PANEL columns of a row.
TK_INLINE void finish_row(const tk_block *t, int64_t row, int64_t column, int64_t width, float *values) {
    for (int64_t j = 0; j < width; j += TK_WIDTH) {
        const int64_t lanes = width - j < TK_WIDTH ? width - j : TK_WIDTH;
        vfloat v = load(values + j);
        if (t->bias) v += lanes == TK_WIDTH ? load(t->bias + column + j) : load_first(t->bias + column + j, lanes);
        float *place = t->preactivation ? t->preactivation + row * t->c_row + column + j : NULL;
        if (place && lanes == TK_WIDTH) store(place, v);
        else if (place) store_first(place, v, lanes);
        if (t->activation != TK_IDENTITY) v = activate(t->activation, v);
        if (t->residual) {
            const float *source = t->residual + row * t->residual_row + column + j;
            v += lanes == TK_WIDTH ? load(source) : load_first(source, lanes);
        }
        if (lanes == TK_WIDTH) store(t->c + row * t->c_row + column + j, v);
        else store_first(t->c + row * t->c_row + column + j, v, lanes);
    }
}

static void TK_KERNEL(product_block)(const tk_block *t, float *scratch) {
    float *packed_left = scratch, *packed_right = scratch + (M_BLOCK + ROWS) * K_BLOCK;
    const bool has_rows = t->a.patches || t->a.column == 1;             // packed rows stay rows
    const bool reads_in_place = !t->a.patches && t->a.column == 1 && t->precision == TK_FLOAT32;
    const bool has_epilogue = t->bias || t->activation != TK_IDENTITY || t->residual || t->preactivation;
    const int64_t panels = (t->n + PANEL - 1) / PANEL;
    if (t->k == 0) {
        float zeros[PANEL] = {0};
        if (!t->accumulate)
            for (int64_t i = 0; i < t->m; i++)
                for (int64_t j = 0; j < t->n; j += PANEL)
                    finish_row(t, i, j, t->n - j < PANEL ? t->n - j : PANEL, zeros);
        return;
    }
    for (int64_t k0 = 0; k0 < t->k; k0 += K_BLOCK) {
        const int64_t ks = t->k - k0 < K_BLOCK ? t->k - k0 : K_BLOCK;
        const bool is_first = k0 == 0 && !t->accumulate, is_last = k0 + ks == t->k;
        const float *right = t->packed_b ? t->packed_b + panels * PANEL * k0 : packed_right;
        if (!t->packed_b) TK_KERNEL(pack_right)(&t->b, t->n, k0, ks, t->precision, packed_right);
        for (int64_t m0 = 0; m0 < t->m; m0 += M_BLOCK) {
            const int64_t ms = t->m - m0 < M_BLOCK ? t->m - m0 : M_BLOCK;
            const int64_t direct = reads_in_place ? ms / ROWS * ROWS : 0;   // whole groups need no copy
            if (direct < ms) pack_left(&t->a, m0 + direct, ms - direct, k0, ks, t->precision, packed_left);
            for (int64_t panel = 0; panel < panels; panel++) {
                const float *b = right + panel * PANEL * ks;
                const int64_t column = panel * PANEL, width = t->n - column < PANEL ? t->n - column : PANEL;
                for (int64_t i = 0; i < ms; i += ROWS) {
                    const int64_t rows = ms - i < ROWS ? ms - i : ROWS;
                    vfloat sums[ROWS][COLUMNS];
#pragma clang loop unroll(full)
                    for (int r = 0; r < ROWS; r++)
#pragma clang loop unroll(full)
                        for (int j = 0; j < COLUMNS; j++) sums[r][j] = 0;
                    if (i < direct)
                        multiply_add(t->a.data + (m0 + i) * t->a.row + k0, t->a.row, 1, b, ks, sums);
                    else if (has_rows)
                        multiply_add(packed_left + (i - direct) * ks, ks, 1, b, ks, sums);
                    else
                        multiply_add(packed_left + (i - direct) * ks, 1, ROWS, b, ks, sums);
                    float *c = t->c + (m0 + i) * t->c_row + column;
                    if (rows == ROWS && width == PANEL && !(is_last && has_epilogue)) {
#pragma clang loop unroll(full)
                        for (int r = 0; r < ROWS; r++)
#pragma clang loop unroll(full)
                            for (int j = 0; j < COLUMNS; j++) {
                                float *place = c + r * t->c_row + j * TK_WIDTH;
                                const vfloat v = t->alpha * sums[r][j];
                                store(place, is_first ? v : v + load(place));
                            }
                        continue;
                    }
                    float tile[ROWS * PANEL];
#pragma clang loop unroll(full)
                    for (int r = 0; r < ROWS; r++)
#pragma clang loop unroll(full)
                        for (int j = 0; j < COLUMNS; j++) store(tile + r * PANEL + j * TK_WIDTH, t->alpha * sums[r][j]);
                    for (int64_t r = 0; r < rows; r++) {
                        float *values = tile + r * PANEL, *place = c + r * t->c_row;
                        if (!is_first) for (int64_t j = 0; j < width; j++) values[j] += place[j];
                        if (is_last && has_epilogue) finish_row(t, m0 + i + r, column, width, values);
                        else memcpy(place, values, (size_t)width * sizeof(float));
                    }
                }
            }
        }
    }
}
