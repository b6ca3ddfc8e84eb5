// Elements moved or mixed along axes, split into fixed pieces for all threads.
#include "table.h"
#include <string.h>

enum { PIECE = 1 << 14, SCATTERED_COLUMNS = 128 };

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/// Rows of `size` floats that make a task.
static int64_t rows_a_task(int64_t size) { return size >= PIECE ? 1 : PIECE / (size < 1 ? 1 : size); }

typedef struct {
    const float *x, *y, *y_gradient;
    float *out;
    const int32_t *indices;
    const tk_sparse *matrix;
    bool adds;
    float scale;
    int64_t outer, extent, count, inner, rows, task_rows;
} job;

static void run(job *j, int64_t rows, int64_t size, tk_task task) {
    j->rows = rows;
    j->task_rows = rows_a_task(size);
    tk_parallel((rows + j->task_rows - 1) / j->task_rows, task, j);
}

static void gather_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    for (int64_t row = index * j->task_rows; row < least((index + 1) * j->task_rows, j->rows); row++)
        memcpy(j->out + row * j->inner, j->x + (row / j->count * j->extent + j->indices[row % j->count]) * j->inner,
               (size_t)j->inner * sizeof(float));
}

void tk_gather(const float *x, const int32_t *indices, float *y, int64_t outer, int64_t extent, int64_t count,
               int64_t inner) {
    job j = {.x = x, .out = y, .indices = indices, .outer = outer, .extent = extent, .count = count, .inner = inner};
    run(&j, outer * count, inner, gather_rows);
}

/// A stripe of columns for one index of the outer axis: indices may repeat, so their own axis is never split.
static void scatter_stripe(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t stripes = (j->inner + SCATTERED_COLUMNS - 1) / SCATTERED_COLUMNS, outer = index / stripes;
    const int64_t from = index % stripes * SCATTERED_COLUMNS, width = least(SCATTERED_COLUMNS, j->inner - from);
    float *target = j->out + outer * j->extent * j->inner + from;
    const float *source = j->y_gradient + outer * j->count * j->inner + from;
    for (int64_t k = 0; k < j->extent && !j->adds; k++) memset(target + k * j->inner, 0, (size_t)width * sizeof(float));
    for (int64_t k = 0; k < j->count; k++) {
        float *sum = target + j->indices[k] * j->inner;
        tk_kernels()->add_scaled(source + k * j->inner, 1, sum, sum, width);
    }
}

void tk_gather_backward(const float *y_gradient, const int32_t *indices, bool adds, float *x_gradient, int64_t outer,
                        int64_t extent, int64_t count, int64_t inner) {
    job j = {.y_gradient = y_gradient, .out = x_gradient, .indices = indices, .adds = adds, .outer = outer,
             .extent = extent, .count = count, .inner = inner};
    tk_parallel(outer * ((inner + SCATTERED_COLUMNS - 1) / SCATTERED_COLUMNS), scatter_stripe, &j);
}

/// A piece of an entry, and of the one that is added to it, which is found by halving: indices ascend.
static void add_entry(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t pieces = (j->inner + PIECE - 1) / PIECE, entry = index / pieces, from = index % pieces * PIECE;
    const int64_t width = least(PIECE, j->inner - from);
    const float *x = j->x + entry * j->inner + from;
    float *out = j->out + entry * j->inner + from;
    int64_t low = 0, high = j->count;
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (j->indices[middle] < entry) low = middle + 1;
        else high = middle;
    }
    if (low < j->count && j->indices[low] == entry)
        tk_kernels()->add_scaled(j->y + low * j->inner + from, j->scale, x, out, width);
    else memcpy(out, x, (size_t)width * sizeof(float));
}

void tk_add_entries(const float *x, const float *branch, const int32_t *indices, float scale, float *y, int64_t extent,
                    int64_t count, int64_t inner) {
    job j = {.x = x, .y = branch, .out = y, .indices = indices, .scale = scale, .extent = extent, .count = count,
             .inner = inner};
    tk_parallel(extent * ((inner + PIECE - 1) / PIECE), add_entry, &j);
}

static void scale_entry(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t pieces = (j->inner + PIECE - 1) / PIECE, entry = index / pieces, from = index % pieces * PIECE;
    tk_kernels()->binary_range(TK_MULTIPLY, j->y_gradient + j->indices[entry] * j->inner + from, 1, &j->scale, 0,
                               j->out + entry * j->inner + from, least(PIECE, j->inner - from));
}

void tk_add_entries_backward(const float *y_gradient, const int32_t *indices, float scale, float *branch_gradient,
                             int64_t count, int64_t inner) {
    job j = {.y_gradient = y_gradient, .out = branch_gradient, .indices = indices, .scale = scale, .inner = inner};
    tk_parallel(count * ((inner + PIECE - 1) / PIECE), scale_entry, &j);
}

/// Where a channel of (row, column) is read, as an index of a place in its map; -1: nowhere.
static int64_t shifted_place(const tk_shift *s, const tk_channel_shift *run, int64_t row, int64_t column) {
    int64_t from_row = row + run->rows, from_column = column + run->columns;
    if (s->clamps) {
        from_row = from_row < 0 ? 0 : least(from_row, s->height - 1);
        from_column = from_column < 0 ? 0 : least(from_column, s->width - 1);
    } else if (from_row < 0 || from_row >= s->height || from_column < 0 || from_column >= s->width) {
        return -1;
    }
    return from_row * s->width + from_column;
}

typedef struct {
    const tk_shift *shift;
    const float *x;
    float *y;
} shift_job;

static void shift_row(void *context, int64_t index, int worker) {
    (void)worker;
    const shift_job *j = context;
    const tk_shift *s = j->shift;
    const int64_t row = index % s->height;
    const float *map = j->x + index / s->height * s->height * s->width * s->channels;
    for (const tk_channel_shift *run = s->shifts; run < s->shifts + s->shift_count; run++) {
        float *y = j->y + index * s->width * s->channels + run->first;
        for (int64_t column = 0; column < s->width; column++, y += s->channels) {
            const int64_t place = shifted_place(s, run, row, column);
            const float *x = map + place * s->channels + run->first;
            if (run->count == 1) *y = place < 0 ? 0 : *x;   // a channel with a shift of its own: no loop
            else if (place < 0) memset(y, 0, (size_t)run->count * sizeof(float));
            else memcpy(y, x, (size_t)run->count * sizeof(float));
        }
    }
}

void tk_shift_forward(const tk_shift *shift, const float *x, float *y) {
    shift_job j = {shift, x, y};
    tk_parallel(shift->batch * shift->height, shift_row, &j);
}

/// A whole map, because clamped places receive from several.
static void unshift_map(void *context, int64_t index, int worker) {
    (void)worker;
    const shift_job *j = context;
    const tk_shift *s = j->shift;
    const int64_t size = s->height * s->width * s->channels;
    const float *y = j->x + index * size;
    float *map = j->y + index * size;
    memset(map, 0, (size_t)size * sizeof(float));
    for (int64_t place = 0; place < s->height * s->width; place++, y += s->channels) {
        for (const tk_channel_shift *run = s->shifts; run < s->shifts + s->shift_count; run++) {
            const int64_t target = shifted_place(s, run, place / s->width, place % s->width);
            if (target < 0) continue;
            float *x = map + target * s->channels;
            for (int64_t c = run->first; c < run->first + run->count; c++) x[c] += y[c];
        }
    }
}

void tk_shift_backward(const tk_shift *shift, const float *y_gradient, float *x_gradient) {
    shift_job j = {shift, y_gradient, x_gradient};
    tk_parallel(shift->batch, unshift_map, &j);
}

static void resample_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const tk_sparse *m = j->matrix;
    for (int64_t row = index * j->task_rows; row < least((index + 1) * j->task_rows, j->rows); row++) {
        const int32_t first = m->starts[row % m->rows], end = m->starts[row % m->rows + 1];
        if (j->inner == 1) {                    // too little for a vector
            const float *x = j->x + row / m->rows * m->extent;
            float sum = 0;
            for (int32_t t = first; t < end; t++) sum += m->weights[t] * x[m->columns[t]];
            j->out[row] = sum;
            continue;
        }
        tk_kernels()->weighted_sum(j->x + row / m->rows * m->extent * j->inner, m->columns + first,
                                   m->weights + first, end - first, j->out + row * j->inner, j->inner);
    }
}

void tk_resample(const tk_sparse *matrix, const float *x, float *y, int64_t outer, int64_t inner) {
    job j = {.x = x, .out = y, .matrix = matrix, .inner = inner};
    run(&j, outer * matrix->rows, inner, resample_rows);
}

static void greatest_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    for (int64_t o = index * j->task_rows; o < least((index + 1) * j->task_rows, j->rows); o++)
        tk_kernels()->greatest_rows(j->x + o * j->count * j->inner, j->out + o * j->inner, j->count, j->inner);
}

void tk_greatest(const float *x, float *y, int64_t outer, int64_t count, int64_t inner) {
    job j = {.x = x, .out = y, .count = count, .inner = inner};
    run(&j, outer, count * inner, greatest_rows);
}

static void greatest_gradient_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t size = j->count * j->inner;
    for (int64_t o = index * j->task_rows; o < least((index + 1) * j->task_rows, j->rows); o++) {
        const float *x = j->x + o * size;
        float *out = j->out + o * size;
        memset(out, 0, (size_t)size * sizeof(float));
        for (int64_t i = 0; i < j->inner; i++) {
            const float greatest = j->y[o * j->inner + i];
            int64_t k = 0;
            while (k < j->count && x[k * j->inner + i] != greatest) k++;
            if (k < j->count) out[k * j->inner + i] = j->y_gradient[o * j->inner + i];
        }
    }
}

void tk_greatest_backward(const float *x, const float *y, const float *y_gradient, float *x_gradient, int64_t outer,
                          int64_t count, int64_t inner) {
    job j = {.x = x, .y = y, .y_gradient = y_gradient, .out = x_gradient, .count = count, .inner = inner};
    run(&j, outer, count * inner, greatest_gradient_rows);
}

/// Loops over the axes of y. The last one, and the one that is contiguous in x if that is another, form a tile.
typedef struct {
    const float *x;
    float *y;
    int64_t extents[8], x_steps[8], y_steps[8];
    int rank, across;                   // the axis with step 1 in x, or -1 if that is the last one
    int64_t rows, task_rows;
} permute_job;

enum { TILE_ROWS = 16, TILE_COLUMNS = 256 };   // a line of the first cache in x for each column

/// Where row `row` of all axes but the last and `across` starts in x and in y.
static void find_row(const permute_job *j, int64_t row, const float **x, float **y) {
    *x = j->x;
    *y = j->y;
    for (int axis = j->rank - 2; axis >= 0 && row > 0; axis--) {
        if (axis == j->across) continue;
        const int64_t position = row % j->extents[axis];
        row /= j->extents[axis];
        *x += position * j->x_steps[axis];
        *y += position * j->y_steps[axis];
    }
}

static void permute_rows(void *context, int64_t index, int worker) {
    (void)worker;
    const permute_job *j = context;
    const int64_t run = j->extents[j->rank - 1];
    for (int64_t row = index * j->task_rows; row < least((index + 1) * j->task_rows, j->rows); row++) {
        const float *x;
        float *y;
        find_row(j, row, &x, &y);
        memcpy(y, x, (size_t)run * sizeof(float));
    }
}

/// A band of rows of one matrix, transposed by tiles: the lines of x that one row of a tile reads serve all its rows.
static void transpose_band(void *context, int64_t index, int worker) {
    (void)worker;
    const permute_job *j = context;
    const int64_t rows = j->extents[j->across], columns = j->extents[j->rank - 1];
    const int64_t x_step = j->x_steps[j->rank - 1], y_step = j->y_steps[j->across];
    const int64_t bands = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const float *x;
    float *y;
    find_row(j, index / bands, &x, &y);
    const int64_t first = index % bands * TILE_ROWS, end = least(first + TILE_ROWS, rows);
    for (int64_t left = 0; left < columns; left += TILE_COLUMNS) {
        const int64_t right = least(left + TILE_COLUMNS, columns);
        for (int64_t row = first; row < end; row++)
            for (int64_t column = left; column < right; column++)
                y[row * y_step + column] = x[column * x_step + row];
    }
}

void tk_permute(const float *x, float *y, const int64_t *extents, const int64_t *steps, const int *order, int rank) {
    permute_job j = {.x = x, .y = y, .across = -1};
    int64_t count = 1;
    for (int i = 0; i < rank; i++) {
        const int64_t extent = extents[order[i]], step = steps[order[i]];
        count *= extent;
        if (extent == 1) continue;
        // An axis that continues the one before it in x is the same loop.
        if (j.rank > 0 && j.x_steps[j.rank - 1] == step * extent) {
            j.extents[j.rank - 1] *= extent;
        } else {
            j.extents[j.rank++] = extent;
        }
        j.x_steps[j.rank - 1] = step;
    }
    if (count == 0) return;
    if (j.rank == 0) {
        *y = *x;
        return;
    }
    const int last = j.rank - 1;
    j.y_steps[last] = 1;
    for (int axis = last - 1; axis >= 0; axis--) j.y_steps[axis] = j.y_steps[axis + 1] * j.extents[axis + 1];
    for (int axis = 0; axis < last; axis++) if (j.x_steps[axis] == 1) j.across = axis;
    j.rows = count / j.extents[last];
    if (j.across < 0) {
        j.task_rows = rows_a_task(j.extents[last]);
        tk_parallel((j.rows + j.task_rows - 1) / j.task_rows, permute_rows, &j);
    } else {
        const int64_t rows = j.extents[j.across], bands = (rows + TILE_ROWS - 1) / TILE_ROWS;
        tk_parallel(j.rows / rows * bands, transpose_band, &j);
    }
}
