// Loops over raw memory for Tessera: the only place where floating-point work happens.
//
// Conventions. All arrays are float32, row-major, channels last. Every function splits its work by rules that do not
// depend on the number of threads, so results are bit-for-bit the same for any thread count. Nothing here allocates
// memory that it returns, except tk_allocate.
#pragma once
#include "tk_parallel.h"
#include "tk_level.h"
#include "tk_memory.h"
#include "tk_product.h"
#include "tk_int8.h"
#include "tk_int8_attention.h"
#include "tk_attention.h"
#include "tk_convolution.h"
#include "tk_deformable.h"
#include "tk_elementwise.h"
#include "tk_loss.h"
#include "tk_movement.h"
#include "tk_normalization.h"
#include "tk_optimizer.h"
#include "tk_peak.h"
#include "tk_program.h"
