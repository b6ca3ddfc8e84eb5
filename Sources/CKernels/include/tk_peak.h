// What the machine can do at this moment, for profiles to compare with.
#pragma once
#include "tk_product.h"

/// Multiply-adds a second of all threads together: the product kernel on operands that stay in the caches.
double tk_measure_multiply_adds(tk_precision precision);

/// Bytes a second that all threads together read from memory.
double tk_measure_bandwidth(void);
