// Group and batch normalisation. All that concerns a group follows from sums over the positions of each channel; the
// positions of a sample are cut into segments that do not depend on the number of threads.
#include "table.h"
#include <math.h>

enum { SEGMENT = 1 << 14, MAXIMUM_SEGMENTS = 64 };

typedef struct {
    const float *x, *y_gradient, *mean, *slope, *shift, *gain;      // the last four are [samples][channels]
    float *y, *sums, *products;                                     // sums are [segments][samples][channels]
    int64_t samples, positions, channels, segments;
} job;

static int64_t segment_count(int64_t positions, int64_t channels) {
    int64_t count = positions * channels / SEGMENT;
    if (count > MAXIMUM_SEGMENTS) count = MAXIMUM_SEGMENTS;
    if (count > positions) count = positions;
    return count < 1 ? 1 : count;
}

typedef struct { int64_t rows, at, channel, sum; } place;

/// Task `index`: its rows, where they start, the sample's channels, and where its sums go.
static place place_of(const job *j, int64_t index) {
    const int64_t sample = index / j->segments, segment = index % j->segments;
    const int64_t first = j->positions * segment / j->segments, end = j->positions * (segment + 1) / j->segments;
    return (place){end - first, (sample * j->positions + first) * j->channels, sample * j->channels,
                   (segment * j->samples + sample) * j->channels};
}

static void sum_segment(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const place p = place_of(j, index);
    tk_kernels()->column_sums(j->x + p.at, j->sums + p.sum, p.rows, j->channels);
}

static void square_segment(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const place p = place_of(j, index);
    tk_kernels()->column_squares(j->x + p.at, j->mean + p.channel, j->sums + p.sum, p.rows, j->channels);
}

static void product_segment(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const place p = place_of(j, index);
    tk_kernels()->column_products(j->y_gradient + p.at, j->x + p.at, j->mean + p.channel, j->sums + p.sum,
                                  j->products + p.sum, p.rows, j->channels);
}

static void map_segment(void *context, int64_t index, int worker) {
    (void)worker;
    const job *j = context;
    const place p = place_of(j, index);
    tk_kernels()->column_map(j->x + p.at, j->slope + p.channel, j->shift + p.channel,
                             j->y_gradient ? j->y_gradient + p.at : NULL, j->gain ? j->gain + p.channel : NULL,
                             j->y + p.at, p.rows, j->channels);
}

/// Runs the task for all segments, then adds up what they left, in order, into the first segment's place.
static void run_and_add(job *j, tk_task task) {
    const int64_t width = j->samples * j->channels;
    tk_parallel(j->samples * j->segments, task, j);
    for (int64_t s = 1; s < j->segments; s++) {
        tk_kernels()->add_scaled(j->sums + s * width, 1, j->sums, j->sums, width);
        if (j->products)
            tk_kernels()->add_scaled(j->products + s * width, 1, j->products, j->products, width);
    }
}

/// The mean over `size` neighbouring channels and all positions, for each group of each sample.
static void group_means(const job *j, float *means, int64_t size) {
    for (int64_t g = 0; g < j->samples * j->channels / size; g++) {
        double sum = 0;
        for (int64_t i = 0; i < size; i++) sum += j->sums[g * size + i];
        means[g] = (float)(sum / ((double)size * (double)j->positions));
    }
}

static void group_statistics(const float *x, float *statistics, int64_t samples, int64_t positions, int64_t channels,
                             int64_t groups) {
    const int64_t segments = segment_count(positions, channels), width = samples * channels, size = channels / groups;
    const int64_t scratch = (segments + 1) * width;
    float *sums = tk_allocate(scratch), *mean = sums + segments * width;
    job j = {.x = x, .mean = mean, .sums = sums, .samples = samples, .positions = positions, .channels = channels,
             .segments = segments};
    // Two passes over x, the mean first: the difference of the mean square and the square of the mean would cancel.
    run_and_add(&j, sum_segment);
    group_means(&j, statistics, size);
    for (int64_t i = 0; i < width; i++) mean[i] = statistics[i / size];
    run_and_add(&j, square_segment);
    group_means(&j, statistics + samples * groups, size);
    tk_release(sums, scratch);
}

void tk_group_norm_given(const float *x, const float *weight, const float *bias, float epsilon, float *y,
                         const float *statistics, int64_t samples, int64_t positions, int64_t channels,
                         int64_t groups) {
    const int64_t width = samples * channels, size = channels / groups;
    const float *means = statistics, *variances = statistics + samples * groups;
    float *slope = tk_allocate(2 * width), *shift = slope + width;
    for (int64_t i = 0; i < width; i++) {
        slope[i] = (weight ? weight[i % channels] : 1) / sqrtf(variances[i / size] + epsilon);
        shift[i] = (bias ? bias[i % channels] : 0) - means[i / size] * slope[i];
    }
    job j = {.x = x, .slope = slope, .shift = shift, .y = y, .samples = samples, .positions = positions,
             .channels = channels, .segments = segment_count(positions, channels)};
    tk_parallel(samples * j.segments, map_segment, &j);
    tk_release(slope, 2 * width);
}

void tk_group_norm(const float *x, const float *weight, const float *bias, float epsilon, float *y, float *statistics,
                   int64_t samples, int64_t positions, int64_t channels, int64_t groups) {
    group_statistics(x, statistics, samples, positions, channels, groups);
    tk_group_norm_given(x, weight, bias, epsilon, y, statistics, samples, positions, channels, groups);
}

/// Adds up the samples of [samples][channels], times `scale` of the same shape unless NULL.
static void add_samples(const float *sums, const float *scale, float *result, int64_t samples, int64_t channels) {
    for (int64_t c = 0; c < channels; c++) result[c] = 0;
    for (int64_t i = 0; i < samples * channels; i++) result[i % channels] += sums[i] * (scale ? scale[i] : 1);
}

void tk_group_norm_backward(const float *y_gradient, const float *x, const float *weight, const float *statistics,
                            float epsilon, bool is_constant, float *x_gradient, float *weight_gradient,
                            float *bias_gradient, int64_t samples, int64_t positions, int64_t channels,
                            int64_t groups) {
    const int64_t segments = segment_count(positions, channels), width = samples * channels, size = channels / groups;
    const int64_t scratch = (2 * segments + 5) * width;
    float *sums = tk_allocate(scratch), *products = sums + segments * width, *mean = products + segments * width;
    float *scale = mean + width, *gain = scale + width, *slope = gain + width, *shift = slope + width;
    for (int64_t i = 0; i < width; i++) {
        mean[i] = statistics[i / size];
        scale[i] = 1 / sqrtf(statistics[samples * groups + i / size] + epsilon);
    }
    job j = {.x = x, .y_gradient = y_gradient, .mean = mean, .slope = slope, .shift = shift, .gain = gain,
             .y = x_gradient, .sums = sums, .products = products, .samples = samples, .positions = positions,
             .channels = channels, .segments = segments};
    run_and_add(&j, product_segment);
    if (bias_gradient) add_samples(sums, NULL, bias_gradient, samples, channels);
    if (weight_gradient) add_samples(products, scale, weight_gradient, samples, channels);
    // With h = weight * gradient and n = (x - mean) * scale: dx = scale * (h - mean(h) - n * mean(h * n)), where the
    // means are zero if the statistics are constants. It is linear in x and the gradient.
    const double count = (double)size * (double)positions;
    for (int64_t g = 0; x_gradient && g < samples * groups; g++) {
        double offset = 0, slant = 0;
        for (int64_t i = g * size; !is_constant && i < (g + 1) * size; i++) {
            const double w = weight ? weight[i % channels] : 1;
            offset += w * sums[i] / count;
            slant += w * products[i] * scale[i] / count;
        }
        for (int64_t i = g * size; i < (g + 1) * size; i++) {
            gain[i] = scale[i] * (weight ? weight[i % channels] : 1);
            slope[i] = (float)(-slant * scale[i] * scale[i]);
            shift[i] = (float)(-offset * scale[i]) - slope[i] * mean[i];
        }
    }
    if (x_gradient) tk_parallel(samples * segments, map_segment, &j);
    tk_release(sums, scratch);
}

void tk_scale_and_shift(const float *x, const float *scale, const float *shift, float *y, int64_t rows,
                        int64_t channels) {
    job j = {.x = x, .slope = scale, .shift = shift, .y = y, .samples = 1, .positions = rows, .channels = channels,
             .segments = segment_count(rows, channels)};
    tk_parallel(j.segments, map_segment, &j);
}
