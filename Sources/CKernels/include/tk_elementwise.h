// Everything that touches each element a few times: activations, normalisation, reductions, losses, optimizers.
#pragma once
#include "tk_product.h"
