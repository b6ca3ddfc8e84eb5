// Products of 8-bit integers where no instruction multiplies four of them: as pairs of 16 bits, or one by one.
#include "dot_pairs.h"

#if defined(TK_HAS_MASKS)
/// The even and the odd values of each lane as 16 bits.
typedef struct {
    vint even, odd;
} quads;

typedef short vshort __attribute__((ext_vector_type(2 * TK_WIDTH)));

typedef unsigned short vushort __attribute__((ext_vector_type(2 * TK_WIDTH)));

TK_INLINE quads right_quads(vint four) {
    vshort pairs;
    memcpy(&pairs, &four, sizeof pairs);
    const vshort even = (pairs << 8) >> 8, odd = pairs >> 8;
    quads q;
    memcpy(&q.even, &even, sizeof even);
    memcpy(&q.odd, &odd, sizeof odd);
    return q;
}

TK_INLINE quads left_quads(vint four) {
    vushort pairs;
    memcpy(&pairs, &four, sizeof pairs);
    const vushort even = pairs & 255, odd = pairs >> 8;
    quads q;
    memcpy(&q.even, &even, sizeof even);
    memcpy(&q.odd, &odd, sizeof odd);
    return q;
}

TK_INLINE vint dot_quads(vint sums, quads a, quads b) {
    return dot_pairs(dot_pairs(sums, a.even, b.even), a.odd, b.odd);
}
#else
typedef struct {
    vint value[4];
} quads;

TK_INLINE quads right_quads(vint four) {
    return (quads){{four << 24 >> 24, four << 16 >> 24, four << 8 >> 24, four >> 24}};
}

TK_INLINE quads left_quads(vint four) {
    return (quads){{four & 255, four >> 8 & 255, four >> 16 & 255, four >> 24 & 255}};
}

TK_INLINE vint dot_quads(vint sums, quads a, quads b) {
    for (int i = 0; i < 4; i++) sums += a.value[i] * b.value[i];
    return sums;
}
#endif

#include "int8_vectors.h"
