/* The updates of both tracks and what comes before them, in single precision on one CPU thread, block by block in the
 * nearest caches. */
#include "atom_encoding.h"
#include "feed_forward.h"
#include "layer_norm.h"
#include "mixed_attention.h"
#include "pair_bias.h"
#include "pair_encoding.h"
#include "triangle_backward.h"
