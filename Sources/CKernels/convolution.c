// Convolutions as products with the patches of the image, which are gathered while they are packed.
#include "depthwise.h"
#include "product.h"
#include "table.h"

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

void tk_convolution_backward_input(const tk_convolution *c, const float *y_gradient, const float *weight,
                                   float *x_gradient) {
    if (tk_is_depthwise(c)) {
        tk_depthwise_backward_input(c, y_gradient, weight, x_gradient);
        return;
    }
    const int64_t outputs = c->out_channels / c->groups, channels = c->in_channels / c->groups;
    const int64_t places = c->kernel_height * c->kernel_width;
    float *turned = tk_allocate(places * outputs * channels + 1);
    for (int64_t g = 0; g < c->groups; g++) {
        // [outputs][places][channels] to [places][outputs][channels]: the rows that a gathered gradient meets.
        const float *w = weight + g * outputs * places * channels;
        for (int64_t o = 0; o < outputs; o++)
            for (int64_t p = 0; p < places; p++)
                for (int64_t i = 0; i < channels; i++)
                    turned[(p * outputs + o) * channels + i] = w[(o * places + p) * channels + i];
        const tk_patches p = {
            .c = c, .image = y_gradient + g * outputs, .image_height = c->out_height, .image_width = c->out_width,
            .image_channels = c->out_channels, .group_channels = outputs, .places_height = c->height,
            .places_width = c->width, .is_transposed_convolution = true,
        };
        tk_block t = {
            .m = c->batch * c->height * c->width, .n = channels, .k = places * outputs, .a = patch_operand(c, &p),
            .b = {.data = turned, .row = channels, .column = 1}, .c = x_gradient + g * channels,
            .c_row = c->in_channels, .alpha = 1, .precision = c->precision,
        };
        tk_multiply_block(&t);
    }
    tk_release(turned, places * outputs * channels + 1);
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
