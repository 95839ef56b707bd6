/* Gradients of the triangle update; see triangle.h. */
#ifndef TRIANGLE_BACKWARD_H
#define TRIANGLE_BACKWARD_H

#include "triangle.h"

typedef struct {
    const float *project_cP, *out_Ph, *gate_PP; /* as they are */
    float *project, *project_bias, *out, *out_bias, *gate, *gate_bias; /* gradients */
    float *grad_copy, *normal, *inner, *projected, *gated;             /* blocks */
    float *product, *product_turned, *a, *b;                           /* planes */
} TriangleGradients;

static TriangleGradients triangle_gradients_of(Space *space, const Triangle *t, float *const *weight) {
    return (TriangleGradients){
        .project_cP = pack_halves(space, t, weight[PROJECT], t->P),
        .out_Ph = pack(space, weight[OUT], t->P, t->h),
        .gate_PP = pack(space, weight[GATE], t->P, t->P),
        .project = take(space, t->cp * t->Pp),
        .project_bias = take(space, t->cp),
        .out = take(space, t->Pp * t->hp),
        .out_bias = take(space, t->Pp),
        .gate = take(space, t->Pp * t->Pp),
        .gate_bias = take(space, t->Pp),
        .grad_copy = take(space, BLOCK * t->Pp),
        .normal = take(space, BLOCK * t->Pp),
        .inner = take(space, BLOCK * t->hp),
        .projected = take(space, BLOCK * t->cp),
        .gated = take(space, BLOCK * t->kp),
        .product = take(space, t->h * t->plane),
        .product_turned = take(space, t->h * t->plane),
        .a = take(space, t->h * t->plane),
        .b = take(space, t->h * t->plane),
    };
}

/* Through o ∘ g and the inner norm: the gradient of the product, in planes, and what g passes on to LN(x), in
 * grad_normal [BLOCK, P]. */
static void backward_to_product(Triangle *t, TriangleGradients *d, const float *grad, const float *rows,
                                const float *product, float *grad_normal) {
    const long Pp = t->Pp, hp = t->hp;
    standardise(&t->norm, rows, t->normal, t->rstd);
    affine(&t->norm, t->normal, t->y);
    standardise(&t->inner, product, t->inner_normal, t->inner_rstd);
    affine(&t->inner, t->inner_normal, t->inner_y);
    multiply(BLOCK, Pp, t->h, t->inner_y, hp, 1, t->out_hP, Pp, t->out_bias, t->out, Pp, 0);
    multiply(BLOCK, Pp, t->P, t->y, Pp, 1, t->gate_PP, Pp, t->gate_bias, t->gate, Pp, 0);
    for (long i = 0; i < BLOCK * Pp; i += LANES) {
        const vec out = load(t->out + i), g = load(grad + i);
        store(t->out + i, load(t->gate + i) * g); /* the gradient of o */
        store(t->gate + i, out * g);              /* the gradient of g */
    }
    multiply(Pp, Pp, BLOCK, t->gate, 1, Pp, t->y, Pp, NULL, d->gate, Pp, 1);
    add_columns(t->gate, Pp, d->gate_bias);
    multiply(Pp, hp, BLOCK, t->out, 1, Pp, t->inner_y, hp, NULL, d->out, hp, 1);
    add_columns(t->out, Pp, d->out_bias);
    multiply(BLOCK, Pp, t->P, t->gate, Pp, 1, d->gate_PP, Pp, NULL, grad_normal, Pp, 0);
    multiply(BLOCK, hp, t->P, t->out, Pp, 1, d->out_Ph, hp, NULL, d->inner, hp, 0);
    standardise_backward(&t->inner, d->inner, t->inner_normal, t->inner_rstd, d->inner);
}

/* M = A·Bᵀ + Aᵀ·B: dA = dM·B + B·dMᵀ, dB = dMᵀ·A + A·dM. */
static void backward_of_products(const Triangle *t, TriangleGradients *d) {
    const long N = t->n, Nr = whole_tiles(N), p = t->pitch;
    for (long c = 0; c < t->h; c++) {
        const long at = c * t->plane;
        multiply(Nr, p, N, d->product + at, p, 1, t->b + at, p, NULL, d->a + at, p, 0);
        multiply(Nr, p, N, t->b + at, p, 1, d->product_turned + at, p, NULL, d->a + at, p, 1);
        multiply(Nr, p, N, d->product + at, 1, p, t->a + at, p, NULL, d->b + at, p, 0);
        multiply(Nr, p, N, t->a + at, p, 1, d->product + at, p, NULL, d->b + at, p, 1);
    }
}

/* Through the gates, from d->gated, the gradients of a and b, to that of the map before them, in d->projected. */
static void backward_of_gates(const Triangle *t, TriangleGradients *d, const float *projected, const float *scale,
                              long first, long count) {
    memset(d->projected + count * t->cp, 0, 4 * (BLOCK - count) * t->cp);
    for (long r = 0; r < count; r++) {
        const float factor = scale[place_of(t->square, first + r)];
        for (long c = 0; c < t->kp; c += LANES) {
            const float *value = projected + r * t->cp + c;
            float *to = d->projected + r * t->cp + c;
            const vec open = sigmoid(load(value + t->kp));
            const vec grad_value = load(d->gated + r * t->kp + c) * open * factor;
            store(to, grad_value);
            store(to + t->kp, grad_value * load(value) * (1.0f - open));
        }
    }
}

/* Planes of a, b and of the gradient of their product; the rows of x get what g passes on to LN(x). */
static void first_half(Triangle *t, TriangleGradients *d, const float *grad, const float *x, const float *scale,
                       const float *projected, const float *product, float *grad_x) {
    for (long first = 0; first < t->Q; first += BLOCK) {
        const long count = smaller(BLOCK, t->Q - first);
        gate_block(t, get_halves(t, projected, first, count, t->projected), scale, first, count);
        to_planes(t, t->gated, t->kp, first, count, t->k, t->a);
        backward_to_product(t, d, get_rows(grad, t->square, first, count, t->P, d->grad_copy),
                            get_rows(x, t->square, first, count, t->P, t->copy),
                            get_rows(product, WHOLE, first, count, t->h, t->projected), d->normal);
        put_rows(grad_x, t->square, first, count, t->P, d->normal);
        to_planes(t, d->inner, t->hp, first, count, t->h, d->product);
    }
    turn_planes(t, d->product, d->product_turned);
}

static void second_half(Triangle *t, TriangleGradients *d, const float *grad, const float *x, const float *scale,
                        const float *projected, float *grad_x) {
    const long Pp = t->Pp, cp = t->cp;
    for (long first = 0; first < t->Q; first += BLOCK) {
        const long count = smaller(BLOCK, t->Q - first);
        from_planes(t, d->a, first, count, t->h, d->gated, t->kp);
        from_planes(t, d->b, first, count, t->h, d->gated + t->h, t->kp);
        backward_of_gates(t, d, get_halves(t, projected, first, count, t->projected), scale, first, count);
        standardise(&t->norm, get_rows(x, t->square, first, count, t->P, t->copy), t->normal, t->rstd);
        affine(&t->norm, t->normal, t->y);
        multiply(cp, Pp, BLOCK, d->projected, 1, cp, t->y, Pp, NULL, d->project, Pp, 1);
        add_columns(d->projected, cp, d->project_bias);
        memcpy(d->normal, get_rows(grad_x, t->square, first, count, t->P, t->copy), 4 * BLOCK * Pp);
        multiply(BLOCK, Pp, cp, d->projected, cp, 1, d->project_cP, Pp, NULL, d->normal, Pp, 1);
        standardise_backward(&t->norm, d->normal, t->normal, t->rstd, d->normal);
        if (grad) add_to(d->normal, get_rows(grad, t->square, first, count, t->P, d->grad_copy), BLOCK * Pp);
        put_rows(grad_x, t->square, first, count, t->P, d->normal);
    }
}

/* size: as of triangle. tensor: nodes, grad of y, x, scale, projected, product, the ten weights and biases; gradients
 * of x and of the ten, in their order. */
void triangle_backward(const long *size, float *const *tensor) {
    Space *space = open_space();
    float *const *gradient = tensor + 17;
    Triangle t = triangle_of(space, size, tensor + 6);
    TriangleGradients d = triangle_gradients_of(space, &t, tensor + 6);
    float *const planes[] = {t.a, t.b, d.product, d.product_turned, d.a, d.b};
    for (long b = 0; b < size[0]; b++) {
        const long start = b * size[1] * size[1];
        const float *grad = tensor[1] + start * t.P, *x = tensor[2] + start * t.P, *scale = tensor[3] + start;
        const float *projected = tensor[4] + start * 2 * t.k;
        float *grad_x = tensor[16] + start * t.P;
        turn_to(&t, square_of(tensor[0], size[1], b), planes, 6);
        clear_padding(grad_x, t.square, t.P);
        first_half(&t, &d, grad, x, scale, projected, tensor[5] + start * t.h, grad_x);
        backward_of_products(&t, &d);
        second_half(&t, &d, size[4] ? grad : NULL, x, scale, projected, grad_x);
    }
    put_norm_gradients(&t.norm, gradient[NORM_WEIGHT], gradient[NORM_BIAS]);
    put_norm_gradients(&t.inner, gradient[INNER_WEIGHT], gradient[INNER_BIAS]);
    for (long half = 0; half < 2; half++)
        unpack(gradient[PROJECT] + half * t.k * t.P, d.project + half * t.kp * t.Pp, t.k, t.P);
    put_halves(&t, gradient[PROJECT_BIAS], 0, 1, d.project_bias);
    unpack(gradient[OUT], d.out, t.P, t.h);
    unpack(gradient[OUT_BIAS], d.out_bias, 1, t.P);
    unpack(gradient[GATE], d.gate, t.P, t.P);
    unpack(gradient[GATE_BIAS], d.gate_bias, 1, t.P);
}

#endif
