/* The triangle update, molecule by molecule, and its gradients; see TriangleFunction.
 *
 * Q = N² pairs of a molecule, h hidden channels. A plane is one channel of a molecule as a padded [N, N] matrix.
 */
#ifndef TRIANGLE_H
#define TRIANGLE_H

#include "outer_product.h"

typedef struct {
    long N, Q, P, h, Pp, hp, k, kp, cp; /* k = 2h values, or gates, of a and b, c = 2k; p: padded */
    long pitch, plane;                  /* of a plane's row, and from plane to plane */
    Norm norm, inner;
    const float *project_Pc, *out_hP, *out_bias, *gate_PP, *gate_bias; /* transposed */
    float *project_bias, *copy, *normal, *y, *rstd, *inner_normal, *inner_y, *inner_rstd, *projected, *gated, *out, *gate;
    float *a, *b, *a_or_b_turned; /* planes */
} Triangle;

enum { NORM_WEIGHT, NORM_BIAS, PROJECT, PROJECT_BIAS, INNER_WEIGHT, INNER_BIAS, OUT, OUT_BIAS, GATE, GATE_BIAS };

/* Rows of values and gates, between [.., 2k] and halves that are padded each. */
static const float *get_halves(const Triangle *t, const float *tensor, long first, long count, float *copy) {
    for (long r = 0; r < count; r++)
        for (long half = 0; half < 2; half++)
            memcpy(copy + r * t->cp + half * t->kp, tensor + ((first + r) * 2 + half) * t->k, 4 * t->k);
    return copy;
}

static void put_halves(const Triangle *t, float *tensor, long first, long count, const float *rows) {
    for (long r = 0; r < count; r++)
        for (long half = 0; half < 2; half++)
            memcpy(tensor + ((first + r) * 2 + half) * t->k, rows + r * t->cp + half * t->kp, 4 * t->k);
}

/* A weight [2k, columns] as [cp, padded(columns)]. */
static float *pack_halves(Space *space, const Triangle *t, const float *weight, long columns) {
    float *copy = take(space, t->cp * padded(columns));
    for (long half = 0; half < 2; half++)
        for (long r = 0; r < t->k; r++)
            memcpy(copy + (half * t->kp + r) * padded(columns), weight + (half * t->k + r) * columns, 4 * columns);
    return copy;
}

static Triangle triangle_of(Space *space, const long *size, float *const *weight) {
    const long N = size[1], P = size[2], h = size[3];
    Triangle t = {.N = N, .Q = N * N, .P = P, .h = h, .Pp = padded(P), .hp = padded(h), .k = 2 * h};
    t.kp = padded(t.k);
    t.cp = 2 * t.kp;
    t.pitch = padded(N);
    t.plane = whole_tiles(N) * t.pitch + PAD; /* not a power of two: planes would share the same lines of a cache */
    t.norm = norm_of(space, weight[NORM_WEIGHT], weight[NORM_BIAS], P);
    t.inner = norm_of(space, weight[INNER_WEIGHT], weight[INNER_BIAS], h);
    const float *project_cP = pack_halves(space, &t, weight[PROJECT], P);
    float *project_Pc = take(space, P * t.cp);
    for (long r = 0; r < t.cp; r++)
        for (long p = 0; p < P; p++) project_Pc[p * t.cp + r] = project_cP[r * t.Pp + p];
    t.project_Pc = project_Pc;
    t.project_bias = take(space, t.cp);
    get_halves(&t, weight[PROJECT_BIAS], 0, 1, t.project_bias);
    t.out_hP = pack_transposed(space, weight[OUT], P, h);
    t.out_bias = pack(space, weight[OUT_BIAS], 1, P);
    t.gate_PP = pack_transposed(space, weight[GATE], P, P);
    t.gate_bias = pack(space, weight[GATE_BIAS], 1, P);
    /* One allocation for all blocks. */
    float *block = take(space, BLOCK * (5 * t.Pp + 2 * t.hp + t.cp + t.kp + 2));
    float **const piece[] = {&t.copy, &t.normal, &t.y, &t.out, &t.gate, &t.inner_normal, &t.inner_y, &t.projected, &t.gated};
    const long width[] = {t.Pp, t.Pp, t.Pp, t.Pp, t.Pp, t.hp, t.hp, t.cp, t.kp};
    t.rstd = block;
    t.inner_rstd = block + BLOCK;
    block += 2 * BLOCK;
    for (int i = 0; i < 9; i++) {
        *piece[i] = block;
        block += BLOCK * width[i];
    }
    t.a = take(space, 3 * h * t.plane);
    t.b = t.a + h * t.plane;
    t.a_or_b_turned = t.b + h * t.plane;
    return t;
}

/* Columns of a block of rows, which are pairs of a molecule from ``first`` on, to planes; turned: transposed. */
static void to_planes(const Triangle *t, const float *rows, long pitch, long first, long count, long channels,
                      float *planes, int turned) {
    const long step = turned ? t->pitch : 1, line = turned ? 1 : t->pitch;
    for (long c = 0; c < channels; c++) {
        const float *from = rows + c;
        for (long q = first; q < first + count;) {
            const long i = q / t->N, j = q % t->N, run = smaller(t->N - j, first + count - q);
            float *to = planes + c * t->plane + i * line + j * step;
            for (long s = 0; s < run; s++) to[s * step] = from[(q - first + s) * pitch];
            q += run;
        }
    }
}

static void from_planes(const Triangle *t, const float *planes, long first, long count, long channels, float *rows,
                        long pitch) {
    for (long c = 0; c < channels; c++)
        for (long q = first; q < first + count;) {
            const long i = q / t->N, j = q % t->N, run = smaller(t->N - j, first + count - q);
            const float *from = planes + c * t->plane + i * t->pitch + j;
            for (long s = 0; s < run; s++) rows[(q - first + s) * pitch + c] = from[s];
            q += run;
        }
}

/* value ∘ sigmoid(gate) ∘ scale of a block; a and b side by side. */
static void gate_block(const Triangle *t, const float *projected, const float *scale, long count) {
    for (long r = 0; r < count; r++)
        for (long c = 0; c < t->kp; c += LANES) {
            const float *value = projected + r * t->cp + c;
            store(t->gated + r * t->kp + c, sigmoid(load(value + t->kp)) * load(value) * scale[r]);
        }
}

/* size: molecules B, nodes N, width P, hidden h, residual. tensor: x [B, N, N, P], scale [B, N, N], the ten weights
 * and biases; projected [B, N, N, 4h], product [B, N, N, h] and y. */
void triangle(const long *size, float *const *tensor) {
    Space *space = open_space();
    const Triangle t = triangle_of(space, size, tensor + 2);
    const long plane = t.plane, pitch = t.pitch, N = t.N, Nr = whole_tiles(N), Pp = t.Pp;
    float *product = take(space, t.h * plane);
    for (long start = 0; start < size[0] * t.Q; start += t.Q) {
        const float *x = tensor[0] + start * t.P, *scale = tensor[1] + start;
        for (long first = 0; first < t.Q; first += BLOCK) {
            const long count = smaller(BLOCK, t.Q - first);
            standardise(&t.norm, get_rows(x, first, count, t.P, t.copy), t.normal, t.rstd);
            affine(&t.norm, t.normal, t.y);
            multiply(BLOCK, t.cp, t.P, t.y, Pp, 1, t.project_Pc, t.cp, t.project_bias, t.projected, t.cp, 0);
            put_halves(&t, tensor[12] + start * 2 * t.k, first, count, t.projected);
            gate_block(&t, t.projected, scale + first, count);
            to_planes(&t, t.gated, t.kp, first, count, t.k, t.a, 0);
            to_planes(&t, t.gated + t.h, t.kp, first, count, t.h, t.a_or_b_turned, 1);
        }
        for (long c = 0; c < t.h; c++) { /* A·Bᵀ + Aᵀ·B */
            const float *a = t.a + c * plane;
            multiply(Nr, pitch, N, a, pitch, 1, t.a_or_b_turned + c * plane, pitch, NULL, product + c * plane, pitch, 0);
            multiply(Nr, pitch, N, a, 1, pitch, t.b + c * plane, pitch, NULL, product + c * plane, pitch, 1);
        }
        for (long first = 0; first < t.Q; first += BLOCK) {
            const long count = smaller(BLOCK, t.Q - first);
            const float *rows = get_rows(x, first, count, t.P, t.copy);
            standardise(&t.norm, rows, t.normal, t.rstd);
            affine(&t.norm, t.normal, t.y);
            multiply(BLOCK, Pp, t.P, t.y, Pp, 1, t.gate_PP, Pp, t.gate_bias, t.gate, Pp, 0);
            from_planes(&t, product, first, count, t.h, t.inner_y, t.hp);
            put_rows(tensor[13] + start * t.h, first, count, t.h, t.inner_y);
            standardise(&t.inner, t.inner_y, t.inner_normal, t.inner_rstd);
            affine(&t.inner, t.inner_normal, t.inner_normal);
            multiply(BLOCK, Pp, t.h, t.inner_normal, t.hp, 1, t.out_hP, Pp, t.out_bias, t.out, Pp, 0);
            for (long i = 0; i < BLOCK * Pp; i += LANES) {
                const vec update = load(t.out + i) * load(t.gate + i);
                store(t.out + i, size[4] ? update + load(rows + i) : update);
            }
            put_rows(tensor[14] + start * t.P, first, count, t.P, t.out);
        }
    }
}

#endif
