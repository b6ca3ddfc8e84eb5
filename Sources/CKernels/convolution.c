// Convolutions as products with the patches of the image, which are gathered while they are packed.
#include "depthwise.h"
#include "product.h"
#include "table.h"
#include <string.h>

static tk_patches patches(const tk_convolution *c, const float *x, int64_t group) {
    const int64_t channels = c->in_channels / c->groups;
    return (tk_patches){
        .c = c, .image = x + group * channels, .image_height = c->height, .image_width = c->width,
        .image_channels = c->in_channels, .group_channels = channels, .places_height = c->out_height,
        .places_width = c->out_width,
    };
}

/// Whether the patches are the image itself: then no gathering is needed.
static bool is_pointwise(const tk_convolution *c) {
    return c->kernel_height == 1 && c->kernel_width == 1 && c->stride_height == 1 && c->stride_width == 1
        && c->pad_top == 0 && c->pad_left == 0 && c->out_height == c->height && c->out_width == c->width;
}

static tk_operand patch_operand(const tk_convolution *c, const tk_patches *p) {
    return is_pointwise(c) ? (tk_operand){.data = p->image, .row = p->image_channels, .column = 1}
                           : (tk_operand){.patches = p};
}

void tk_convolution_forward(const tk_convolution *c, const float *x, const float *weight, const float *bias,
                            tk_activation activation, float *preactivation, float *y) {
    if (tk_is_depthwise(c)) {
        tk_depthwise_forward(c, x, weight, bias, activation, preactivation, y);
        return;
    }
    const int64_t outputs = c->out_channels / c->groups;
    const int64_t depth = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
    for (int64_t g = 0; g < c->groups; g++) {
        const tk_patches p = patches(c, x, g);
        tk_block t = {
            .m = c->batch * c->out_height * c->out_width, .n = outputs, .k = depth, .a = patch_operand(c, &p),
            .b = {.data = weight + g * outputs * depth, .row = 1, .column = depth}, .c = y + g * outputs,
            .c_row = c->out_channels, .alpha = 1, .bias = bias ? bias + g * outputs : NULL, .activation = activation,
            .preactivation = preactivation ? preactivation + g * outputs : NULL, .precision = c->precision,
        };
        tk_multiply_block(&t);
    }
}

typedef struct {
    const tk_convolution *c;
    const float *y_gradient, *packed;           // the weights of all groups
    int64_t packed_group;                       // floats of a group
    float *x_gradient;
} input_gradient;

/// The gradient of the patches of one image, some places at a time, added back to where the patches came from.
static void input_gradient_task(void *context, int64_t image, int worker) {
    (void)worker;
    const input_gradient *g = context;
    const tk_convolution *c = g->c;
    const int64_t outputs = c->out_channels / c->groups, places = c->out_height * c->out_width;
    const int64_t depth = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
    const int64_t image_count = c->height * c->width * c->in_channels;
    const int64_t rows = depth < 512 ? 96 : 48;                         // their gradients fit the second cache
    float *patch_rows = tk_scratch(rows * depth + tk_block_scratch(&(tk_block){.packed_b = g->packed}));
    memset(g->x_gradient + image * image_count, 0, (size_t)image_count * sizeof(float));
    for (int64_t group = 0; group < c->groups; group++) {
        const tk_patches p = patches(c, g->x_gradient, group);
        for (int64_t first = 0; first < places; first += rows) {
            const int64_t row = image * places + first;
            tk_block t = {
                .m = places - first < rows ? places - first : rows, .n = depth, .k = outputs,
                .a = {.data = g->y_gradient + row * c->out_channels + group * outputs, .row = c->out_channels,
                      .column = 1},
                .packed_b = g->packed + group * g->packed_group, .packed_columns = depth, .c = patch_rows,
                .c_row = depth, .alpha = 1, .precision = c->precision,
            };
            tk_products(c->precision)->product_block(&t, patch_rows + rows * depth);
            tk_kernels()->add_patches(&p, row, t.m, depth, patch_rows, (float *)p.image);
        }
    }
}

void tk_convolution_backward_input(const tk_convolution *c, const float *y_gradient, const float *weight,
                                   float *x_gradient) {
    if (tk_is_depthwise(c)) {
        tk_depthwise_backward_input(c, y_gradient, weight, x_gradient);
        return;
    }
    const int64_t outputs = c->out_channels / c->groups;
    const int64_t depth = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
    if (is_pointwise(c) && c->groups == 1) {
        tk_block t = {
            .m = c->batch * c->height * c->width, .n = depth, .k = outputs,
            .a = {.data = y_gradient, .row = outputs, .column = 1}, .b = {.data = weight, .row = depth, .column = 1},
            .c = x_gradient, .c_row = depth, .alpha = 1, .precision = c->precision,
        };
        tk_multiply_block(&t);
        return;
    }
    const struct tk_products *kernels = tk_products(c->precision);
    const int64_t packed_group = kernels->packed_right_size(depth, outputs), k_block = tk_k_block(outputs);
    float *packed = tk_allocate(c->groups * packed_group);
    for (int64_t group = 0; group < c->groups; group++) {
        const tk_operand b = {.data = weight + group * outputs * depth, .row = depth, .column = 1};
        for (int64_t k = 0; k < outputs; k += k_block)
            kernels->pack_right(&b, depth, k, outputs - k < k_block ? outputs - k : k_block, c->precision,
                                packed + group * packed_group + kernels->packed_right_size(depth, k));
    }
    input_gradient g = {c, y_gradient, packed, packed_group, x_gradient};
    tk_parallel(c->batch, input_gradient_task, &g);
    tk_release(packed, c->groups * packed_group);
}

void tk_convolution_backward_weight(const tk_convolution *c, const float *x, const float *y_gradient,
                                    float *weight_gradient) {
    if (tk_is_depthwise(c)) {
        tk_depthwise_backward_weight(c, x, y_gradient, weight_gradient);
        return;
    }
    const int64_t outputs = c->out_channels / c->groups;
    const int64_t depth = c->kernel_height * c->kernel_width * (c->in_channels / c->groups);
    for (int64_t g = 0; g < c->groups; g++) {
        const tk_patches p = patches(c, x, g);
        tk_block t = {
            .m = outputs, .n = depth, .k = c->batch * c->out_height * c->out_width,
            .a = {.data = y_gradient + g * outputs, .row = 1, .column = c->out_channels}, .b = patch_operand(c, &p),
            .c = weight_gradient + g * outputs * depth, .c_row = depth, .alpha = 1, .precision = c->precision,
        };
        tk_multiply_block(&t);
    }
}
