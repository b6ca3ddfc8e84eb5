// Every kernel that is compiled once for each instruction set. A level file defines TK_LEVEL (a name), TK_WIDTH
// (floats per vector) and its target attributes, then includes this file; kernels are written once, on clang vectors.
#include "../table.h"
#include "vector.h"

#include "elementwise.h"
#include "axis.h"
#include "normalization.h"
#include "pooling.h"
#include "optimizer.h"
#include "dropout.h"
#include "product.h"
#include "int8_widened.h"
#include "int16.h"
#include "attention.h"
#include "depthwise.h"

const struct tk_table TK_KERNEL(tk_table) = {
#define X(result, name, arguments) .name = TK_KERNEL(name),
#include "elementwise.def"
#include "axis.def"
#include "normalization.def"
#include "pooling.def"
#include "optimizer.def"
#include "attention.def"
#include "depthwise.def"
#undef X
};

const struct tk_products TK_KERNEL(tk_products) = {
#define X(result, name, arguments) .name = TK_KERNEL(name),
#include "product.def"
#undef X
};
