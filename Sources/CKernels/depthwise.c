// Depthwise convolution on all threads.
#include "depthwise.h"
#include "table.h"
#include <string.h>

enum { MOST_PARTS = 32 };       // that the sums of a weight gradient are divided into

typedef struct {
    tk_patches patches;
    const float *weights, *bias, *gradient;
    tk_activation activation;
    float *preactivation, *out;
    int64_t lines, lines_of_part, weight_count;
} job;

bool tk_is_depthwise(const tk_convolution *c) {
    return c->groups == c->in_channels && c->groups == c->out_channels && c->groups > 1 &&
           c->kernel_height <= TK_MOST_DEPTHWISE && c->kernel_width <= TK_MOST_DEPTHWISE;
}

static tk_patches patches(const tk_convolution *c, const float *x, bool is_transposed) {
    return (tk_patches){
        .c = c, .image = x, .image_channels = c->groups, .group_channels = 1,
        .image_height = is_transposed ? c->out_height : c->height,
        .image_width = is_transposed ? c->out_width : c->width,
        .places_height = is_transposed ? c->height : c->out_height,
        .places_width = is_transposed ? c->width : c->out_width,
        .is_transposed_convolution = is_transposed,
    };
}

/// [rows][columns] to [columns][rows].
static void transpose(const float *from, int64_t rows, int64_t columns, float *to) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * rows + i] = from[i * columns + j];
}

static void line_task(void *context, int64_t line, int worker) {
    (void)worker;
    const job *j = context;
    const int64_t count = j->patches.places_width * j->patches.image_channels, offset = line * count;
    float *sums = j->preactivation ? j->preactivation : j->out;
    tk_kernels()->depthwise_line(&j->patches, line, j->weights, j->bias, sums + offset);
    if (j->preactivation || j->activation != TK_IDENTITY)
        tk_kernels()->activate_range(sums + offset, j->out + offset, count, j->activation);
}

/// Every line of an image or of its gradient, with weights turned to [kernel place][channel].
static void run_lines(job *j, const float *weight) {
    const tk_convolution *c = j->patches.c;
    const int64_t places = c->kernel_height * c->kernel_width;
    float *turned = tk_allocate(places * c->groups);
    transpose(weight, c->groups, places, turned);
    j->weights = turned;
    tk_parallel(c->batch * j->patches.places_height, line_task, j);
    tk_release(turned, places * c->groups);
}

void tk_depthwise_forward(const tk_convolution *c, const float *x, const float *weight, const float *bias,
                          tk_activation activation, float *preactivation, float *y) {
    job j = {
        .patches = patches(c, x, false), .bias = bias, .activation = activation, .preactivation = preactivation,
        .out = y,
    };
    run_lines(&j, weight);
}

void tk_depthwise_backward_input(const tk_convolution *c, const float *y_gradient, const float *weight,
                                 float *x_gradient) {
    job j = {.patches = patches(c, y_gradient, true), .activation = TK_IDENTITY, .out = x_gradient};
    run_lines(&j, weight);
}

static void weight_task(void *context, int64_t part, int worker) {
    (void)worker;
    const job *j = context;
    float *sums = j->out + part * j->weight_count;
    memset(sums, 0, (size_t)j->weight_count * sizeof(float));
    const int64_t count = j->patches.places_width * j->patches.image_channels;
    for (int64_t line = part * j->lines_of_part; line < j->lines && line < (part + 1) * j->lines_of_part; line++)
        tk_kernels()->depthwise_weight_line(&j->patches, line, j->gradient + line * count, sums);
}

void tk_depthwise_backward_weight(const tk_convolution *c, const float *x, const float *y_gradient,
                                  float *weight_gradient) {
    const int64_t lines = c->batch * c->out_height, parts = lines < MOST_PARTS ? lines : MOST_PARTS;
    const int64_t places = c->kernel_height * c->kernel_width, count = places * c->groups;
    float *sums = tk_allocate_zeroed((parts + 1) * count);
    job j = {
        .patches = patches(c, x, false), .gradient = y_gradient, .out = sums + count, .lines = lines,
        .lines_of_part = parts > 0 ? (lines + parts - 1) / parts : 0, .weight_count = count,
    };
    tk_parallel(parts, weight_task, &j);
    for (int64_t part = 1; part <= parts; part++)
        for (int64_t i = 0; i < count; i++) sums[i] += sums[part * count + i];
    transpose(sums, places, c->groups, weight_gradient);
    tk_release(sums, (parts + 1) * count);
}
