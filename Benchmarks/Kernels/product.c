// Speed of matrix products against the peak of the machine, measured in the same run.
// Build and run: make -C Benchmarks/Kernels
#include "CKernels.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

/// Independent multiply-adds on registers, the operations of a second on one thread.
#if defined(__x86_64__)
__attribute__((target("avx512f"))) static double peak(void) {
    typedef float vector __attribute__((ext_vector_type(16)));
    vector sums[16];
    for (int i = 0; i < 16; i++) sums[i] = (float)i;
    const vector factor = 0.999f, term = 1e-3f;
    const long count = 20000000;
    double start = now();
    for (long n = 0; n < count / 16; n++)
        for (int i = 0; i < 16; i++) sums[i] = __builtin_elementwise_fma(sums[i], factor, term);
    double seconds = now() - start;
    float sink = 0;
    for (int i = 0; i < 16; i++) sink += sums[i][0];
    return sink == 12345 ? 0 : 32.0 * count / seconds;
}
#endif

static void measure(const char *name, int64_t m, int64_t n, int64_t k, int form) {
    float *a = tk_allocate(m * k), *b = tk_allocate(n * k), *c = tk_allocate(m * n);
    for (int64_t i = 0; i < m * k; i++) a[i] = (float)(i % 7) - 3;
    for (int64_t i = 0; i < n * k; i++) b[i] = (float)(i % 5) - 2;
    tk_product p = {.m = m, .n = n, .k = k, .batch = 1, .a = a, .b = b, .c = c, .c_row = n, .alpha = 1};
    p.a_row = form == 2 ? 1 : k;
    p.a_column = form == 2 ? m : 1;
    p.b_row = form == 0 ? 1 : n;
    p.b_column = form == 0 ? k : 1;
    double best = 1e9;
    for (int run = 0; run < 12; run++) {
        double start = now();
        tk_multiply(&p);
        double seconds = now() - start;
        if (seconds < best) best = seconds;
    }
    double before = 0;
    for (int i = 0; i < 3; i++) before = fmax(before, peak());
    printf("%-10s %6lld %5lld %6lld  %6.1f GFLOP/s  %3.0f %% of %d x %.0f\n", name, (long long)m, (long long)n,
           (long long)k, 2e-9 * m * n * k / best, 100 * 2.0 * m * n * k / best / before / tk_thread_count(),
           tk_thread_count(), before * 1e-9);
    tk_release(a, m * k);
    tk_release(b, n * k);
    tk_release(c, m * n);
}

int main(void) {
    const char *names[] = {"x W^T", "dy W", "dy^T x"};
    printf("%s, %d threads\n", tk_level_name(tk_current_level()), tk_thread_count());
    for (int form = 0; form < 3; form++) {
        const int64_t sizes[][2] = {{192, 576}, {192, 768}, {768, 192}, {384, 1536}, {128, 384}, {256, 512}};
        for (int i = 0; i < 6; i++) {
            int64_t k = sizes[i][0], n = sizes[i][1], m = i < 4 ? 3152 : 6272;
            if (form == 0) measure(names[0], m, n, k, 0);
            if (form == 1) measure(names[1], m, k, n, 1);
            if (form == 2) measure(names[2], n, k, m, 2);
        }
    }
    measure("square", 1024, 1024, 1024, 1);
    return 0;
}
