// Which instruction set this process uses.
#include "int8.h"
#include "table.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

static const char *const names[] = {"portable", "avx2", "avx512", "amx"};
static _Atomic int current_level;
static pthread_once_t chosen = PTHREAD_ONCE_INIT;

#if defined(__x86_64__)
/// The register sets that the system saves on a context switch.
static unsigned saved_registers(void) {
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE)) return 0;
    __asm__("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return a;
}

/// Linux gives a process the eight kilobytes of tile registers only when it asks (Documentation/arch/x86/xstate.rst).
static bool may_use_tiles(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    bool has_tiles = d >> 24 & 1, has_bfloat16 = d >> 22 & 1, has_int8 = d >> 25 & 1;
    return has_tiles && has_bfloat16 && has_int8 && __builtin_cpu_supports("avx512bf16") &&
           (saved_registers() >> 17 & 3) == 3 && syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0;
}
#endif

bool tk_level_is_supported(tk_level level) {
    if (level == TK_PORTABLE) return true;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx2 = (saved_registers() & 0x06) == 0x06 && __builtin_cpu_supports("avx2") &&
                __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2");
    bool avx512 = avx2 && (saved_registers() & 0xe6) == 0xe6 && __builtin_cpu_supports("avx512f") &&
                  __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                  __builtin_cpu_supports("avx512vl");
    switch (level) {
    case TK_PORTABLE: return true;
    case TK_AVX2: return avx2;
    case TK_AVX512: return avx512;
    case TK_AMX: return avx512 && may_use_tiles();
    }
#endif
    return false;
}

const char *tk_level_name(tk_level level) { return names[level]; }

static tk_level best_level(void) {
    for (int level = TK_AMX; level > TK_PORTABLE; level--)
        if (tk_level_is_supported((tk_level)level)) return (tk_level)level;
    return TK_PORTABLE;
}

/// The level that the user asked for; a wrong name ends the process, as a wrong flag would.
static tk_level level_named(const char *name) {
    for (int level = TK_PORTABLE; level <= TK_AMX; level++) {
        if (strcmp(name, names[level]) != 0) continue;
        if (tk_level_is_supported((tk_level)level)) return (tk_level)level;
        fprintf(stderr, "error: TESSERA_ISA is %s, which this processor lacks; its best is %s\n", name,
                names[best_level()]);
        exit(1);
    }
    fprintf(stderr, "error: TESSERA_ISA is '%s'; expected portable, avx2, avx512 or amx\n", name);
    exit(1);
}

#if defined(__x86_64__)
static struct tk_table table_with_bfloat16;     // of AVX-512
#endif

static void choose(void) {
    const char *name = getenv("TESSERA_ISA");
    current_level = name && *name ? level_named(name) : best_level();
#if defined(__x86_64__)
    table_with_bfloat16 = tk_table_avx512;
    tk_use_bfloat16(&table_with_bfloat16);
#endif
}

tk_level tk_current_level(void) {
    pthread_once(&chosen, choose);
    return (tk_level)current_level;
}

bool tk_select_level(tk_level level) {
    pthread_once(&chosen, choose);
    if (!tk_level_is_supported(level)) return false;
    current_level = level;
    return true;
}

static _Atomic bool avoids_extensions;

void tk_avoid_extensions(bool on) { avoids_extensions = on; }

#if defined(__x86_64__)
/// Whether AVX-512 converts to bfloat16 and multiplies such numbers.
static bool has_conversion(void) { return __builtin_cpu_supports("avx512bf16") && !avoids_extensions; }
#endif

const struct tk_table *tk_kernels(void) {
    switch (tk_current_level()) {
#if defined(__x86_64__)
    case TK_AMX:
    case TK_AVX512: return has_conversion() ? &table_with_bfloat16 : &tk_table_avx512;
    case TK_AVX2: return &tk_table_avx2;
#endif
    default: return &tk_table_portable;
    }
}

static _Atomic bool emulates_tiles;

void tk_emulate_tiles(bool on) { emulates_tiles = on; }

bool tk_has_vnni(void) {
#if defined(__x86_64__)
    return tk_current_level() >= TK_AVX512 && __builtin_cpu_supports("avx512vnni") && !avoids_extensions;
#else
    return false;
#endif
}

bool tk_has_bfloat16(void) {
#if defined(__x86_64__)
    return tk_current_level() == TK_AMX
        || (tk_current_level() == TK_AVX512 && has_conversion());
#else
    return false;
#endif
}

static const struct tk_products *int16_products(void) {
    switch (tk_current_level()) {
#if defined(__x86_64__)
    case TK_AMX:
    case TK_AVX512: return tk_has_vnni() ? &tk_products_int16_vnni : &tk_products_int16_avx512;
    case TK_AVX2: return &tk_products_int16_avx2;
#endif
    default: return &tk_products_int16_portable;
    }
}

static const struct tk_products *int8_products(void) {
#if defined(__x86_64__)
    if (tk_has_vnni()) return has_conversion() ? &tk_products_bytes_bfloat16 : &tk_products_bytes;
#endif
    return int16_products();
}

bool tk_uses_tiles(tk_precision precision) {
    return precision != TK_FLOAT32 && precision < TK_INT16 && (emulates_tiles || tk_current_level() == TK_AMX);
}

const struct tk_products *tk_products(tk_precision precision) {
    if (precision == TK_INT16) return int16_products();
    if (precision == TK_INT8) return int8_products();
    if (tk_uses_tiles(precision) && emulates_tiles) return &tk_products_emulated_tiles[precision - TK_BFLOAT16];
    switch (tk_current_level()) {
#if defined(__x86_64__)
    case TK_AMX:
        return precision == TK_FLOAT32 ? &tk_products_avx512 : &tk_products_tiles[precision - TK_BFLOAT16];
    case TK_AVX512:
        return precision == TK_BFLOAT16 && tk_has_bfloat16() ? &tk_products_bfloat16 : &tk_products_avx512;
    case TK_AVX2: return &tk_products_avx2;
#endif
    default: return &tk_products_portable;
    }
}

bool tk_has_fast_int8(void) { return tk_has_vnni() && !tk_uses_tiles(TK_BFLOAT16); }

tk_precision tk_float32_grade(void) {
    return emulates_tiles || tk_current_level() == TK_AMX ? TK_SPLIT6 : TK_FLOAT32;
}

const struct tk_int8_kernels *tk_int8_kernels(void) {
    if (emulates_tiles) return &tk_int8_kernels_emulated_tiles;
    switch (tk_current_level()) {
#if defined(__x86_64__)
    case TK_AMX: return &tk_int8_kernels_tiles;
    case TK_AVX512: return tk_has_vnni() ? &tk_int8_kernels_vnni : &tk_int8_kernels_avx512;
    case TK_AVX2: return &tk_int8_kernels_avx2;
#endif
    default: return &tk_int8_kernels_portable;
    }
}
