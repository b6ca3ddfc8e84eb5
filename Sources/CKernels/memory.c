// A cache of released buffers, by size class. Eight classes for each power of two: at most an eighth is wasted, or three
// where an idle buffer is a little larger than what is wanted. Steps that differ in size, such as those of stochastic
// depth, so share their buffers.
//
// Idle buffers are bounded: together with what is in use they may be two and a half times the greatest use so far, and
// the longest idle go back to the system first. The forward and the backward half of a training step want different
// sizes: a tighter bound has each half give back what the other will ask for, a tenth of the step's time in page faults.
#include "tk_memory.h"
#include <assert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { least_bytes = 64, classes_per_power = 8, class_count = 64 * classes_per_power };
enum { header_bytes = 64, larger_classes = 3 };     // before each buffer; that a large buffer may be larger by
static const int64_t mapped_bytes = 256 << 10;      // buffers from this size on are mappings of their own
static const int64_t huge_page = 2 << 20;           // buffers from this size on begin at one
static const int64_t always_idle_bytes = 8 << 20;   // worth keeping whatever the use

/// What lies before a buffer: its size and, while it is idle, its place in the list of its class and in the list of all,
/// oldest first.
typedef struct header {
    struct header *next_of_class, *previous_of_class, *newer, *older;
    int64_t bytes;
} header;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;   // guards everything below
static header *idle_of_class[class_count];
static header *newest, *oldest;
static int64_t idle_bytes, used_bytes, peak_bytes, allocations;

/// The class that holds at least `bytes`, whose buffers have *rounded bytes.
static int class_for(int64_t bytes, int64_t *rounded) {
    if (bytes <= least_bytes * classes_per_power) {
        int64_t lines = bytes <= least_bytes ? 1 : (bytes + least_bytes - 1) / least_bytes;
        *rounded = lines * least_bytes;
        return (int)lines;
    }
    int power = 63 - __builtin_clzll((unsigned long long)(bytes - 1));      // 2^power < bytes <= 2^(power + 1)
    int64_t step = (int64_t)1 << (power - 3), steps = (bytes + step - 1) / step;
    *rounded = steps * step;
    return (power - 8) * classes_per_power + (int)(steps - classes_per_power);
}

static char *map(int64_t bytes) {
    void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

/// A mapping on huge pages. A product walks down columns, a page or more from one row to the next: with small pages,
/// looking up their addresses took it a tenth of its time.
static char *map_huge(int64_t bytes) {
    char *memory = map(bytes + huge_page);
    if (!memory) return NULL;
    const int64_t before = -(int64_t)(uintptr_t)memory & (huge_page - 1);
    if (before > 0) munmap(memory, (size_t)before);
    if (before < huge_page) munmap(memory + before + bytes, (size_t)(huge_page - before));
    madvise(memory + before, (size_t)bytes, MADV_HUGEPAGE);         // a wish: what it returns changes nothing
    return memory + before;
}

static void *buffer_of(header *h) { return (char *)h + header_bytes; }

static void *system_allocate(int64_t bytes) {
    void *memory;
    if (bytes >= huge_page) {
        memory = map_huge(header_bytes + bytes);
    } else if (bytes >= mapped_bytes) {
        memory = map(header_bytes + bytes);
    } else if (posix_memalign(&memory, 64, (size_t)(header_bytes + bytes)) != 0) {
        memory = NULL;
    }
    if (!memory) {
        fprintf(stderr, "error: out of memory: %lld bytes wanted, %lld in use\n", (long long)bytes,
                (long long)tk_bytes_in_use());
        abort();
    }
    ((header *)memory)->bytes = bytes;
    return buffer_of(memory);
}

static void system_release(header *h) {
    if (h->bytes >= mapped_bytes) munmap(h, (size_t)(header_bytes + h->bytes)); else free(h);
}

static void unlink_idle(header *buffer, int class) {
    if (buffer->previous_of_class) buffer->previous_of_class->next_of_class = buffer->next_of_class;
    else idle_of_class[class] = buffer->next_of_class;
    if (buffer->next_of_class) buffer->next_of_class->previous_of_class = buffer->previous_of_class;
    if (buffer->newer) buffer->newer->older = buffer->older; else newest = buffer->older;
    if (buffer->older) buffer->older->newer = buffer->newer; else oldest = buffer->newer;
    idle_bytes -= buffer->bytes;
}

/// Returns the oldest idle buffers to the system until at most `limit` bytes are idle.
static void shrink_idle(int64_t limit) {
    while (idle_bytes > limit && oldest) {
        header *buffer = oldest;
        int64_t bytes;
        unlink_idle(buffer, class_for(buffer->bytes, &bytes));
        system_release(buffer);
    }
}

static int64_t idle_limit(void) {
    int64_t limit = 5 * peak_bytes / 2 - used_bytes;
    return limit > always_idle_bytes ? limit : always_idle_bytes;
}

/// A recycled buffer or NULL; counts the bytes as used either way.
static void *take(int class, int64_t bytes) {
    const int last = bytes >= mapped_bytes && class + larger_classes < class_count ? class + larger_classes : class;
    pthread_mutex_lock(&lock);
    while (class < last && !idle_of_class[class]) class++;
    header *buffer = idle_of_class[class];
    if (buffer) unlink_idle(buffer, class);
    used_bytes += buffer ? buffer->bytes : bytes;
    allocations++;
    if (used_bytes > peak_bytes) peak_bytes = used_bytes;
    shrink_idle(idle_limit());
    pthread_mutex_unlock(&lock);
    return buffer ? buffer_of(buffer) : NULL;
}

static int64_t bytes_of(int64_t count) {
    if (count < 0 || count > INT64_MAX / 64) {
        fprintf(stderr, "error: out of memory: %lld floats wanted\n", (long long)count);
        abort();
    }
    return count * (int64_t)sizeof(float);
}

float *tk_allocate(int64_t count) {
    int64_t bytes;
    int class = class_for(bytes_of(count), &bytes);
    void *memory = take(class, bytes);
    return memory ? memory : system_allocate(bytes);
}

float *tk_allocate_zeroed(int64_t count) {
    int64_t bytes;
    int class = class_for(bytes_of(count), &bytes);
    void *memory = take(class, bytes);
    if (!memory) {
        memory = system_allocate(bytes);
        if (bytes >= mapped_bytes) return memory;       // new pages are zero, and exist only once they are touched
    }
    memset(memory, 0, (size_t)bytes);
    return memory;
}

void tk_release(float *memory, int64_t count) {
    if (!memory) return;
    header *buffer = (header *)((char *)memory - header_bytes);
    assert(bytes_of(count) <= buffer->bytes);
    int64_t bytes;
    int class = class_for(buffer->bytes, &bytes);
    pthread_mutex_lock(&lock);
    *buffer = (header){.next_of_class = idle_of_class[class], .older = newest, .bytes = bytes};
    if (buffer->next_of_class) buffer->next_of_class->previous_of_class = buffer;
    if (newest) newest->newer = buffer; else oldest = buffer;
    idle_of_class[class] = newest = buffer;
    idle_bytes += bytes;
    used_bytes -= bytes;
    shrink_idle(idle_limit());
    pthread_mutex_unlock(&lock);
}

void tk_trim(void) {
    pthread_mutex_lock(&lock);
    shrink_idle(0);
    pthread_mutex_unlock(&lock);
}

int64_t tk_bytes_in_use(void) {
    pthread_mutex_lock(&lock);
    int64_t bytes = used_bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}

int64_t tk_peak_bytes(void) {
    pthread_mutex_lock(&lock);
    int64_t bytes = peak_bytes;
    pthread_mutex_unlock(&lock);
    return bytes;
}

int64_t tk_allocation_count(void) {
    pthread_mutex_lock(&lock);
    int64_t count = allocations;
    pthread_mutex_unlock(&lock);
    return count;
}
