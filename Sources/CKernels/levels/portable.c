// Kernels for portable.
#include "../int8.h"
#include "../table.h"
#define TK_LEVEL portable
#define TK_WIDTH 4
#include "../kernels/all.h"
