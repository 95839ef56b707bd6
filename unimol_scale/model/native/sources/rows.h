/* Blocks of rows of a [R, width] tensor, and operations on them: layer norm, GELU, sums of columns. */
#ifndef ROWS_H
#define ROWS_H

#include <math.h>

#include "packing.h"

INLINE long smaller(long a, long b) { return a < b ? a : b; }

/* Which rows of a tensor are real. The pairs of a molecule of n nodes in a tensor padded to N: the rows i·N + j with
 * i, j < n, counted without those between them; with n = N any rows that follow one another; or those of a list. */
typedef struct {
    long N, n;
    const int32_t *place;
} Square;

static const Square WHOLE = {0, 0, NULL};

/* nodes: int32 [B], or NULL if all are real. */
INLINE Square square_of(const float *nodes, long N, long molecule) {
    return (Square){N, nodes ? ((const int32_t *)nodes)[molecule] : N, NULL};
}

INLINE long place_of(Square s, long row) {
    if (s.place) return s.place[row];
    return s.n == s.N ? row : row / s.n * s.N + row % s.n;
}

/* How many rows from this one on follow one another, at most ``left``. */
INLINE long run_of(Square s, long row, long left) {
    if (s.place) {
        long run = 1;
        while (run < left && s.place[row + run] == s.place[row] + run) run++;
        return run;
    }
    return s.n == s.N ? left : smaller(s.n - row % s.n, left);
}

/* BLOCK rows with padded width: the tensor itself where it needs no padding, else a copy with zeros. */
static const float *get_rows(const float *tensor, Square s, long first, long count, long width, float *copy) {
    const long pitch = padded(width);
    if (count == BLOCK && pitch == width && run_of(s, first, count) == count)
        return tensor + place_of(s, first) * width;
    for (long r = 0, run; r < count; r += run) {
        const float *from = tensor + place_of(s, first + r) * width;
        run = run_of(s, first + r, count - r);
        if (pitch == width) copy_row(copy + r * pitch, from, run * width);
        else
            for (long k = 0; k < run; k++) copy_padded(copy + (r + k) * pitch, from + k * width, width, pitch);
    }
    memset(copy + count * pitch, 0, 4 * (BLOCK - count) * pitch);
    return copy;
}

static void put_rows(float *tensor, Square s, long first, long count, long width, const float *rows) {
    const long pitch = padded(width);
    for (long r = 0, run; r < count; r += run) {
        float *to = tensor + place_of(s, first + r) * width;
        run = run_of(s, first + r, count - r);
        if (pitch == width) copy_row(to, rows + r * pitch, run * width);
        else
            for (long k = 0; k < run; k++) copy_row(to + k * width, rows + (r + k) * pitch, width);
    }
}

/* Zeros where a molecule's tensor is padding. */
static void clear_padding(float *tensor, Square s, long width) {
    for (long i = 0; i < s.n && s.n < s.N; i++) memset(tensor + (i * s.N + s.n) * width, 0, 4 * (s.N - s.n) * width);
    memset(tensor + s.n * s.N * width, 0, 4 * (s.N - s.n) * s.N * width);
}

/* The real nodes of all molecules in a tensor [B, N, width], without the first ``skip`` of each; *count of them. */
static Square nodes_of(Space *space, const float *nodes, long B, long N, long skip, long *count) {
    int32_t *place = (int32_t *)take_raw(space, B * N + 1);
    *count = 0;
    for (long b = 0; b < B; b++)
        for (long i = skip; i < square_of(nodes, N, b).n; i++) place[(*count)++] = (int32_t)(b * N + i);
    return (Square){0, 0, place};
}

/* Zeros where a tensor [B, N, width] is padding. */
static void clear_nodes(float *tensor, const float *nodes, long B, long N, long width) {
    for (long b = 0; b < B; b++) {
        const long n = square_of(nodes, N, b).n;
        memset(tensor + (b * N + n) * width, 0, 4 * (N - n) * width);
    }
}

typedef struct {
    long width, pitch;
    const float *weight, *bias, *real; /* padded; real: 1 in columns that exist */
    float *weight_gradient, *bias_gradient;
} Norm;

static Norm norm_of(Space *space, const float *weight, const float *bias, long width) {
    float *real = take(space, padded(width));
    for (long c = 0; c < width; c++) real[c] = 1.0f;
    return (Norm){
        width, padded(width), pack(space, weight, 1, width), pack(space, bias, 1, width), real,
        take(space, padded(width)), take(space, padded(width)),
    };
}

/* normal = (x − mean) / σ [BLOCK, pitch], before weight and bias; rstd = 1 / σ of each row. */
static void standardise(const Norm *norm, const float *x, float *normal, float *rstd) {
    const long pitch = norm->pitch;
    const float share = 1.0f / (float)norm->width;
    for (long r = 0; r < BLOCK; r++) {
        const float *row = x + r * pitch;
        vec sum = {0}, square = {0};
        for (long c = 0; c < pitch; c += LANES) sum += load(row + c);
        const float mean = sum_of(sum) * share;
        for (long c = 0; c < pitch; c += LANES) {
            const vec offset = (load(row + c) - mean) * load(norm->real + c);
            square += offset * offset;
            store(normal + r * pitch + c, offset);
        }
        rstd[r] = sum_of(square) * share;
    }
    for (long r = 0; r < BLOCK; r++) rstd[r] = 1.0f / sqrtf(rstd[r] + 1e-5f);
    for (long r = 0; r < BLOCK; r++)
        for (long c = 0; c < pitch; c += LANES) store(normal + r * pitch + c, load(normal + r * pitch + c) * rstd[r]);
}

/* y = normal ∘ weight + bias. */
static void affine(const Norm *norm, const float *normal, float *y) {
    for (long c = 0; c < norm->pitch; c += LANES) {
        const vec weight = load(norm->weight + c), bias = load(norm->bias + c);
        for (long r = 0; r < BLOCK; r++) {
            const long at = r * norm->pitch + c;
            store(y + at, load(normal + at) * weight + bias);
        }
    }
}

/* The gradient of x from that of y; adds to the norm's own. grad_x may be grad_y. */
static void standardise_backward(Norm *norm, const float *grad_y, const float *normal, const float *rstd,
                                 float *grad_x) {
    for (long c = 0; c < norm->pitch; c += LANES) {
        vec weight = {0}, bias = {0};
        for (long r = 0; r < BLOCK; r++) {
            const vec grad = load(grad_y + r * norm->pitch + c);
            weight += grad * load(normal + r * norm->pitch + c);
            bias += grad;
        }
        store(norm->weight_gradient + c, load(norm->weight_gradient + c) + weight);
        store(norm->bias_gradient + c, load(norm->bias_gradient + c) + bias);
    }
    for (long r = 0; r < BLOCK; r++) {
        const float *grad = grad_y + r * norm->pitch, *x = normal + r * norm->pitch;
        float *to = grad_x + r * norm->pitch;
        vec sum = {0}, along = {0};
        for (long c = 0; c < norm->pitch; c += LANES) {
            const vec scaled = load(grad + c) * load(norm->weight + c);
            sum += scaled;
            along += scaled * load(x + c);
        }
        const float mean = sum_of(sum) / (float)norm->width, slope = sum_of(along) / (float)norm->width;
        for (long c = 0; c < norm->pitch; c += LANES)
            store(to + c, (load(grad + c) * load(norm->weight + c) - mean - load(x + c) * slope) * rstd[r]);
    }
}

static void put_norm_gradients(const Norm *norm, float *weight_gradient, float *bias_gradient) {
    memcpy(weight_gradient, norm->weight_gradient, 4 * norm->width);
    memcpy(bias_gradient, norm->bias_gradient, 4 * norm->width);
}

/* total += Σ over rows of a block. */
static void add_columns(const float *rows, long pitch, float *total) {
    for (long c = 0; c < pitch; c += LANES) {
        vec sum = {0};
        for (long r = 0; r < BLOCK; r++) sum += load(rows + r * pitch + c);
        store(total + c, load(total + c) + sum);
    }
}

INLINE void add_to(float *y, const float *x, long count) {
    for (long i = 0; i < count; i += LANES) store(y + i, load(y + i) + load(x + i));
}

#endif
