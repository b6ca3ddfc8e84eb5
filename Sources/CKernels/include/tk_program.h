// A compiled forward pass: steps over buffers that were planned beforehand, run by all threads.
//
// A program is written for one image; it runs for any number of them. Where there are images enough, a thread takes a
// group of whole images through all steps without meeting the others; what is left over goes through step by step, each
// divided between all threads. Both orders of work give the same bits.
#pragma once
#include "tk_attention.h"
#include "tk_convolution.h"
#include "tk_elementwise.h"
#include "tk_int8_attention.h"

typedef enum { TK_ARENA, TK_CONSTANT, TK_INPUT, TK_OUTPUT } tk_space;

/// Where a value lies. An arena holds each buffer for all images of a group before the next buffer.
typedef struct {
    tk_space space;
    int64_t buffer;             // in the arena: where the buffer begins, in floats for one image
    const float *constant;
    int64_t output;             // which output
    int64_t offset, image;      // floats from the beginning to the first image's value, and from image to image
} tk_place;

/// c = residual + activation(norm(a) b + bias) for the rows of each image; a may be the patches of a feature map.
typedef struct {
    int64_t rows, columns, depth;
    tk_place a, c, residual;
    int64_t a_row, c_row, residual_row;         // floats from row to row
    bool has_norm, has_residual, is_convolution;
    bool a_is_rounded, c_is_rounded;            // bfloat16 numbers, of which a float's room holds two
    float epsilon;
    const float *norm_weight, *norm_bias;       // [depth] or NULL
    tk_convolution convolution;                 // of one image, in one group; a is then the feature map
    const float *weight;                        // [columns][depth]
    float *packed;                              // tk_packed_size floats by tk_product_pack; NULL: packed when used
    const float *bias;                          // [columns] or NULL
    tk_activation activation;
    tk_precision precision;
    bool is_quantized;                          // computed in 8-bit codes of both operands; then a_is_codes and:
    bool a_is_codes;                            // a holds codes already, in rows as tk_int8_quantize writes them
    tk_quantizer a_quantizer;                   // otherwise makes them, after the norm
    const float *weight_scales, *scales;        // [columns]: of the weight's codes, and of the products of codes
    bool c_is_codes;                            // of a quantised product: c gets codes for the next product
    tk_quantizer c_quantizer;
} tk_product_step;

/// A product of two values, such as a weighted mean of tokens; strides as in tk_product.
typedef struct {
    tk_product shape;
    tk_place a, b, c;
} tk_matrix_step;

typedef struct {
    tk_attention shape;                         // of one image: its batch are the windows of an image
    bool has_bias;
    tk_place q, k, v, bias, out;
} tk_attention_step;

/// The same with the products in 8-bit codes.
typedef struct {
    tk_int8_attention shape;
    bool has_bias;
    tk_place q, k, v, bias, out;
} tk_int8_attention_step;

typedef struct {
    int64_t rows, columns;
    tk_place x, y;
    const float *weight, *bias;
    float epsilon;
} tk_norm_step;

/// Rows of `run` floats between arrays of other row lengths.
typedef struct {
    int64_t rows, run, from_row, to_row;
    tk_place from, to;
} tk_copy_step;

typedef enum { TK_LINK_BINARY, TK_LINK_ACTIVATION, TK_LINK_UNARY } tk_link_kind;

/// One link of a chain: y = y op other, other op y, or an activation or function of y. `other` is read at strides over
/// (outer, inner).
typedef struct {
    tk_link_kind kind;
    tk_activation activation;
    tk_unary function;
    tk_binary operation;
    bool is_right;                              // y is the right operand
    tk_place other;
    int64_t other_outer, other_inner;
} tk_link;

/// A chain of elementwise operations over [outer][inner], piece by piece.
typedef struct {
    int64_t outer, inner;
    tk_place x, y;
    const tk_link *links;
    int link_count;
} tk_chain_step;

/// Softmax over rows, or the sums over the middle axis of [outer][middle][inner], times `scale`.
typedef struct {
    int64_t outer, middle, inner;
    float scale;
    tk_place x, y;
} tk_rows_step;

typedef struct {
    tk_pooling shape;                           // of one image
    tk_place x, y;
} tk_pool_step;

/// A convolution in groups, depthwise among them; one group is a product.
typedef struct {
    tk_convolution shape;                       // of one image
    const float *weight, *bias;
    tk_activation activation;
    tk_place x, y;
} tk_convolution_step;

/// y = x with its axes in another order, as tk_permute.
typedef struct {
    int64_t extents[8], steps[8];
    int order[8], rank;
    tk_place x, y;
} tk_permute_step;

/// A function of one image's values that only the caller knows. It may compute on all threads.
typedef struct {
    void (*function)(void *context, const float *const *inputs, float *output);
    void *context;
    const tk_place *inputs;
    int input_count;
    tk_place output;
} tk_call_step;

typedef enum {
    TK_STEP_PRODUCT, TK_STEP_MATRIX, TK_STEP_ATTENTION, TK_STEP_INT8_ATTENTION, TK_STEP_NORM, TK_STEP_COPY,
    TK_STEP_CHAIN, TK_STEP_SOFTMAX, TK_STEP_SUM, TK_STEP_MAX_POOL, TK_STEP_CONVOLUTION, TK_STEP_PERMUTE, TK_STEP_CALL
} tk_step_kind;

typedef struct {
    tk_step_kind kind;
    union {
        tk_product_step product;
        tk_matrix_step matrix;
        tk_attention_step attention;
        tk_int8_attention_step int8_attention;
        tk_norm_step norm;
        tk_copy_step copy;
        tk_chain_step chain;
        tk_rows_step rows;
        tk_pool_step pool;
        tk_convolution_step convolution;
        tk_permute_step permute;
        tk_call_step call;
    };
} tk_step;

/// What one thread did, for profiles. Times are in seconds of the monotonic clock.
typedef struct {
    int step, worker;
    int64_t images;
    double start, end;
} tk_event;

typedef struct {
    const tk_step *steps;
    int64_t step_count;
    int64_t arena;                              // floats for one image
    int64_t group;                              // the most images that a thread takes at a time
} tk_program;

/// One run. Images and outputs are dense, one image after the other.
typedef struct {
    int64_t images;
    const float *input;
    float *const *outputs;
    float *const *arenas;                       // tk_thread_count() of them, group * arena floats each
    tk_event *events;                           // or NULL; room for event_capacity
    int64_t event_capacity;
    void (*after_step)(void *context, int64_t step);        // or NULL; for a single image
    void *context;
} tk_program_run;

/// Floats that a packed weight takes.
int64_t tk_packed_size(const tk_product_step *product);

/// Packs a product's weight, on all threads.
void tk_product_pack(const tk_product_step *product);

/// Runs the program. Returns how many events were noted.
int64_t tk_program_execute(const tk_program *program, const tk_program_run *run);

/// Seconds of the monotonic clock.
double tk_seconds(void);
