/* Products of small matrices whose widths are padded to whole vectors. */
#ifndef PRODUCT_H
#define PRODUCT_H

#include "vectors.h"

/* Widths are padded with zeros to a multiple of it, and row counts of results to a multiple of TILE_ROWS. */
#define PAD 16
#define TILE_VECTORS 3
#if defined(__AVX512F__)
#define TILE_ROWS 8
#else
#define TILE_ROWS 4
#endif

/* A block of rows that stays in the nearest caches through all operations on it. */
#define BLOCK 64

/* Instead of the distance between rows of b in multiply: b is in panels, see pack_panels. */
#define PANELS 0

INLINE long padded(long width) { return (width + PAD - 1) / PAD * PAD; }

INLINE long whole_tiles(long rows) { return (rows + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS; }

/* How many vectors wide the next tile is, where so many are left. */
INLINE int tile_vectors(long left) { return left >= TILE_VECTORS && left != 4 ? TILE_VECTORS : left >= 2 ? 2 : 1; }

/* One tile of c = [c +] a·b + bias; its sums stay in registers. See multiply. */
INLINE void tile(const int vectors, const int add, long K, const float *a, long am, long ak, const float *b, long ldb,
                 const float *bias, float *c, long ldc) {
    vec sum[TILE_ROWS][TILE_VECTORS];
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 3
        for (int n = 0; n < vectors; n++) sum[m][n] = bias ? load(bias + n * LANES) : (vec){0};
    for (long k = 0; k < K; k++) {
        vec right[TILE_VECTORS];
#pragma GCC unroll 3
        for (int n = 0; n < vectors; n++) right[n] = load(b + k * ldb + n * LANES);
#pragma GCC unroll 8
        for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 3
            for (int n = 0; n < vectors; n++) sum[m][n] += right[n] * a[m * am + k * ak];
    }
#pragma GCC unroll 8
    for (int m = 0; m < TILE_ROWS; m++)
#pragma GCC unroll 3
        for (int n = 0; n < vectors; n++) {
            float *to = c + m * ldc + n * LANES;
            store(to, add ? load(to) + sum[m][n] : sum[m][n]);
        }
}

/* c[M, N] = [c +] Σ_k a(m, k)·b[k, n] [+ bias[n]].
 *
 * a(m, k) is at a[m·am + k·ak], so that a transposed matrix needs no copy. M is a multiple of TILE_ROWS and N of LANES.
 * What is added to c is summed first: long sums of blocks lose less that way.
 */
static void multiply(long M, long N, long K, const float *a, long am, long ak, const float *b, long ldb,
                     const float *bias, float *c, long ldc, int add) {
    for (long n = 0; n < N;) {
        const int vectors = tile_vectors((N - n) / LANES);
        const float *panel = ldb == PANELS ? b + n * K : b + n, *start = bias ? bias + n : NULL;
        const long pitch = ldb == PANELS ? vectors * LANES : ldb;
        for (long m = 0; m < M; m += TILE_ROWS) {
            const float *rows = a + m * am;
            float *to = c + m * ldc + n;
#define TILE(V, A) tile(V, A, K, rows, am, ak, panel, pitch, start, to, ldc)
            if (add) {
                if (vectors == 3) TILE(3, 1);
                else if (vectors == 2) TILE(2, 1);
                else TILE(1, 1);
            } else {
                if (vectors == 3) TILE(3, 0);
                else if (vectors == 2) TILE(2, 0);
                else TILE(1, 0);
            }
#undef TILE
        }
        n += vectors * LANES;
    }
}

#endif
