// How steps of a program are divided and computed. See tk_program.h.
#pragma once
#include "include/tk_program.h"

/// Some images in an arena.
typedef struct {
    const float *input;
    float *const *outputs;
    float *arena;
    int64_t capacity;                           // images that the arena is laid out for
    int64_t first, count;                       // of all images
    int threads;                                // that share the work of a step
} tk_frame;

/// How a product's result is divided: parts are numbered by rows, then by columns, then by matrix.
typedef struct {
    int64_t matrices, rows;                     // rows of a matrix: all images where their rows follow each other
    int64_t part_rows, row_parts, part_columns, column_parts;
} tk_product_grid;

/// The memory of an image's value.
float *tk_at(const tk_frame *frame, const tk_place *place, int64_t image);

/// The rows of an image, or of all, from `row` on.
float *tk_row_at(const tk_frame *frame, const tk_place *place, int64_t matrix, int64_t row, int64_t rows,
                 int64_t stride);

tk_product_grid tk_grid_of(const tk_product_step *step, const tk_frame *frame);

/// Steps in 8-bit codes: program_int8.c.
void tk_run_int8_product(const tk_product_step *step, const tk_frame *frame, int64_t part);
void tk_run_int8_attention(const tk_int8_attention_step *step, const tk_frame *frame);

/// The parts that a step falls into for a frame. Parts do not depend on each other.
int64_t tk_step_parts(const tk_step *step, const tk_frame *frame);

/// Computes one part.
void tk_step_run(const tk_step *step, const tk_frame *frame, int64_t part);

/// Whether a step's only part divides its work itself.
bool tk_step_is_parallel(const tk_step *step);
