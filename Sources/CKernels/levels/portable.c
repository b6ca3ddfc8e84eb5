// Kernels for portable.
#include "../table.h"
#define TK_LEVEL portable
#define TK_WIDTH 4
#include "../kernels/all.h"
