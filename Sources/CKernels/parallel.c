// The pool of worker threads. A job is a range of indices that threads claim one at a time from an atomic counter.
//
// Workers join a job rather than being counted on: the caller starts at once, closes the job when no index is left, and
// waits only for those who joined. A worker that the system wakes too late delays nobody.
#include "tk_parallel.h"
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { most_threads = 256, spins_before_sleep = 2000 };

/// The state of the current job in one word: generation << 10 | closed << 9 | workers that joined. Its own cache line,
/// as for every counter below, because all threads hammer on it.
static _Alignas(128) _Atomic uint32_t job_word = 1 << 9;
enum { closed_bit = 1 << 9, joined_mask = closed_bit - 1, generation_step = 1 << 10 };

static _Alignas(128) _Atomic int64_t next_index;
static _Alignas(128) _Atomic uint32_t finished_workers;
static _Alignas(128) _Atomic int sleepers;

static _Alignas(128) struct {
    tk_task task;
    void *context;
    int64_t count;
    int threads;
} job;                                      // written before job_word opens the job, read after joining it

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;   // held by the thread whose job the pool runs
static int started_workers;                 // guarded by pool_lock
static _Atomic int thread_count;            // 0: not set yet
static _Thread_local bool inside_task;

/// The processors of the control group's quota, rounded up, or `most` if there is no quota.
static int quota_of_control_group(int most) {
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!file) return most;
    long long quota, period;
    int read = fscanf(file, "%lld %lld", &quota, &period);   // "max 100000" when unlimited
    fclose(file);
    if (read != 2 || quota <= 0 || period <= 0) return most;
    long long processors = (quota + period - 1) / period;
    return processors < most ? (int)processors : most;
}

static int available_processors(void) {
    cpu_set_t set;
    int count = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    count = quota_of_control_group(count);
    return count < 1 ? 1 : count > most_threads ? most_threads : count;
}

int tk_thread_count(void) {
    int count = thread_count;
    if (count == 0) {
        int none = 0;
        count = available_processors();
        if (!atomic_compare_exchange_strong(&thread_count, &none, count)) count = none;
    }
    return count;
}

void tk_set_thread_count(int count) {
    thread_count = count < 1 ? 1 : count > most_threads ? most_threads : count;
}

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void claim_indices(int worker) {
    inside_task = true;
    for (int64_t index; (index = atomic_fetch_add_explicit(&next_index, 1, memory_order_relaxed)) < job.count;)
        job.task(job.context, index, worker);
    inside_task = false;
}

/// Waits until job_word is no longer `seen`, and returns it.
static uint32_t wait_for_change(uint32_t seen) {
    uint32_t word;
    for (int spins = 0; (word = atomic_load(&job_word)) == seen; spins++) {
        if (spins < spins_before_sleep) {
            relax();
            continue;
        }
        atomic_fetch_add(&sleepers, 1);
        syscall(SYS_futex, &job_word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        atomic_fetch_sub(&sleepers, 1);
        spins = 0;
    }
    return word;
}

static void *work(void *argument) {
    int worker = (int)(intptr_t)argument;
    uint32_t word = atomic_load(&job_word);
    for (;;) {
        if (word & closed_bit) {
            word = wait_for_change(word);
            continue;
        }
        if (!atomic_compare_exchange_strong(&job_word, &word, word + 1)) continue;
        if (worker < job.threads) claim_indices(worker);
        uint32_t generation = word & ~(uint32_t)(generation_step - 1);
        atomic_fetch_add(&finished_workers, 1);
        // Sit out the rest of this job: its word changes while others join it and when it closes.
        while (((word = atomic_load(&job_word)) & ~(uint32_t)(generation_step - 1)) == generation)
            word = wait_for_change(word);
    }
    return NULL;
}

static void start_workers(int wanted) {
    for (; started_workers < wanted; started_workers++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(intptr_t)(started_workers + 1)) != 0) return;
        pthread_detach(thread);
    }
}

static void run_on_pool(int64_t count, int threads, tk_task task, void *context) {
    start_workers(threads - 1);
    job.task = task;
    job.context = context;
    job.count = count;
    job.threads = threads;
    atomic_store(&next_index, 0);
    atomic_store(&finished_workers, 0);
    uint32_t generation = (atomic_load(&job_word) & ~(uint32_t)(generation_step - 1)) + generation_step;
    atomic_store(&job_word, generation);
    if (atomic_load(&sleepers) > 0) syscall(SYS_futex, &job_word, FUTEX_WAKE_PRIVATE, most_threads, NULL, NULL, 0);

    claim_indices(0);
    uint32_t joined = atomic_fetch_or(&job_word, closed_bit) & joined_mask;
    for (int spins = 0; atomic_load(&finished_workers) != joined; spins++) {
        if (spins < spins_before_sleep) relax(); else sched_yield();
    }
}

void tk_parallel(int64_t count, tk_task task, void *context) {
    int threads = tk_thread_count();
    if (threads > count) threads = (int)count;
    // Another thread's job on the pool: doing the work here is better than waiting for the pool.
    if (threads > 1 && !inside_task && pthread_mutex_trylock(&pool_lock) == 0) {
        run_on_pool(count, threads, task, context);
        pthread_mutex_unlock(&pool_lock);
        return;
    }
    for (int64_t index = 0; index < count; index++) task(context, index, 0);
}
