/* The triangle update, molecule by molecule, and its gradients; see TriangleFunction.
 *
 * Q = n² pairs of a molecule of n nodes, h hidden channels. A plane is one of its channels as a padded [n, n] matrix.
 */
#ifndef TRIANGLE_H
#define TRIANGLE_H

#include "outer_product.h"

typedef struct {
    Square square;                      /* of the molecule at hand in x and y; what is kept has no padding */
    long n, Q, P, h, Pp, hp, k, kp, cp; /* k = 2h values, or gates, of a and b, c = 2k; p: padded */
    long pitch, plane;                  /* of a plane's row, and from plane to plane */
    Norm norm, inner;
    const float *project_Pc, *out_hP, *out_bias, *gate_PP, *gate_bias; /* transposed */
    float *project_bias, *copy, *normal, *y, *rstd, *inner_normal, *inner_y, *inner_rstd, *projected, *gated, *out, *gate;
    float *a, *b, *b_turned; /* planes */
} Triangle;

enum { NORM_WEIGHT, NORM_BIAS, PROJECT, PROJECT_BIAS, INNER_WEIGHT, INNER_BIAS, OUT, OUT_BIAS, GATE, GATE_BIAS };

/* Rows of values and gates, between [.., 2k] and halves that are padded each. */
static const float *get_halves(const Triangle *t, const float *tensor, long first, long count, float *copy) {
    for (long r = 0; r < count; r++)
        for (long half = 0; half < 2; half++)
            copy_row(copy + r * t->cp + half * t->kp, tensor + ((first + r) * 2 + half) * t->k, t->k);
    return copy;
}

static void put_halves(const Triangle *t, float *tensor, long first, long count, const float *rows) {
    for (long r = 0; r < count; r++)
        for (long half = 0; half < 2; half++)
            copy_row(tensor + ((first + r) * 2 + half) * t->k, rows + r * t->cp + half * t->kp, t->k);
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
    Triangle t = {.P = P, .h = h, .Pp = padded(P), .hp = padded(h), .k = 2 * h};
    t.kp = padded(t.k);
    t.cp = 2 * t.kp;
    t.plane = whole_tiles(N) * padded(N) + PAD; /* not a power of two: planes would share the same lines of a cache */
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
    float **const piece[] = {&t.copy,         &t.normal,  &t.y,         &t.out,  &t.gate,
                             &t.inner_normal, &t.inner_y, &t.projected, &t.gated};
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
    t.b_turned = t.b + h * t.plane;
    return t;
}

/* Turn to a molecule of so many nodes; all planes are zeros again where they are padding. */
static void turn_to(Triangle *t, Square square, float *const planes[], int count) {
    if (square.n != t->n)
        for (int i = 0; i < count; i++) memset(planes[i], 0, 4 * t->h * t->plane);
    t->square = square;
    t->n = square.n;
    t->Q = square.n * square.n;
    t->pitch = padded(square.n);
}

/* Columns of a block of rows, which are pairs of a molecule from ``first`` on, to planes. */
static void to_planes(const Triangle *t, const float *rows, long pitch, long first, long count, long channels,
                      float *planes) {
    for (long q = first, run; q < first + count; q += run) {
        const long i = q / t->n, j = q % t->n;
        run = smaller(t->n - j, first + count - q);
        turn(rows + (q - first) * pitch, run, channels, pitch, planes + i * t->pitch + j, t->plane);
    }
}

static void from_planes(const Triangle *t, const float *planes, long first, long count, long channels, float *rows,
                        long pitch) {
    for (long q = first, run; q < first + count; q += run) {
        const long i = q / t->n, j = q % t->n;
        run = smaller(t->n - j, first + count - q);
        turn(planes + i * t->pitch + j, channels, run, t->plane, rows + (q - first) * pitch, pitch);
    }
}

static void turn_planes(const Triangle *t, const float *planes, float *turned) {
    for (long at = 0; at < t->h * t->plane; at += t->plane) turn(planes + at, t->n, t->n, t->pitch, turned + at, t->pitch);
}

/* value ∘ sigmoid(gate) ∘ scale of a block; a and b side by side. */
static void gate_block(const Triangle *t, const float *projected, const float *scale, long first, long count) {
    for (long r = 0; r < count; r++) {
        const float factor = scale[place_of(t->square, first + r)];
        for (long c = 0; c < t->kp; c += LANES) {
            const float *value = projected + r * t->cp + c;
            store(t->gated + r * t->kp + c, sigmoid(load(value + t->kp)) * factor * load(value));
        }
    }
}

/* o ∘ g of a block, from the rows of x and the product in t->inner_y. */
static void gated_update(const Triangle *t, const float *rows) {
    standardise(&t->norm, rows, t->normal, t->rstd);
    affine(&t->norm, t->normal, t->y);
    multiply(BLOCK, t->Pp, t->P, t->y, t->Pp, 1, t->gate_PP, t->Pp, t->gate_bias, t->gate, t->Pp, 0);
    standardise(&t->inner, t->inner_y, t->inner_normal, t->inner_rstd);
    affine(&t->inner, t->inner_normal, t->inner_normal);
    multiply(BLOCK, t->Pp, t->h, t->inner_normal, t->hp, 1, t->out_hP, t->Pp, t->out_bias, t->out, t->Pp, 0);
    for (long i = 0; i < BLOCK * t->Pp; i += LANES) store(t->out + i, load(t->out + i) * load(t->gate + i));
}

static void triangle_of_molecule(const Triangle *t, const float *x, const float *scale, float *projected,
                                 float *product, float *y, float *product_planes, int residual) {
    const long Nr = whole_tiles(t->n), p = t->pitch;
    for (long first = 0; first < t->Q; first += BLOCK) {
        const long count = smaller(BLOCK, t->Q - first);
        standardise(&t->norm, get_rows(x, t->square, first, count, t->P, t->copy), t->normal, t->rstd);
        affine(&t->norm, t->normal, t->y);
        multiply(BLOCK, t->cp, t->P, t->y, t->Pp, 1, t->project_Pc, t->cp, t->project_bias, t->projected, t->cp, 0);
        put_halves(t, projected, first, count, t->projected);
        gate_block(t, t->projected, scale, first, count);
        to_planes(t, t->gated, t->kp, first, count, t->k, t->a);
    }
    turn_planes(t, t->b, t->b_turned);
    for (long c = 0; c < t->h; c++) { /* A·Bᵀ + Aᵀ·B */
        const long at = c * t->plane;
        multiply(Nr, p, t->n, t->a + at, p, 1, t->b_turned + at, p, NULL, product_planes + at, p, 0);
        multiply(Nr, p, t->n, t->a + at, 1, p, t->b + at, p, NULL, product_planes + at, p, 1);
    }
    for (long first = 0; first < t->Q; first += BLOCK) {
        const long count = smaller(BLOCK, t->Q - first);
        const float *rows = get_rows(x, t->square, first, count, t->P, t->copy);
        from_planes(t, product_planes, first, count, t->h, t->inner_y, t->hp);
        put_rows(product, WHOLE, first, count, t->h, t->inner_y);
        gated_update(t, rows);
        if (residual) add_to(t->out, rows, BLOCK * t->Pp);
        put_rows(y, t->square, first, count, t->P, t->out);
    }
}

/* size: molecules B, nodes N, width P, hidden h, residual. tensor: nodes of each molecule, x [B, N, N, P], scale
 * [B, N, N], the ten weights and biases; projected [B, N, N, 4h], product [B, N, N, h] and y. */
void triangle(const long *size, float *const *tensor) {
    Space *space = open_space();
    Triangle t = triangle_of(space, size, tensor + 3);
    float *product = take(space, t.h * t.plane), *const planes[] = {t.a, t.b, t.b_turned, product};
    for (long b = 0; b < size[0]; b++) {
        const long start = b * size[1] * size[1];
        float *y = tensor[15] + start * t.P;
        turn_to(&t, square_of(tensor[0], size[1], b), planes, 4);
        clear_padding(y, t.square, t.P);
        triangle_of_molecule(&t, tensor[1] + start * t.P, tensor[2] + start, tensor[13] + start * 2 * t.k,
                             tensor[14] + start * t.h, y, product, (int)size[4]);
    }
}

#endif
