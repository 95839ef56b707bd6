/* Memory of a call, and matrices copied into it as products read them: padded, transposed, in panels. */
#ifndef PACKING_H
#define PACKING_H

#include "product.h"

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

/* Whatever was there. */
static float *take_raw(Space *space, long count) {
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
    return space->piece[index];
}

/* Zeros. */
static float *take(Space *space, long count) { return memset(take_raw(space, count), 0, (size_t)count * 4); }

/* to[c][r] = from[r][c] of at most LANES rows and columns. */
INLINE void turn_square(const float *from, long rows, long columns, long from_pitch, float *to, long to_pitch) {
#if LANES == 16
    const __mmask16 wide = first_lanes(columns), high = first_lanes(rows);
    __m512 row[16], quad[16], turned[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++)
        row[r] = r < rows ? _mm512_maskz_loadu_ps(wide, from + r * from_pitch) : _mm512_setzero_ps();
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
        const __m512 a = _mm512_unpacklo_ps(row[i], row[i + 1]), b = _mm512_unpackhi_ps(row[i], row[i + 1]);
        const __m512 c = _mm512_unpacklo_ps(row[i + 2], row[i + 3]), d = _mm512_unpackhi_ps(row[i + 2], row[i + 3]);
        quad[i] = (__m512)_mm512_unpacklo_pd((__m512d)a, (__m512d)c);
        quad[i + 1] = (__m512)_mm512_unpackhi_pd((__m512d)a, (__m512d)c);
        quad[i + 2] = (__m512)_mm512_unpacklo_pd((__m512d)b, (__m512d)d);
        quad[i + 3] = (__m512)_mm512_unpackhi_pd((__m512d)b, (__m512d)d);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) { /* quad[4q + j]: of column 4L + j rows 4q to 4q + 3 in its quarter L */
        const __m512 even = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0x88);
        const __m512 odd = _mm512_shuffle_f32x4(quad[j], quad[4 + j], 0xdd);
        const __m512 even_below = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0x88);
        const __m512 odd_below = _mm512_shuffle_f32x4(quad[8 + j], quad[12 + j], 0xdd);
        turned[j] = _mm512_shuffle_f32x4(even, even_below, 0x88);
        turned[4 + j] = _mm512_shuffle_f32x4(odd, odd_below, 0x88);
        turned[8 + j] = _mm512_shuffle_f32x4(even, even_below, 0xdd);
        turned[12 + j] = _mm512_shuffle_f32x4(odd, odd_below, 0xdd);
    }
#pragma GCC unroll 16
    for (int c = 0; c < 16; c++)
        if (c < columns) _mm512_mask_storeu_ps(to + c * to_pitch, high, turned[c]);
#else
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) to[c * to_pitch + r] = from[r * from_pitch + c];
#endif
}

/* to[c][r] = from[r][c]. */
static void turn(const float *from, long rows, long columns, long from_pitch, float *to, long to_pitch) {
    for (long r = 0; r < rows; r += LANES)
        for (long c = 0; c < columns; c += LANES) {
            const long high = rows - r < LANES ? rows - r : LANES, wide = columns - c < LANES ? columns - c : LANES;
            turn_square(from + r * from_pitch + c, high, wide, from_pitch, to + c * to_pitch + r, to_pitch);
        }
}

/* A copy [rows, columns] with padded rows. */
static float *pack(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, (rows + TILE_ROWS) * padded(columns));
    for (long r = 0; r < rows; r++) copy_row(copy + r * padded(columns), matrix + r * columns, columns);
    return copy;
}

/* The transpose [columns, rows] with padded rows. */
static float *pack_transposed(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, columns * padded(rows));
    turn(matrix, rows, columns, columns, copy, padded(rows));
    return copy;
}

/* A copy [rows, columns] in panels, as multiply reads it: each as wide as a tile and as long as the matrix, one after
 * another. Rows of a wide matrix are far from each other, and caches fetch them late. */
static float *pack_panels(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, rows * padded(columns));
    for (long n = 0, width; n < padded(columns); n += width) {
        width = tile_vectors((padded(columns) - n) / LANES) * LANES;
        const long real = columns - n < width ? columns - n : width;
        for (long r = 0; r < rows; r++) copy_row(copy + n * rows + r * width, matrix + r * columns + n, real);
    }
    return copy;
}

/* The transpose [columns, rows] in panels. */
static float *pack_panels_transposed(Space *space, const float *matrix, long rows, long columns) {
    float *copy = take(space, columns * padded(rows));
    for (long n = 0, width; n < padded(rows); n += width) {
        width = tile_vectors((padded(rows) - n) / LANES) * LANES;
        const long real = rows - n < width ? rows - n : width;
        turn(matrix + n * columns, real, columns, columns, copy + n * columns, width);
    }
    return copy;
}

/* Zeros to sum the gradient of a matrix in: its tensor itself if that needs no padding. */
static float *gradient_of(Space *space, float *tensor, long rows, long columns) {
    if (padded(columns) == columns && whole_tiles(rows) == rows) return memset(tensor, 0, 4 * rows * columns);
    return take(space, (rows + TILE_ROWS) * padded(columns));
}

/* Copy a padded matrix to where it has no padding. */
static void unpack(float *to, const float *matrix, long rows, long columns) {
    if (to == matrix) return;
    for (long r = 0; r < rows; r++) copy_row(to + r * columns, matrix + r * padded(columns), columns);
}

#endif
