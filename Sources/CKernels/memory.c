// Buffers by size class: a training step asks for the same sizes again and again, and fresh pages are slow.
#include "CKernels.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    SMALLEST = 256,             // bytes; smaller requests are rounded up to this
    LARGE = 1 << 20,            // bytes; from here on memory comes straight from the system
    CLASSES = 8 * 56            // eight classes an octave: at most an eighth of a buffer is unused
};

typedef struct idle { struct idle *next; } idle;

static struct {
    pthread_mutex_t lock;
    idle *free[CLASSES];
    int64_t used, peak, kept;   // bytes handed out now and at most, and idle in the lists
} cache = {.lock = PTHREAD_MUTEX_INITIALIZER};

/// The class of a request and the bytes that its buffers have.
static int size_class(int64_t count, int64_t *bytes) {
    int64_t wanted = count * (int64_t)sizeof(float);
    if (wanted < SMALLEST) wanted = SMALLEST;
    int octave = 63 - __builtin_clzll((uint64_t)wanted - 1);    // 2^octave < wanted <= 2^(octave + 1)
    int64_t step = ((int64_t)1 << octave) / 8;
    int64_t eighths = (wanted - ((int64_t)1 << octave) + step - 1) / step;
    *bytes = ((int64_t)1 << octave) + eighths * step;
    return octave * 8 + (int)eighths - 1;
}

static void *from_system(int64_t bytes) {
    void *memory;
    if (bytes >= LARGE) {
        memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) memory = NULL;
    } else if (posix_memalign(&memory, 64, (size_t)bytes) != 0) {
        memory = NULL;
    }
    if (!memory) {
        fprintf(stderr, "tessera: out of memory (asked for %lld bytes more)\n", (long long)bytes);
        abort();
    }
    return memory;
}

static void to_system(void *memory, int64_t bytes) {
    if (bytes >= LARGE) munmap(memory, (size_t)bytes);
    else free(memory);
}

static float *allocate(int64_t count, int zeroed) {
    int64_t bytes;
    const int class = size_class(count, &bytes);
    pthread_mutex_lock(&cache.lock);
    cache.used += bytes;
    if (cache.used > cache.peak) cache.peak = cache.used;
    // Untouched pages of the system are zero already, and cost nothing until they are used.
    idle *found = zeroed && bytes >= LARGE ? NULL : cache.free[class];
    if (found) {
        cache.free[class] = found->next;
        cache.kept -= bytes;
    }
    pthread_mutex_unlock(&cache.lock);
    float *memory = found ? (float *)found : from_system(bytes);
    if (zeroed && bytes < LARGE) memset(memory, 0, (size_t)count * sizeof(float));
    return memory;
}

float *tk_allocate(int64_t count) { return allocate(count, 0); }
float *tk_allocate_zeroed(int64_t count) { return allocate(count, 1); }

void tk_release(float *memory, int64_t count) {
    int64_t bytes;
    const int class = size_class(count, &bytes);
    pthread_mutex_lock(&cache.lock);
    cache.used -= bytes;
    // What lies idle together with what is used never exceeds the peak by more than an eighth.
    const int keep = cache.used + cache.kept + bytes <= cache.peak + cache.peak / 8;
    if (keep) {
        idle *entry = (idle *)memory;
        entry->next = cache.free[class];
        cache.free[class] = entry;
        cache.kept += bytes;
    }
    pthread_mutex_unlock(&cache.lock);
    if (!keep) to_system(memory, bytes);
}

void tk_trim(void) {
    pthread_mutex_lock(&cache.lock);
    for (int class = 0; class < CLASSES; class++) {
        const int octave = class / 8;
        const int64_t bytes = ((int64_t)1 << octave) / 8 * (8 + class % 8 + 1);
        while (cache.free[class]) {
            idle *entry = cache.free[class];
            cache.free[class] = entry->next;
            to_system(entry, bytes);
        }
    }
    cache.kept = 0;
    pthread_mutex_unlock(&cache.lock);
}

int64_t tk_bytes_in_use(void) {
    pthread_mutex_lock(&cache.lock);
    int64_t bytes = cache.used;
    pthread_mutex_unlock(&cache.lock);
    return bytes;
}

int64_t tk_peak_bytes(void) {
    pthread_mutex_lock(&cache.lock);
    int64_t bytes = cache.peak;
    pthread_mutex_unlock(&cache.lock);
    return bytes;
}
