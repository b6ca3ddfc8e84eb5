// Values and derivatives of tk_activation, for `floats` as in functions.h. `kind` is a constant wherever these are inlined
// into a loop over elements (see TK_FOR_ACTIVATION), so the switch costs nothing there.

/// (1 + tanh(t)) / 2 of the approximate GELU, which is the sigmoid of 2 t.
TK_OVERLOADED floats gelu_tanh_share(floats x) {
    return vsigmoid(x * fma_((floats)(2 * 0.7978845608f * 0.044715f), x * x, (floats)(2 * 0.7978845608f)));
}

TK_OVERLOADED floats clamp(floats x, float low, float high) { return vmin(vmax(x, (floats)low), (floats)high); }

TK_OVERLOADED floats activate(tk_activation kind, floats x) {
    switch (kind) {
    case TK_IDENTITY: return x;
    case TK_RELU: return vmax(x, (floats)0.0f);
    case TK_GELU: return x * normal_distribution(x);
    case TK_GELU_TANH: return x * gelu_tanh_share(x);
    case TK_QUICK_GELU: return x * vsigmoid(1.702f * x);
    case TK_SILU: return x * vsigmoid(x);
    case TK_SIGMOID: return vsigmoid(x);
    case TK_TANH: return vtanh(x);
    case TK_HARD_SWISH: return x * clamp(fma_(x, (floats)(1.0f / 6), (floats)0.5f), 0, 1);
    case TK_HARD_SIGMOID: return clamp(fma_(x, (floats)(1.0f / 6), (floats)0.5f), 0, 1);
    case TK_RELU6: return clamp(x, 0, 6);
    }
    return x;
}

/// The same with errors that rounding to bfloat16 hides: at most 0.0002, and 0.0005 of a positive value.
TK_OVERLOADED floats activate_for_rounding(tk_activation kind, floats x) {
    return kind == TK_GELU ? x * rough_normal_distribution(x) : activate(kind, x);
}

/// The derivative at the value before the activation. At a kink: the derivative on the left.
TK_OVERLOADED floats activation_derivative(tk_activation kind, floats x) {
    const floats zero = 0.0f, one = 1.0f;
    floats s;
    switch (kind) {
    case TK_IDENTITY: return one;
    case TK_RELU: return x > 0.0f ? one : zero;
    case TK_GELU: return fma_(0.3989422804f * x, vexp_bounded(-0.5f * x * x), normal_distribution(x));
    case TK_GELU_TANH: {
        s = gelu_tanh_share(x);
        floats slope = fma_((floats)(6 * 0.7978845608f * 0.044715f), x * x, (floats)(2 * 0.7978845608f));
        return fma_(x * s, (1.0f - s) * slope, s);
    }
    case TK_QUICK_GELU: s = vsigmoid(1.702f * x); return s * fma_(1.702f * x, 1.0f - s, one);
    case TK_SILU: s = vsigmoid(x); return s * fma_(x, 1.0f - s, one);
    case TK_SIGMOID: s = vsigmoid(x); return s * (1.0f - s);
    case TK_TANH: s = vtanh(x); return 1.0f - s * s;
    case TK_HARD_SWISH:
        return x <= -3.0f ? zero : (x > 3.0f ? one : fma_(x, (floats)(1.0f / 3), (floats)0.5f));
    case TK_HARD_SIGMOID: return x > -3.0f ? (x <= 3.0f ? (floats)(1.0f / 6) : zero) : zero;
    case TK_RELU6: return x > 0.0f ? (x <= 6.0f ? one : zero) : zero;
    }
    return one;
}

/// The same with errors of at most 0.0003, where what it multiplies is rounded to bfloat16.
TK_OVERLOADED floats activation_derivative_for_rounding(tk_activation kind, floats x) {
    return kind == TK_GELU ? rough_gelu_slope(x) : activation_derivative(kind, x);
}
