// Values and derivatives of tk_activation at float32 grade, on vectors. `kind` is a constant wherever these are
// inlined into a loop over elements (see TK_FOR_ACTIVATION), so the switch costs nothing there.

/// The distribution function of the standard normal law.
TK_INLINE vfloat normal_distribution(vfloat x) { return 0.5f + 0.5f * verf(0.7071067812f * x); }

/// The argument of the hyperbolic tangent in the approximate GELU.
TK_INLINE vfloat gelu_tanh_argument(vfloat x) {
    return x * fma_((vfloat)(0.7978845608f * 0.044715f), x * x, (vfloat)0.7978845608f);
}

TK_INLINE vfloat clamp(vfloat x, float low, float high) { return vmin(vmax(x, (vfloat)low), (vfloat)high); }

TK_INLINE vfloat activate(tk_activation kind, vfloat x) {
    switch (kind) {
    case TK_IDENTITY: return x;
    case TK_RELU: return vmax(x, (vfloat)0.0f);
    case TK_GELU: return x * normal_distribution(x);
    case TK_GELU_TANH: return 0.5f * x * (1.0f + vtanh(gelu_tanh_argument(x)));
    case TK_QUICK_GELU: return x * vsigmoid(1.702f * x);
    case TK_SILU: return x * vsigmoid(x);
    case TK_SIGMOID: return vsigmoid(x);
    case TK_TANH: return vtanh(x);
    case TK_HARD_SWISH: return x * clamp(fma_(x, (vfloat)(1.0f / 6), (vfloat)0.5f), 0, 1);
    case TK_HARD_SIGMOID: return clamp(fma_(x, (vfloat)(1.0f / 6), (vfloat)0.5f), 0, 1);
    case TK_RELU6: return clamp(x, 0, 6);
    }
    return x;
}

/// The derivative at the value before the activation. At a kink: the derivative on the left.
TK_INLINE vfloat activation_derivative(tk_activation kind, vfloat x) {
    const vfloat zero = 0.0f, one = 1.0f;
    vfloat s;
    switch (kind) {
    case TK_IDENTITY: return one;
    case TK_RELU: return x > 0.0f ? one : zero;
    case TK_GELU: return fma_(0.3989422804f * x, vexp(-0.5f * x * x), normal_distribution(x));
    case TK_GELU_TANH: {
        vfloat t = vtanh(gelu_tanh_argument(x));
        vfloat slope = fma_((vfloat)(3 * 0.7978845608f * 0.044715f), x * x, (vfloat)0.7978845608f);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * slope;
    }
    case TK_QUICK_GELU: s = vsigmoid(1.702f * x); return s * fma_(1.702f * x, 1.0f - s, one);
    case TK_SILU: s = vsigmoid(x); return s * fma_(x, 1.0f - s, one);
    case TK_SIGMOID: s = vsigmoid(x); return s * (1.0f - s);
    case TK_TANH: s = vtanh(x); return 1.0f - s * s;
    case TK_HARD_SWISH:
        return x <= -3.0f ? zero : (x > 3.0f ? one : fma_(x, (vfloat)(1.0f / 3), (vfloat)0.5f));
    case TK_HARD_SIGMOID: return x > -3.0f ? (x <= 3.0f ? (vfloat)(1.0f / 6) : zero) : zero;
    case TK_RELU6: return x > 0.0f ? (x <= 6.0f ? one : zero) : zero;
    }
    return one;
}

/// Runs the statement with `kind` replaced by each constant in turn, so that the compiler specialises its loop.
#define TK_FOR_ACTIVATION(kind, statement)                                                                             \
    switch (kind) {                                                                                                    \
        TK_CASE(TK_IDENTITY, statement) TK_CASE(TK_RELU, statement) TK_CASE(TK_GELU, statement)                        \
        TK_CASE(TK_GELU_TANH, statement) TK_CASE(TK_QUICK_GELU, statement) TK_CASE(TK_SILU, statement)                 \
        TK_CASE(TK_SIGMOID, statement) TK_CASE(TK_TANH, statement) TK_CASE(TK_HARD_SWISH, statement)                   \
        TK_CASE(TK_HARD_SIGMOID, statement) TK_CASE(TK_RELU6, statement)                                               \
    }
#define TK_CASE(constant, statement) case constant: { const tk_activation activation = constant; statement; break; }
