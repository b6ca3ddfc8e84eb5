// The steps of a program: how each is divided into parts, and how a part is computed.
#include "product.h"
#include "program.h"
#include "table.h"
#include <string.h>

enum {
    ROW_STEP = 4,                               // of a product's parts on vectors: few rows of its last one are idle
    SECOND_CACHE_FLOATS = 160 << 10,            // of a packed weight that stays there while rows go by
    NORM_ROWS = 96,                             // normalised at a time, to stay near
    PIECE = 1 << 12,                            // of elementwise work
};

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t greatest(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t quotient_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

float *tk_at(const tk_frame *f, const tk_place *p, int64_t image) {
    switch (p->space) {
    case TK_ARENA: return f->arena + p->buffer * f->capacity + p->offset + image * p->image;
    case TK_CONSTANT: return (float *)p->constant + p->offset + image * p->image;
    case TK_INPUT: return (float *)f->input + p->offset + (f->first + image) * p->image;
    case TK_OUTPUT: return f->outputs[p->output] + p->offset + (f->first + image) * p->image;
    }
    return NULL;
}

/// The rows of a step spread evenly over parts of at most `most` rows.
static int64_t even(int64_t rows, int64_t most) {
    const int64_t parts = greatest(1, quotient_up(rows, most));
    return quotient_up(rows, parts);
}

/// Rows of an image that begin where those of the image before end, or one row an image.
static bool joins(const tk_place *p, int64_t rows, int64_t row) { return rows == 1 || p->image == rows * row; }

static int64_t norm_rows(const tk_product_step *s) {
    const bool weight_stays = s->columns * s->depth <= SECOND_CACHE_FLOATS;
    return weight_stays ? NORM_ROWS : greatest(NORM_ROWS, SECOND_CACHE_FLOATS / s->depth);
}

static int64_t row_step(const tk_product_step *s) {
    return !s->is_quantized && tk_uses_tiles(s->precision) ? TK_TILE_ROWS : ROW_STEP;
}

/// The division among `threads` whose slowest thread is done first. A part costs its products and, for each of its
/// rows, copying or normalising them; the unit is a step of the innermost loop.
static void divide(const tk_product_step *s, int64_t threads, tk_product_grid *g) {
    const int64_t step = row_step(s), row_steps = quotient_up(g->rows, step);
    const int64_t column_steps = quotient_up(s->columns, TK_COLUMN_STEP), most = 4 * threads;
    const int64_t row_cost = !s->has_norm ? 1 : step == TK_TILE_ROWS ? 10 : 2;      // tiles leave less to products
    int64_t best = INT64_MAX;
    for (int64_t columns = 1; columns <= least(column_steps, most); columns++)
        for (int64_t rows = 1; rows <= least(row_steps, most); rows++) {
            const int64_t part_rows = quotient_up(row_steps, rows), part_columns = quotient_up(column_steps, columns);
            const int64_t rounds = quotient_up(rows * columns * g->matrices, threads);
            const int64_t cost = rounds * (32 + part_rows * (part_columns * 6 + row_cost));
            if (cost >= best) continue;
            best = cost;
            g->part_rows = part_rows * step;
            g->part_columns = part_columns * TK_COLUMN_STEP;
        }
}

tk_product_grid tk_grid_of(const tk_product_step *s, const tk_frame *f) {
    const bool a_joins = s->is_convolution ? s->a.image == s->convolution.height * s->a_row
                                           : joins(&s->a, s->rows, s->a_row);
    const bool is_one = a_joins && joins(&s->c, s->rows, s->c_row)
                     && (!s->has_residual || joins(&s->residual, s->rows, s->residual_row));
    tk_product_grid g = {.matrices = is_one ? 1 : f->count, .rows = is_one ? s->rows * f->count : s->rows};
    g.part_rows = g.rows;
    g.part_columns = s->columns;
    if (f->threads > 1) divide(s, f->threads, &g);
    else if (s->has_norm) g.part_rows = quotient_up(even(g.rows, norm_rows(s)), row_step(s)) * row_step(s);
    g.row_parts = greatest(1, quotient_up(g.rows, g.part_rows));
    g.column_parts = greatest(1, quotient_up(s->columns, g.part_columns));
    return g;
}

float *tk_row_at(const tk_frame *f, const tk_place *p, int64_t matrix, int64_t row, int64_t rows, int64_t stride) {
    return rows == 1 ? tk_at(f, p, matrix + row) : tk_at(f, p, matrix) + row * stride;
}

/// The numbers that have the room of `floats` floats.
static int64_t numbers(bool is_rounded, int64_t floats) { return is_rounded ? 2 * floats : floats; }

/// Normalised rows, for bfloat16 rounded once rather than for each block of columns. Rows are not a power of two apart,
/// which would meet in one set of the cache.
static tk_operand normalized(const tk_product_step *s, const tk_operand *a, int64_t rows, int64_t row, float *normal) {
    const bool rounds = s->precision == TK_BFLOAT16;
    if (rounds)
        tk_kernels()->rounded_layer_norm_rows(a->data, a->row, rows, s->norm_weight, s->norm_bias, s->epsilon,
                                              (uint16_t *)(void *)normal, row, NULL, NULL, s->depth);
    else
        tk_kernels()->layer_norm_rows(a->data, a->row, rows, s->norm_weight, s->norm_bias, s->epsilon, normal, row, NULL,
                                      NULL, s->depth);
    return (tk_operand){.data = normal, .row = row, .column = 1, .is_rounded = rounds};
}

static void run_product(const tk_product_step *s, const tk_frame *f, int64_t part) {
    if (s->is_quantized) {
        tk_run_int8_product(s, f, part);
        return;
    }
    const tk_product_grid g = tk_grid_of(s, f);
    const int64_t matrix = part / (g.row_parts * g.column_parts);
    const int64_t row = part % g.row_parts * g.part_rows, first = part / g.row_parts % g.column_parts * g.part_columns;
    const int64_t end = least(s->columns, first + g.part_columns);
    tk_block t = {
        .m = least(g.part_rows, g.rows - row), .k = s->depth, .packed_b = s->packed, .packed_columns = s->columns,
        .c_row = numbers(s->c_is_rounded, s->rows == 1 ? s->c.image : s->c_row), .c_is_rounded = s->c_is_rounded,
        .alpha = 1, .activation = s->activation,
        .residual_row = s->rows == 1 ? s->residual.image : s->residual_row, .precision = s->precision,
    };
    const tk_patches patches = {
        .c = &s->convolution, .image = s->is_convolution ? tk_at(f, &s->a, matrix) : NULL,
        .image_height = s->convolution.height, .image_width = s->convolution.width,
        .image_channels = s->convolution.in_channels, .group_channels = s->convolution.in_channels,
        .places_height = s->convolution.out_height, .places_width = s->convolution.out_width,
    };
    if (s->is_convolution) {
        t.a = (tk_operand){.patches = &patches, .first_row = row};
    } else {
        t.a = (tk_operand){.data = tk_row_at(f, &s->a, matrix, row, s->rows, s->a_row), .column = 1,
                           .row = numbers(s->a_is_rounded, s->rows == 1 ? s->a.image : s->a_row),
                           .is_rounded = s->a_is_rounded};
    }
    // Columns by as many as stay in the second cache while all rows meet them.
    const int64_t most = greatest(2 * TK_COLUMN_STEP, SECOND_CACHE_FLOATS / greatest(1, tk_k_block(s->depth)));
    const int64_t block = quotient_up(even(end - first, most), TK_COLUMN_STEP) * TK_COLUMN_STEP;
    t.n = block;
    const int64_t product_scratch = (tk_block_scratch(&t) + 15) / 16 * 16;
    const int64_t normal_row = (s->depth + 31) / 16 * 16;
    float *scratch = tk_scratch(product_scratch + (s->has_norm ? t.m * normal_row : 0));
    if (s->has_norm) t.a = normalized(s, &t.a, t.m, normal_row, scratch + product_scratch);
    float *c = tk_row_at(f, &s->c, matrix, row, s->rows, s->c_row);
    const float *residual = s->has_residual ? tk_row_at(f, &s->residual, matrix, row, s->rows, s->residual_row) : NULL;
    for (int64_t column = first; column < end; column += block) {
        t.n = least(block, end - column);
        t.b = (tk_operand){.data = s->weight + column * s->depth, .row = 1, .column = s->depth};
        t.packed_first = column;
        t.c = c + (s->c_is_rounded ? column / 2 : column);      // columns of a block are even
        t.bias = s->bias ? s->bias + column : NULL;
        t.residual = residual ? residual + column : NULL;
        tk_products(s->precision)->product_block(&t, scratch);
    }
}

static void run_matrix(const tk_matrix_step *s, const tk_frame *f, int64_t part) {
    const tk_product *p = &s->shape;
    const int64_t image = part / p->batch, i = part % p->batch;
    const tk_block t = {
        .m = p->m, .n = p->n, .k = p->k,
        .a = {.data = tk_at(f, &s->a, image) + i * p->a_batch, .row = p->a_row, .column = p->a_column},
        .b = {.data = tk_at(f, &s->b, image) + i * p->b_batch, .row = p->b_row, .column = p->b_column},
        .c = tk_at(f, &s->c, image) + i * p->c_batch, .c_row = p->c_row, .alpha = 1, .precision = p->precision,
    };
    tk_products(p->precision)->product_block(&t, tk_scratch(tk_block_scratch(&t)));
}

static void run_attention(const tk_attention_step *s, const tk_frame *f) {
    tk_attention a = s->shape;
    const bool has_windows = a.batch > 1;
    if (!has_windows) {                         // then the images are the batch
        a.batch = f->count;
        a.q_strides.batch = numbers(a.q_is_rounded, s->q.image);
        a.k_strides.batch = numbers(a.k_is_rounded, s->k.image);
        a.v_strides.batch = numbers(a.v_is_rounded, s->v.image);
        a.out_strides.batch = numbers(a.out_is_rounded, s->out.image);
        a.bias_strides.batch = s->bias.image;
    }
    for (int64_t image = 0; image < (has_windows ? f->count : 1); image++) {
        a.q = tk_at(f, &s->q, image);
        a.k = tk_at(f, &s->k, image);
        a.v = tk_at(f, &s->v, image);
        a.out = tk_at(f, &s->out, image);
        a.bias = s->has_bias ? tk_at(f, &s->bias, image) : NULL;
        if (f->threads == 1) tk_attention_heads(&a, 0, a.batch * a.heads);
        else tk_attention_forward(&a);
    }
}

static void run_norm(const tk_norm_step *s, const tk_frame *f, int64_t part) {
    const int64_t end = least(s->rows * f->count, (part + 1) * NORM_ROWS);
    for (int64_t row = part * NORM_ROWS, rows; row < end; row += rows) {
        const int64_t image = row / s->rows, first = row % s->rows;
        rows = least(s->rows - first, end - row);
        tk_kernels()->layer_norm_rows(tk_at(f, &s->x, image) + first * s->columns, s->columns, rows, s->weight, s->bias,
                                      s->epsilon, tk_at(f, &s->y, image) + first * s->columns, s->columns, NULL, NULL,
                                      s->columns);
    }
}

/// Rows of an image, of `length` floats each, that are a part of elementwise work.
static int64_t part_rows(int64_t length) { return greatest(1, PIECE / greatest(1, length)); }

static int64_t parts_of_rows(int64_t rows, int64_t length) { return quotient_up(rows, part_rows(length)); }

/// Which rows of which image a part is, of `rows` an image.
typedef struct {
    int64_t image, first, end;
} row_range;

static row_range rows_of_part(int64_t part, int64_t rows, int64_t length) {
    const int64_t parts = parts_of_rows(rows, length), first = part % parts * part_rows(length);
    return (row_range){part / parts, first, least(rows, first + part_rows(length))};
}

static void run_copy(const tk_copy_step *s, const tk_frame *f, int64_t part) {
    const row_range r = rows_of_part(part, s->rows, s->run);
    const float *from = tk_at(f, &s->from, r.image);
    float *to = tk_at(f, &s->to, r.image);
    if (s->run < 8) {                           // too few to be worth a call
        for (int64_t row = r.first; row < r.end; row++)
            for (int64_t i = 0; i < s->run; i++) to[row * s->to_row + i] = from[row * s->from_row + i];
        return;
    }
    for (int64_t row = r.first; row < r.end; row++)
        memcpy(to + row * s->to_row, from + row * s->from_row, (size_t)s->run * sizeof(float));
}

static void run_chain(const tk_chain_step *s, const tk_frame *f, int64_t part) {
    const row_range r = rows_of_part(part, s->outer, s->inner);
    for (int64_t row = r.first; row < r.end; row++) {
        const float *x = tk_at(f, &s->x, r.image) + row * s->inner;
        float *y = tk_at(f, &s->y, r.image) + row * s->inner;
        for (int i = 0; i < s->link_count; i++, x = y) {
            const tk_link *l = &s->links[i];
            switch (l->kind) {
            case TK_LINK_ACTIVATION: tk_kernels()->activate_range(x, y, s->inner, l->activation); break;
            case TK_LINK_UNARY: tk_kernels()->unary_range(l->function, x, y, s->inner); break;
            case TK_LINK_BINARY: {
                const float *other = tk_at(f, &l->other, r.image) + row * l->other_outer;
                if (l->is_right) tk_kernels()->binary_range(l->operation, other, l->other_inner, x, 1, y, s->inner);
                else tk_kernels()->binary_range(l->operation, x, 1, other, l->other_inner, y, s->inner);
            }
            }
        }
    }
}

static void run_softmax(const tk_rows_step *s, const tk_frame *f, int64_t part) {
    const row_range r = rows_of_part(part, s->outer, s->inner);
    for (int64_t row = r.first; row < r.end; row++) {
        float *y = tk_at(f, &s->y, r.image) + row * s->inner, log_sum_exp;
        memcpy(y, tk_at(f, &s->x, r.image) + row * s->inner, (size_t)s->inner * sizeof(float));
        tk_kernels()->softmax_in_place(y, s->inner, &log_sum_exp);
    }
}

static void run_sum(const tk_rows_step *s, const tk_frame *f, int64_t part) {
    const row_range r = rows_of_part(part, s->outer, s->middle * s->inner);
    for (int64_t outer = r.first; outer < r.end; outer++) {
        const float *x = tk_at(f, &s->x, r.image) + outer * s->middle * s->inner;
        float *y = tk_at(f, &s->y, r.image) + outer * s->inner;
        if (s->inner == 1) *y = tk_kernels()->run_sum(x, s->middle);
        else tk_kernels()->column_sums(x, y, s->middle, s->inner);
        for (int64_t i = 0; i < s->inner; i++) y[i] *= s->scale;
    }
}

static void run_max_pool(const tk_pool_step *s, const tk_frame *f) {
    tk_pooling p = s->shape;
    for (int64_t image = 0; image < f->count; image++) tk_max_pool(&p, tk_at(f, &s->x, image), tk_at(f, &s->y, image), NULL);
}

static void run_convolution(const tk_convolution_step *s, const tk_frame *f) {
    for (int64_t image = 0; image < f->count; image++)
        tk_convolution_forward(&s->shape, tk_at(f, &s->x, image), s->weight, s->bias, s->activation, NULL,
                               tk_at(f, &s->y, image));
}

static void run_permute(const tk_permute_step *s, const tk_frame *f) {
    for (int64_t image = 0; image < f->count; image++)
        tk_permute(tk_at(f, &s->x, image), tk_at(f, &s->y, image), s->extents, s->steps, s->order, s->rank);
}

static void run_call(const tk_call_step *s, const tk_frame *f) {
    for (int64_t image = 0; image < f->count; image++) {
        const float *inputs[s->input_count + 1];
        for (int i = 0; i < s->input_count; i++) inputs[i] = tk_at(f, &s->inputs[i], image);
        s->function(s->context, inputs, tk_at(f, &s->output, image));
    }
}

bool tk_step_is_parallel(const tk_step *step) {
    switch (step->kind) {
    case TK_STEP_ATTENTION:
    case TK_STEP_INT8_ATTENTION:
    case TK_STEP_MAX_POOL:
    case TK_STEP_CONVOLUTION:
    case TK_STEP_PERMUTE:
    case TK_STEP_CALL: return true;
    default: return false;
    }
}

int64_t tk_step_parts(const tk_step *step, const tk_frame *f) {
    switch (step->kind) {
    case TK_STEP_PRODUCT: {
        const tk_product_grid g = tk_grid_of(&step->product, f);
        return step->product.columns > 0 ? g.matrices * g.row_parts * g.column_parts : 0;
    }
    case TK_STEP_NORM: return quotient_up(step->norm.rows * f->count, NORM_ROWS);
    case TK_STEP_CHAIN: return parts_of_rows(step->chain.outer, step->chain.inner) * f->count;
    case TK_STEP_MATRIX: return step->matrix.shape.batch * f->count;
    case TK_STEP_COPY: return parts_of_rows(step->copy.rows, step->copy.run) * f->count;
    case TK_STEP_SOFTMAX: return parts_of_rows(step->rows.outer, step->rows.inner) * f->count;
    case TK_STEP_SUM: return parts_of_rows(step->rows.outer, step->rows.middle * step->rows.inner) * f->count;
    case TK_STEP_ATTENTION:
    case TK_STEP_INT8_ATTENTION:
    case TK_STEP_MAX_POOL:
    case TK_STEP_CONVOLUTION:
    case TK_STEP_PERMUTE:
    case TK_STEP_CALL: return 1;
    }
    return 0;
}

void tk_step_run(const tk_step *step, const tk_frame *f, int64_t part) {
    switch (step->kind) {
    case TK_STEP_PRODUCT: run_product(&step->product, f, part); break;
    case TK_STEP_MATRIX: run_matrix(&step->matrix, f, part); break;
    case TK_STEP_ATTENTION: run_attention(&step->attention, f); break;
    case TK_STEP_INT8_ATTENTION: tk_run_int8_attention(&step->int8_attention, f); break;
    case TK_STEP_NORM: run_norm(&step->norm, f, part); break;
    case TK_STEP_COPY: run_copy(&step->copy, f, part); break;
    case TK_STEP_CHAIN: run_chain(&step->chain, f, part); break;
    case TK_STEP_SOFTMAX: run_softmax(&step->rows, f, part); break;
    case TK_STEP_SUM: run_sum(&step->rows, f, part); break;
    case TK_STEP_MAX_POOL: run_max_pool(&step->pool, f); break;
    case TK_STEP_CONVOLUTION: run_convolution(&step->convolution, f); break;
    case TK_STEP_PERMUTE: run_permute(&step->permute, f); break;
    case TK_STEP_CALL: run_call(&step->call, f); break;
    }
}
