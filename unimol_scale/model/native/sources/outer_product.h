/* z_ij = [x_ij +] u·(Σ_cd a_ic b_jd W_cdp / n + k) with a, b = W_ab·LN(nodes) + b_ab, and its gradients; see OuterProduct.
 *
 * u = 1 / (ε + 1/n) undoes the scaling as the reference does. T_i = a_i·W of all nodes of a molecule is made at once.
 */
#ifndef OUTER_PRODUCT_H
#define OUTER_PRODUCT_H

#include "rows.h"

#define OUTER_PRODUCT_EPSILON 1e-3f

typedef struct {
    long B, N, P, h, D, real, Pp, hp, kp, Dp, X; /* k = 2h: a and b; X = h·Pp: a row of T */
    const float *nodes, *count;                  /* of nodes, and the n of the scalings, by molecule */
    float *weight_hX, *a, *b, *T, *out, *constant, *copy, *normal, *y, *rstd;
    const float *bias;
    Square rows;
    Norm norm;
} OuterProduct;

/* size: molecules B, nodes N, width P, hidden h, width D of nodes, residual. tensor: nodes of each molecule, x [B, N, N,
 * P], nodes [B, N, D], n [B], norm weight and bias, W_ab [2h, D], b_ab, W [h, h·P], k [P], ... */
static OuterProduct outer_product_of(Space *space, const long *size, float *const *tensor) {
    OuterProduct t = {.B = size[0], .N = size[1], .P = size[2], .h = size[3], .D = size[4]};
    const long rows = whole_tiles(t.N);
    t.Pp = padded(t.P);
    t.hp = padded(t.h);
    t.kp = padded(2 * t.h);
    t.Dp = padded(t.D);
    t.X = t.h * t.Pp;
    t.nodes = tensor[0];
    t.count = tensor[3];
    t.rows = nodes_of(space, tensor[0], t.B, t.N, 0, &t.real);
    t.norm = norm_of(space, tensor[4], tensor[5], t.D);
    t.weight_hX = pack(space, tensor[8], t.h * t.h, t.P);
    t.bias = pack(space, tensor[9], 1, t.P);
    t.a = take(space, rows * t.hp);
    t.b = take(space, rows * t.hp);
    t.T = take_raw(space, rows * t.X + TILE_ROWS * t.Pp);
    t.out = take(space, rows * t.Pp);
    t.constant = take(space, t.Pp);
    t.copy = take_raw(space, BLOCK * t.Dp);
    t.normal = take_raw(space, BLOCK * t.Dp);
    t.y = take_raw(space, BLOCK * (t.kp > t.Dp ? t.kp : t.Dp));
    t.rstd = take_raw(space, BLOCK);
    return t;
}

INLINE float undo_of(const OuterProduct *t, long molecule) {
    return 1.0f / (OUTER_PRODUCT_EPSILON + 1.0f / t->count[molecule]);
}

/* a and b of a molecule whose projected nodes are [n, 2h]; b scaled. */
static void get_factors(const OuterProduct *t, const float *projected, long n, float scale) {
    for (long i = 0; i < n; i++)
        for (long c = 0; c < t->h; c++) {
            t->a[i * t->hp + c] = projected[i * 2 * t->h + c];
            t->b[i * t->hp + c] = projected[i * 2 * t->h + t->h + c] * scale;
        }
}

/* z = a [+ b], of which only a is padded. */
INLINE void put_sum(float *z, const float *a, const float *b, long width) {
    long c = 0;
    for (; c + LANES <= width; c += LANES) store(z + c, b ? load(a + c) + load(b + c) : load(a + c));
    if (c == width) return;
    store_part(z + c, b ? load(a + c) + load_part(b + c, width - c) : load(a + c), width - c);
}

/* tensor: ...; kept: a and b [real, 2h]; z. */
void outer_product(const long *size, float *const *tensor) {
    Space *space = open_space();
    OuterProduct t = outer_product_of(space, size, tensor);
    const float *project_Dk = pack_panels_transposed(space, tensor[6], 2 * t.h, t.D);
    const float *project_bias = pack(space, tensor[7], 1, 2 * t.h);
    for (long first = 0; first < t.real; first += BLOCK) {
        const long count = smaller(BLOCK, t.real - first);
        standardise(&t.norm, get_rows(tensor[2], t.rows, first, count, t.D, t.copy), t.normal, t.rstd);
        affine(&t.norm, t.normal, t.normal);
        multiply(whole_tiles(count), t.kp, t.D, t.normal, t.Dp, 1, project_Dk, PANELS, project_bias, t.y, t.kp, 0);
        put_rows(tensor[10], WHOLE, first, count, 2 * t.h, t.y);
    }
    for (long b = 0, row = 0; b < t.B; b++) {
        const Square s = square_of(t.nodes, t.N, b);
        const float undo = undo_of(&t, b), *x = tensor[1] + b * t.N * t.N * t.P;
        float *z = tensor[11] + b * t.N * t.N * t.P;
        clear_padding(z, s, t.P);
        get_factors(&t, tensor[10] + row * 2 * t.h, s.n, undo / t.count[b]);
        for (long c = 0; c < t.Pp; c += LANES) store(t.constant + c, load(t.bias + c) * undo);
        multiply(whole_tiles(s.n), t.X, t.h, t.a, t.hp, 1, t.weight_hX, t.X, NULL, t.T, t.X, 0);
        for (long i = 0; i < s.n; i++, x += t.N * t.P, z += t.N * t.P) {
            multiply(whole_tiles(s.n), t.Pp, t.h, t.b, t.hp, 1, t.T + i * t.X, t.Pp, t.constant, t.out, t.Pp, 0);
            for (long j = 0; j < s.n; j++) put_sum(z + j * t.P, t.out + j * t.Pp, size[5] ? x + j * t.P : NULL, t.P);
        }
        row += s.n;
    }
}

typedef struct {
    float *turned_hX, *weight_Xh, *turned_T;                   /* W as [c, p, d] and as [d, p, c]; T as [i, p, d] */
    float *a, *b, *weight, *bias, *projected, *project, *project_bias; /* gradients */
} OuterProductGradients;

static OuterProductGradients outer_product_gradients_of(Space *space, const OuterProduct *t, const float *weight_hX) {
    const long rows = whole_tiles(t->N);
    OuterProductGradients d = {
        .turned_hX = take(space, t->h * t->P * t->hp),
        .weight_Xh = take(space, t->X * t->hp),
        .turned_T = take_raw(space, rows * t->P * t->hp),
        .a = take(space, rows * t->hp),
        .b = take(space, rows * t->hp),
        .weight = take(space, whole_tiles(t->h) * t->X),
        .bias = take(space, t->Pp),
        .projected = take_raw(space, t->real * 2 * t->h),
        .project = take(space, t->kp * t->Dp),
        .project_bias = take(space, t->kp),
    };
    for (long c = 0; c < t->h; c++)
        turn(weight_hX + c * t->h * t->P, t->h, t->P, t->P, d.turned_hX + c * t->P * t->hp, t->hp);
    turn(t->weight_hX, t->h, t->X, t->X, d.weight_Xh, t->hp);
    return d;
}

/* Gradients of a molecule's factors [n, 2h], of W and of k from that of z. */
static void backward_of_factors(const OuterProduct *t, OuterProductGradients *d, const float *grad, long n, float undo,
                                float scale, float *grad_factors) {
    const long rows = whole_tiles(n), turned = t->P * t->hp;
    memset(d->b, 0, 4 * rows * t->hp);
    memset(t->out, 0, 4 * rows * t->Pp);
    memset(t->constant, 0, 4 * t->Pp);
    multiply(rows, turned, t->h, t->a, t->hp, 1, d->turned_hX, turned, NULL, d->turned_T, turned, 0);
    for (long i = 0; i < n; i++, grad += t->N * t->P) {
        const float *from = grad;
        if (t->Pp != t->P || rows != n) {
            for (long j = 0; j < n; j++) copy_row(t->out + j * t->Pp, grad + j * t->P, t->P);
            from = t->out;
        }
        multiply(whole_tiles(t->h), t->Pp, n, t->b, 1, t->hp, from, t->Pp, NULL, t->T + i * t->X, t->Pp, 0);
        multiply(rows, t->hp, t->P, from, t->Pp, 1, d->turned_T + i * turned, t->hp, NULL, d->b, t->hp, 1);
        for (long c = 0; c < t->Pp; c += LANES) {
            vec sum = {0};
            for (long j = 0; j < n; j++) sum += load(from + j * t->Pp + c);
            store(t->constant + c, load(t->constant + c) + sum);
        }
    }
    multiply(rows, t->hp, t->X, t->T, t->X, 1, d->weight_Xh, t->hp, NULL, d->a, t->hp, 0);
    multiply(whole_tiles(t->h), t->X, n, t->a, 1, t->hp, t->T, t->X, NULL, d->weight, t->X, 1);
    for (long c = 0; c < t->Pp; c += LANES) store(d->bias + c, load(d->bias + c) + load(t->constant + c) * undo);
    for (long i = 0; i < n; i++)
        for (long c = 0; c < t->h; c++) {
            grad_factors[i * 2 * t->h + c] = d->a[i * t->hp + c];
            grad_factors[i * 2 * t->h + t->h + c] = d->b[i * t->hp + c] * scale;
        }
}

/* tensor: ..., a and b, grad of z; gradients of the nodes, norm weight and bias, W_ab, b_ab, W and k. */
void outer_product_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    OuterProduct t = outer_product_of(space, size, tensor);
    OuterProductGradients d = outer_product_gradients_of(space, &t, tensor[8]);
    const float *project_kD = pack_panels(space, tensor[6], 2 * t.h, t.D);
    float *grad_copy = take(space, BLOCK * t.kp);
    for (long b = 0, row = 0; b < t.B; b++) {
        const long n = square_of(t.nodes, t.N, b).n;
        const float undo = undo_of(&t, b), scale = undo / t.count[b];
        get_factors(&t, tensor[10] + row * 2 * t.h, n, scale);
        backward_of_factors(&t, &d, tensor[11] + b * t.N * t.N * t.P, n, undo, scale, d.projected + row * 2 * t.h);
        row += n;
    }
    clear_nodes(tensor[12], t.nodes, t.B, t.N, t.D);
    for (long first = 0; first < t.real; first += BLOCK) {
        const long count = smaller(BLOCK, t.real - first), kp = t.kp, Dp = t.Dp;
        const float *grad = get_rows(d.projected, WHOLE, first, count, 2 * t.h, grad_copy);
        standardise(&t.norm, get_rows(tensor[2], t.rows, first, count, t.D, t.copy), t.normal, t.rstd);
        affine(&t.norm, t.normal, t.y);
        multiply(kp, Dp, BLOCK, grad, 1, kp, t.y, Dp, NULL, d.project, Dp, 1);
        add_columns(grad, kp, d.project_bias);
        multiply(BLOCK, Dp, 2 * t.h, grad, kp, 1, project_kD, PANELS, NULL, t.y, Dp, 0);
        standardise_backward(&t.norm, t.y, t.normal, t.rstd, t.y);
        put_rows(tensor[12], t.rows, first, count, t.D, t.y);
    }
    put_norm_gradients(&t.norm, tensor[13], tensor[14]);
    unpack(tensor[15], d.project, 2 * t.h, t.D);
    unpack(tensor[16], d.project_bias, 1, 2 * t.h);
    unpack(tensor[17], d.weight, t.h * t.h, t.P);
    unpack(tensor[18], d.bias, 1, t.P);
}

#endif
