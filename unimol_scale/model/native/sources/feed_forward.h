/* y = [x +] W₂·GELU(W₁·LN(x) + b₁) + b₂ over rows, and its gradients; see FeedForwardFunction. */
#ifndef FEED_FORWARD_H
#define FEED_FORWARD_H

#include "rows.h"

/* size: rows R, width P, hidden H, residual. tensor: x, norm weight, norm bias, W₁ [H, P], b₁, W₂ [P, H], b₂;
 * hidden [R, H] before GELU and y. */
void feed_forward(const long *size, float *const *tensor) {
    const long R = size[0], P = size[1], H = size[2], residual = size[3], Pp = padded(P), Hp = padded(H);
    float *const x = tensor[0], *const hidden = tensor[7], *const y = tensor[8];
    Space *space = open_space();
    const Norm norm = norm_of(space, tensor[1], tensor[2], P);
    const float *up_PH = pack_transposed(space, tensor[3], H, P), *up_bias_H = pack(space, tensor[4], 1, H);
    const float *down_HP = pack_transposed(space, tensor[5], P, H), *down_bias_P = pack(space, tensor[6], 1, P);
    float *copy = take(space, BLOCK * Pp), *normal = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp);
    float *active = take(space, BLOCK * Hp), *rstd = take(space, BLOCK);
    for (long first = 0; first < R; first += BLOCK) {
        const long count = smaller(BLOCK, R - first);
        const float *rows = get_rows(x, first, count, P, copy);
        standardise(&norm, rows, normal, rstd);
        affine(&norm, normal, normal);
        multiply(BLOCK, Hp, P, normal, Pp, 1, up_PH, Hp, up_bias_H, active, Hp, 0);
        put_rows(hidden, first, count, H, active);
        for (long i = 0; i < BLOCK * Hp; i += LANES) store(active + i, gelu(load(active + i)));
        multiply(BLOCK, Pp, H, active, Hp, 1, down_HP, Pp, down_bias_P, out, Pp, 0);
        if (residual) add_to(out, rows, BLOCK * Pp);
        put_rows(y, first, count, P, out);
    }
}

/* size: as above. tensor: grad of y, x, hidden, norm weight, norm bias, W₁, W₂; gradients of x, norm weight, norm
 * bias, W₁, b₁, W₂, b₂. */
void feed_forward_backward(const long *size, float *const *tensor) {
    const long R = size[0], P = size[1], H = size[2], residual = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    Norm norm = norm_of(space, tensor[3], tensor[4], P);
    const float *up_HP = pack(space, tensor[5], H, P), *down_PH = pack(space, tensor[6], P, H);
    float *copy = take(space, BLOCK * Pp), *grad_copy = take(space, BLOCK * Pp), *y = take(space, BLOCK * Pp);
    float *normal = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp), *rstd = take(space, BLOCK);
    float *hidden_copy = take(space, BLOCK * Hp), *active = take(space, BLOCK * Hp);
    float *grad_hidden = take(space, BLOCK * Hp);
    float *grad_up = take(space, Hp * Pp), *grad_down = take(space, Pp * Hp);
    float *grad_up_bias = take(space, Hp), *grad_down_bias = take(space, Pp);
    for (long first = 0; first < R; first += BLOCK) {
        const long count = smaller(BLOCK, R - first);
        const float *grad = get_rows(tensor[0], first, count, P, grad_copy);
        const float *rows = get_rows(tensor[1], first, count, P, copy);
        const float *hidden = get_rows(tensor[2], first, count, H, hidden_copy);
        multiply(BLOCK, Hp, P, grad, Pp, 1, down_PH, Hp, NULL, grad_hidden, Hp, 0);
        for (long i = 0; i < BLOCK * Hp; i += LANES) {
            vec value;
            const vec slope = gelu_slope(load(hidden + i), &value);
            store(active + i, value);
            store(grad_hidden + i, load(grad_hidden + i) * slope);
        }
        multiply(Pp, Hp, BLOCK, grad, 1, Pp, active, Hp, NULL, grad_down, Hp, 1);
        add_columns(grad, Pp, grad_down_bias);
        standardise(&norm, rows, normal, rstd);
        affine(&norm, normal, y);
        multiply(Hp, Pp, BLOCK, grad_hidden, 1, Hp, y, Pp, NULL, grad_up, Pp, 1);
        add_columns(grad_hidden, Hp, grad_up_bias);
        multiply(BLOCK, Pp, H, grad_hidden, Hp, 1, up_HP, Pp, NULL, out, Pp, 0);
        standardise_backward(&norm, out, normal, rstd, out);
        if (residual) add_to(out, grad, BLOCK * Pp);
        put_rows(tensor[7], first, count, P, out);
    }
    put_norm_gradients(&norm, tensor[8], tensor[9]);
    unpack(tensor[10], grad_up, H, P);
    unpack(tensor[11], grad_up_bias, 1, H);
    unpack(tensor[12], grad_down, P, H);
    unpack(tensor[13], grad_down_bias, 1, P);
}

#endif
