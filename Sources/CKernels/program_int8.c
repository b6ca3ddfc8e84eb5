// Steps of a program whose products are of 8-bit integers.
#include "int8.h"
#include "program.h"
#include "table.h"
#include <string.h>

enum { CHUNK = 96 };                            // rows whose codes stay in the second cache

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// The codes of one patch of an image.
static void quantize_patch(const tk_convolution *c, const float *image, int64_t place, const tk_quantizer *quantizer,
                           uint8_t *codes) {
    const int64_t top = place / c->out_width * c->stride_height - c->pad_top;
    const int64_t left = place % c->out_width * c->stride_width - c->pad_left;
    for (int64_t i = 0; i < c->kernel_height; i++)
        for (int64_t j = 0; j < c->kernel_width; j++, codes += c->in_channels) {
            const int64_t y = top + i * c->dilation_height, x = left + j * c->dilation_width;
            if (y < 0 || y >= c->height || x < 0 || x >= c->width)
                memset(codes, TK_INT8_OFFSET, (size_t)c->in_channels);
            else tk_int8_kernels()->quantize_range(image + (y * c->width + x) * c->in_channels, c->in_channels, quantizer,
                                                   codes);
        }
}

/// The codes of some rows of the left operand; `normal` has room for one of them.
static void quantize_rows(const tk_product_step *s, const tk_frame *f, int64_t matrix, int64_t row, int64_t count,
                          float *normal, uint8_t *codes) {
    const int64_t code_row = tk_int8_row(s->depth);
    if (s->is_convolution) {
        const tk_convolution *c = &s->convolution;
        const int64_t places = c->out_height * c->out_width;
        for (int64_t i = 0; i < count; i++)
            quantize_patch(c, tk_at(f, &s->a, matrix + (row + i) / places), (row + i) % places, &s->a_quantizer,
                           codes + i * code_row);
        return;
    }
    const float *a = tk_row_at(f, &s->a, matrix, row, s->rows, s->a_row);
    const int64_t a_row = s->rows == 1 ? s->a.image : s->a_row;
    for (int64_t i = 0; i < count; i++) {
        const float *x = a + i * a_row;
        if (s->has_norm) {
            tk_kernels()->layer_norm_rows(x, 0, 1, s->norm_weight, s->norm_bias, s->epsilon, normal, 0, NULL, NULL,
                                          s->depth);
            x = normal;
        }
        tk_int8_kernels()->quantize_range(x, s->depth, &s->a_quantizer, codes + i * code_row);
    }
}

void tk_run_int8_product(const tk_product_step *s, const tk_frame *f, int64_t part) {
    const tk_product_grid g = tk_grid_of(s, f);
    const int64_t matrix = part / (g.row_parts * g.column_parts), row = part % g.row_parts * g.part_rows;
    const int64_t column = part / g.row_parts % g.column_parts * g.part_columns;
    const int64_t columns = least(s->columns - column, g.part_columns), end = least(g.rows, row + g.part_rows);
    const int64_t normal_count = (s->depth + 15) / 16 * 16;
    float *normal = tk_scratch(normal_count + (CHUNK * tk_int8_row(s->depth) + 3) / 4);
    tk_int8_block t = {
        .scales = s->scales + column, .quantizer = &s->c_quantizer,
        .end = {.bias = s->bias ? s->bias + column : NULL, .activation = s->activation},
    };
    tk_int8_set_columns(&t, s->packed, s->columns, s->depth, column, columns);
    for (int64_t first = row; first < end; first += CHUNK) {
        t.rows = least(end - first, CHUNK);
        if (s->a_is_codes) {
            t.a = (const uint8_t *)tk_row_at(f, &s->a, matrix, first, s->rows, s->a_row);
            t.a_row = 4 * (s->rows == 1 ? s->a.image : s->a_row);
        } else {
            uint8_t *codes = (uint8_t *)(normal + normal_count);
            quantize_rows(s, f, matrix, first, t.rows, normal, codes);
            t.a = codes;
            t.a_row = tk_int8_row(s->depth);
        }
        float *c = tk_row_at(f, &s->c, matrix, first, s->rows, s->c_row);
        t.end.c_row = s->rows == 1 ? s->c.image : s->c_row;
        if (s->c_is_codes) {
            t.codes = (uint8_t *)c + column;
            t.codes_row = 4 * t.end.c_row;
        } else {
            t.end.c = c + column;
        }
        if (s->has_residual) {
            t.end.residual = tk_row_at(f, &s->residual, matrix, first, s->rows, s->residual_row) + column;
            t.end.residual_row = s->rows == 1 ? s->residual.image : s->residual_row;
        }
        tk_int8_kernels()->multiply_int8(&t);
    }
}

void tk_run_int8_attention(const tk_int8_attention_step *s, const tk_frame *f) {
    tk_int8_attention t = s->shape;
    for (int64_t image = 0; image < f->count; image++) {
        t.attention.q = tk_at(f, &s->q, image);
        t.attention.k = tk_at(f, &s->k, image);
        t.attention.v = tk_at(f, &s->v, image);
        t.attention.out = tk_at(f, &s->out, image);
        t.attention.bias = s->has_bias ? tk_at(f, &s->bias, image) : NULL;
        if (f->threads == 1) tk_int8_attention_heads(&t);
        else tk_int8_attention_forward(&t);
    }
}
