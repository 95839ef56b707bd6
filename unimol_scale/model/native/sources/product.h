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

INLINE long padded(long width) { return (width + PAD - 1) / PAD * PAD; }

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
        const long left = (N - n) / LANES;
        const int vectors = left >= TILE_VECTORS && left != 4 ? TILE_VECTORS : left >= 2 ? 2 : 1;
        const float *panel = b + n, *start = bias ? bias + n : NULL;
        for (long m = 0; m < M; m += TILE_ROWS) {
            const float *rows = a + m * am;
            float *to = c + m * ldc + n;
#define TILE(V, A) tile(V, A, K, rows, am, ak, panel, ldb, start, to, ldc)
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

#define MOST_PIECES 48

/* What a call needs besides its arguments. Its pieces stay with the thread, since the next call needs about as much. */
typedef struct {
    float *piece[MOST_PIECES];
    size_t size[MOST_PIECES];
    int count;
} Space;

static _Thread_local Space scratch;

/* The thread's own, for one call. */
static Space *open_space(void) {
    scratch.count = 0;
    return &scratch;
}

/* Zeros. */
static float *take(Space *space, long count) {
    const int index = space->count++;
    const size_t size = (size_t)((count * 4 + 63) / 64 * 64 + 64);
    if (index < MOST_PIECES && space->size[index] < size) {
        free(space->piece[index]);
        space->piece[index] = aligned_alloc(64, size);
        space->size[index] = size;
    }
    if (index >= MOST_PIECES || !space->piece[index]) {
        fprintf(stderr, "the kernels of unimol_scale found no memory for %zu bytes\n", size);
        abort();
    }
    return memset(space->piece[index], 0, size);
}

/* A copy [rows, columns] with padded rows. */
static float *pack(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, (rows + TILE_ROWS) * padded(columns));
    for (long r = 0; r < rows; r++) memcpy(copy + r * padded(columns), matrix + r * columns, 4 * columns);
    return copy;
}

/* The transpose [columns, rows] with padded rows. */
static float *pack_transposed(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, columns * padded(rows));
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) copy[c * padded(rows) + r] = matrix[r * columns + c];
    return copy;
}

/* Copy a padded matrix to where it has no padding. */
static void unpack(float *to, const float *matrix, long rows, long columns) {
    for (long r = 0; r < rows; r++) memcpy(to + r * columns, matrix + r * padded(columns), 4 * columns);
}

#endif
