// Functions of `floats`, one vector or several: vector.h includes this for each.
//
// They are accurate to a few units in the last place and treat infinities and NaN as the C library does. Polynomials are
// least-maximum fits of the relative error, made for this file.

/// a * b + c in one expression: fused where the instruction set has it. (The builtin would call the C library for every
/// lane where it has not.)
TK_OVERLOADED floats fma_(floats a, floats b, floats c) { return a * b + c; }

// Bitwise selection; comparisons of vectors give all ones or zeros in each lane. A NaN in `a` survives both limits.
TK_OVERLOADED floats vselect(ints condition, floats a, floats b) { return condition ? a : b; }
TK_OVERLOADED floats vmax(floats a, floats limit) { return vselect(limit > a, limit, a); }
TK_OVERLOADED floats vmin(floats a, floats limit) { return vselect(limit < a, limit, a); }
TK_OVERLOADED floats vabs(floats a) { return __builtin_elementwise_abs(a); }
TK_OVERLOADED floats vsqrt(floats a) { return __builtin_elementwise_sqrt(a); }
TK_OVERLOADED floats vcopysign(floats size, floats sign) { return __builtin_elementwise_copysign(size, sign); }
TK_OVERLOADED ints vbits(floats a) { ints b; memcpy(&b, &a, sizeof b); return b; }
TK_OVERLOADED floats vfrom_bits(ints a) { floats b; memcpy(&b, &a, sizeof b); return b; }

/// 1 / x to an ulp, for x between 1 and 2^126: what the approximation of the processor lacks, one step of Newton's method
/// adds, in a quarter of the time of a division.
TK_OVERLOADED floats vreciprocal(floats x) {
#if defined(TK_HAS_MASKS) && TK_WIDTH == 16
    const floats near = vreciprocal_estimate(x);
    return fma_(near, fma_(-x, near, (floats)1.0f), near);
#else
    return 1.0f / x;
#endif
}

/// exp(r) - 1 for |r| at most half of log 2.
TK_OVERLOADED floats exp_minus_one(floats r) {
    floats p = 1.381443660392334e-3f;
    p = fma_(p, r, (floats)8.368797566771155e-3f);
    p = fma_(p, r, (floats)4.1668395763143226e-2f);
    p = fma_(p, r, (floats)1.6666519963962856e-1f);
    p = fma_(p, r, (floats)4.9999993403390525e-1f);
    return fma_(p * r, r, r);
}

/// exp(x) = 2^n exp(r), with |r| at most half of log 2. Results below the normal range are zero.
TK_OVERLOADED floats vexp(floats x) {
    const float rounding = 0x1.8p23f;   // adding it leaves the nearest integer in the low bits
    floats shifted = fma_(x, (floats)0x1.715476p0f, (floats)rounding);
    floats n = shifted - rounding;
    floats r = fma_(n, (floats)-0x1.62ep-1f, x);            // the first 12 bits of log 2: n times them is exact
    r = fma_(n, (floats)-0x1.0bfbe8p-15f, r);
    floats y = vfrom_bits(vbits(exp_minus_one(r) + 1.0f) + (vbits(shifted) << 23));
    y = vselect(x < -87.33654f, (floats)0.0f, y);
    return vselect(~(x <= 88.72283f), x + INFINITY, y);     // too large, or not a number
}

/// exp(x) for x up to 87, in two thirds of the time; below -87.7 it is zero.
TK_OVERLOADED floats vexp_bounded(floats x) {
    const float rounding = 0x1.8p23f + 127;                 // so that the low bits are an exponent
    floats z = vmax(x, (floats)-88.0f);
    floats shifted = fma_(z, (floats)0x1.715476p0f, (floats)rounding);
    floats n = shifted - rounding;
    floats r = fma_(n, (floats)-0x1.62ep-1f, z);
    r = fma_(n, (floats)-0x1.0bfbe8p-15f, r);
    floats power = vfrom_bits(vbits(shifted) << 23);
    return fma_(exp_minus_one(r), power, power);
}

/// The same to 0.0001: 2^n times a polynomial of the rest.
TK_OVERLOADED floats rough_exp(floats x) {
    const float rounding = 0x1.8p23f + 127;
    floats z = vmax(x, (floats)-88.0f);
    floats shifted = fma_(z, (floats)0x1.715476p0f, (floats)rounding);
    floats r = fma_(z, (floats)0x1.715476p0f, rounding - shifted);
    floats p = 0.055171646f;
    p = fma_(p, r, (floats)0.24261138f);
    p = fma_(p, r, (floats)0.693261f);
    p = fma_(p, r, (floats)0.99992806f);
    return p * vfrom_bits(vbits(shifted) << 23);
}

/// log(x) = e log 2 + log(1 + f), with 1 + f between sqrt(1/2) and sqrt(2).
TK_OVERLOADED floats vlog(floats x) {
    ints is_subnormal = x < 0x1p-126f;
    floats scaled = vselect(is_subnormal, x * 0x1p23f, x);
    ints bits = vbits(scaled);
    ints exponent = (bits - 0x3f3504f3) >> 23;               // 0x3f3504f3 is sqrt(1/2)
    floats f = vfrom_bits(bits - (exponent << 23)) - 1.0f;
    floats e = __builtin_convertvector(exponent - (is_subnormal & 23), floats);
    floats p = 6.746552441566522e-2f;
    p = fma_(p, f, (floats)-1.1675734306393042e-1f);
    p = fma_(p, f, (floats)1.1888249766232685e-1f);
    p = fma_(p, f, (floats)-1.2405582663321625e-1f);
    p = fma_(p, f, (floats)1.4219539600788467e-1f);
    p = fma_(p, f, (floats)-1.6667995679455538e-1f);
    p = fma_(p, f, (floats)2.0002119286827313e-1f);
    p = fma_(p, f, (floats)-2.500000961221525e-1f);
    p = fma_(p, f, (floats)3.333331259465645e-1f);
    floats square = f * f;
    floats tail = fma_(p * f, square, e * 0x1.7f7d1cp-20f); // the low bits of log 2
    floats y = fma_((floats)-0.5f, square, tail) + f;
    y = fma_(e, (floats)0x1.62e4p-1f, y);
    y = vselect(x == INFINITY, x, y);
    y = vselect(x == 0.0f, (floats)-INFINITY, y);
    return vselect((x < 0.0f) | (x != x), (floats)NAN, y);
}

/// The distribution function of the standard normal law, as 1/2 + x P(x^2) / Q(x^2); beyond 5.6 it is 0 or 1.
TK_OVERLOADED floats normal_distribution(floats x) {
    floats z = vmax(vmin(x, (floats)5.65f), (floats)-5.65f);
    floats t = z * z;
    floats p = 2.2650628e-08f;
    p = fma_(p, t, (floats)6.29505439e-06f);
    p = fma_(p, t, (floats)0.00016641579f);
    p = fma_(p, t, (floats)0.00466235727f);
    p = fma_(p, t, (floats)0.0336591862f);
    p = fma_(p, t, (floats)0.398942262f);
    floats q = 1.19036872e-06f;
    q = fma_(q, t, (floats)7.26576254e-05f);
    q = fma_(q, t, (floats)0.00187113776f);
    q = fma_(q, t, (floats)0.0285271369f);
    q = fma_(q, t, (floats)0.251037419f);
    q = fma_(q, t, (floats)1.0f);
    return vmax(fma_(z * p, vreciprocal(q), (floats)0.5f), (floats)0.0f);
}

/// The same as 1/2 + x P(x^2), to 0.0002 / |x|; beyond 3.95 it is 0 or 1.
TK_OVERLOADED floats rough_normal_distribution(floats x) {
    floats z = vmax(vmin(x, (floats)3.95f), (floats)-3.95f);
    floats t = z * z;
    floats p = 2.44669014e-08f;
    p = fma_(p, t, (floats)-1.68268662e-06f);
    p = fma_(p, t, (floats)4.95812455e-05f);
    p = fma_(p, t, (floats)-0.000829311786f);
    p = fma_(p, t, (floats)0.00884418096f);
    p = fma_(p, t, (floats)-0.0647253916f);
    p = fma_(p, t, (floats)0.397988498f);
    return vmax(fma_(z, p, (floats)0.5f), (floats)0.0f);
}

/// The derivative of x times the distribution function, as 1/2 + x P(x^2), to 0.0003; beyond 4 it is 0 or 1.
TK_OVERLOADED floats rough_gelu_slope(floats x) {
    floats z = vmax(vmin(x, (floats)4.0f), (floats)-4.0f);
    floats t = z * z;
    floats p = -1.64197722e-08f;
    p = fma_(p, t, (floats)1.21380538e-06f);
    p = fma_(p, t, (floats)-3.84595551e-05f);
    p = fma_(p, t, (floats)0.000687645283f);
    p = fma_(p, t, (floats)-0.00768744107f);
    p = fma_(p, t, (floats)0.055914823f);
    p = fma_(p, t, (floats)-0.262029856f);
    p = fma_(p, t, (floats)0.796721637f);
    return fma_(z, p, (floats)0.5f);
}

/// At least 10^-38, which is what it is for -87.
TK_OVERLOADED floats vsigmoid(floats x) { return vreciprocal(1.0f + vexp_bounded(vmin(-x, (floats)87.0f))); }

/// A polynomial near 0, where the other form would cancel.
TK_OVERLOADED floats vtanh(floats x) {
    floats magnitude = vabs(x);
    floats far = 1.0f - 2.0f * vreciprocal(vexp_bounded(vmin(2.0f * magnitude, (floats)20.0f)) + 1.0f);
    floats t = x * x;
    floats p = -5.70495111307749e-3f;
    p = fma_(p, t, (floats)2.0639051905285186e-2f);
    p = fma_(p, t, (floats)-5.3739702933106e-2f);
    p = fma_(p, t, (floats)1.3331442029810758e-1f);
    p = fma_(p, t, (floats)-3.333328193443945e-1f);
    floats near = fma_(p * t, x, x);
    return vselect(magnitude < 0.625f, near, vcopysign(far, x));
}
