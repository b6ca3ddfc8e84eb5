// The two orders of work of a program. See tk_program.h.
#include "int8.h"
#include "program.h"
#include "tk_parallel.h"
#include <stdatomic.h>
#include <time.h>

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

double tk_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

int64_t tk_packed_size(const tk_product_step *p) {
    const int64_t size = p->is_quantized ? (tk_int8_packed_bytes(p->columns, p->depth) + 3) / 4
                                         : tk_products(p->precision)->packed_right_size(p->columns, p->depth);
    return (size + 15) / 16 * 16;
}

static int64_t pack_tasks(const tk_product_step *p) {
    if (p->is_quantized) return tk_int8_panels(p->columns);
    const int64_t k_block = tk_k_block(p->depth), column_tasks = (p->columns + TK_COLUMN_STEP - 1) / TK_COLUMN_STEP;
    return p->depth == 0 ? 0 : (p->depth + k_block - 1) / k_block * column_tasks;
}

/// Some columns of one k block of a weight.
static void pack_task(void *context, int64_t index, int worker) {
    (void)worker;
    const tk_product_step *p = context;
    if (p->is_quantized) {
        tk_int8_pack_panel(p->weight, p->columns, p->depth, p->weight_scales, index, p->packed);
        return;
    }
    const struct tk_products *kernels = tk_products(p->precision);
    const int64_t column_tasks = (p->columns + TK_COLUMN_STEP - 1) / TK_COLUMN_STEP;
    const int64_t column = index % column_tasks * TK_COLUMN_STEP, columns = least(p->columns - column, TK_COLUMN_STEP);
    const int64_t k = index / column_tasks * tk_k_block(p->depth), ks = least(p->depth - k, tk_k_block(p->depth));
    const tk_operand b = {.data = p->weight + column * p->depth, .row = 1, .column = p->depth};
    float *out = p->packed + kernels->packed_right_size(p->columns, k) + kernels->packed_right_size(column, ks);
    kernels->pack_right(&b, columns, k, ks, p->precision, out);
}

void tk_product_pack(const tk_product_step *p) { tk_parallel(pack_tasks(p), pack_task, (void *)p); }

typedef struct {
    const tk_program *program;
    const tk_program_run *run;
    int64_t group, grouped;                     // images of a group, and of all groups
    tk_frame frame;                             // where all threads share a step
    const tk_step *step;
    _Atomic int64_t *event_count;
} job;

static void note(const job *j, const tk_step *step, int worker, int64_t images, double start) {
    const int64_t place = atomic_fetch_add_explicit(j->event_count, 1, memory_order_relaxed);
    if (place >= j->run->event_capacity) return;
    j->run->events[place] = (tk_event){(int)(step - j->program->steps), worker, images, start, tk_seconds()};
}

/// A group of whole images through all steps.
static void group_task(void *context, int64_t index, int worker) {
    const job *j = context;
    const tk_frame frame = {
        .input = j->run->input, .outputs = j->run->outputs, .arena = j->run->arenas[worker],
        .capacity = j->program->group, .first = index * j->group, .threads = 1,
        .count = least(j->group, j->grouped - index * j->group),
    };
    for (const tk_step *step = j->program->steps; step < j->program->steps + j->program->step_count; step++) {
        const double start = j->run->events ? tk_seconds() : 0;
        const int64_t parts = tk_step_parts(step, &frame);
        for (int64_t part = 0; part < parts; part++) tk_step_run(step, &frame, part);
        if (j->run->events) note(j, step, worker, frame.count, start);
        if (j->run->after_step) j->run->after_step(j->run->context, step - j->program->steps);
    }
}

static void part_task(void *context, int64_t index, int worker) {
    const job *j = context;
    const double start = j->run->events ? tk_seconds() : 0;
    tk_step_run(j->step, &j->frame, index);
    if (j->run->events) note(j, j->step, worker, index == 0 ? j->frame.count : 0, start);
}

/// A step that calls all threads itself: each of them counts as busy from its start to its end.
static void shared_step(const job *j) {
    const double start = j->run->events ? tk_seconds() : 0;
    tk_step_run(j->step, &j->frame, 0);
    for (int worker = 0; j->run->events && worker < j->frame.threads; worker++)
        note(j, j->step, worker, worker == 0 ? j->frame.count : 0, start);
}

int64_t tk_program_execute(const tk_program *program, const tk_program_run *run) {
    const int threads = tk_thread_count();
    _Atomic int64_t event_count = 0;
    job j = {.program = program, .run = run, .event_count = &event_count};
    // Groups of equal size, as many for each thread; the rest of the images are shared one by one.
    j.grouped = run->images / threads * threads;
    if (j.grouped > 0) {
        const int64_t rounds = (j.grouped / threads + program->group - 1) / program->group;
        j.group = (j.grouped / threads + rounds - 1) / rounds;
        tk_parallel((j.grouped + j.group - 1) / j.group, group_task, &j);
    }
    for (int64_t image = j.grouped; image < run->images; image++) {
        j.frame = (tk_frame){
            .input = run->input, .outputs = run->outputs, .arena = run->arenas[0], .capacity = program->group,
            .first = image, .count = 1, .threads = threads,
        };
        for (j.step = program->steps; j.step < program->steps + program->step_count; j.step++) {
            if (tk_step_is_parallel(j.step)) shared_step(&j);
            else tk_parallel(tk_step_parts(j.step, &j.frame), part_task, &j);
            if (run->after_step) run->after_step(run->context, j.step - program->steps);
        }
    }
    const int64_t noted = event_count;
    return run->events ? least(noted, run->event_capacity) : 0;
}
