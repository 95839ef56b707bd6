/* The pair track's updates in single precision on one CPU thread, block by block in the nearest caches. */
#include "atom_encoding.h"
#include "attention_backward.h"
#include "feed_forward.h"
#include "pair_bias.h"
#include "pair_encoding.h"
#include "triangle_backward.h"
