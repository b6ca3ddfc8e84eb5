// One pool of worker threads for the whole process. The caller is worker 0.
#pragma once
#include <stdint.h>

/// The number of threads that tk_parallel uses: the processors that this process may run on, until it is set.
int tk_thread_count(void);

/// Sets the number of threads (1 to 256). Must not be called while work is running.
void tk_set_thread_count(int count);

typedef void (*tk_task)(void *context, int64_t index, int worker);

/// Calls task(context, index, worker) once for every index in 0 ..< count, on all threads, and returns when all are
/// done. `worker` is below tk_thread_count() and names the calling thread, for scratch memory. Tasks must not depend on
/// each other. A call from inside a task runs serially.
void tk_parallel(int64_t count, tk_task task, void *context);
