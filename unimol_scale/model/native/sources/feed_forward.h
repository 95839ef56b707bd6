/* y = [x +] W₂·GELU(W₁·LN(x) + b₁) + b₂ over rows, and its gradients; see FeedForwardFunction. */
#ifndef FEED_FORWARD_H
#define FEED_FORWARD_H

#include "rows.h"

/* size: molecules B, rows Q of each, nodes N, width P, hidden H, residual. tensor: nodes of each molecule, if rows are
 * pairs; x, norm weight, norm bias, W₁ [H, P], b₁, W₂ [P, H], b₂; hidden [B, Q, H] before GELU, and y. */
void feed_forward(const long *size, float *const *tensor) {
    const long Q = size[1], P = size[3], H = size[4], residual = size[5], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const Norm norm = norm_of(space, tensor[2], tensor[3], P);
    const float *up_PH = pack_transposed(space, tensor[4], H, P), *up_bias_H = pack(space, tensor[5], 1, H);
    const float *down_HP = pack_transposed(space, tensor[6], P, H), *down_bias_P = pack(space, tensor[7], 1, P);
    float *copy = take(space, BLOCK * Pp), *normal = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp);
    float *active = take(space, BLOCK * Hp), *rstd = take(space, BLOCK);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], size[2], b);
        const long count_all = s.n == s.N ? Q : s.n * s.n;
        const float *x = tensor[1] + b * Q * P;
        float *hidden = tensor[8] + b * Q * H, *y = tensor[9] + b * Q * P;
        clear_padding(y, s, P);
        for (long first = 0; first < count_all; first += BLOCK) {
            const long count = smaller(BLOCK, count_all - first);
            const float *rows = get_rows(x, s, first, count, P, copy);
            standardise(&norm, rows, normal, rstd);
            affine(&norm, normal, normal);
            multiply(BLOCK, Hp, P, normal, Pp, 1, up_PH, Hp, up_bias_H, active, Hp, 0);
            put_rows(hidden, WHOLE, first, count, H, active);
            for (long i = 0; i < BLOCK * Hp; i += LANES) store(active + i, gelu(load(active + i)));
            multiply(BLOCK, Pp, H, active, Hp, 1, down_HP, Pp, down_bias_P, out, Pp, 0);
            if (residual) add_to(out, rows, BLOCK * Pp);
            put_rows(y, s, first, count, P, out);
        }
    }
}

/* size: as above. tensor: nodes, grad of y, x, hidden, norm weight and bias, W₁, W₂; gradients of x, norm weight
 * and bias, W₁, b₁, W₂, b₂. */
void feed_forward_backward(const long *size, float *const *tensor) {
    const long Q = size[1], P = size[3], H = size[4], residual = size[5], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    Norm norm = norm_of(space, tensor[4], tensor[5], P);
    const float *up_HP = pack(space, tensor[6], H, P), *down_PH = pack(space, tensor[7], P, H);
    float *copy = take(space, BLOCK * Pp), *grad_copy = take(space, BLOCK * Pp), *y = take(space, BLOCK * Pp);
    float *normal = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp), *rstd = take(space, BLOCK);
    float *hidden_copy = take(space, BLOCK * Hp), *active = take(space, BLOCK * Hp);
    float *grad_hidden = take(space, BLOCK * Hp);
    float *grad_up = take(space, Hp * Pp), *grad_down = take(space, Pp * Hp);
    float *grad_up_bias = take(space, Hp), *grad_down_bias = take(space, Pp);
    for (long b = 0; b < size[0]; b++) {
        const Square s = square_of(tensor[0], size[2], b);
        const long count_all = s.n == s.N ? Q : s.n * s.n;
        clear_padding(tensor[8] + b * Q * P, s, P);
        for (long first = 0; first < count_all; first += BLOCK) {
            const long count = smaller(BLOCK, count_all - first);
            const float *grad = get_rows(tensor[1] + b * Q * P, s, first, count, P, grad_copy);
            const float *rows = get_rows(tensor[2] + b * Q * P, s, first, count, P, copy);
            const float *hidden = get_rows(tensor[3] + b * Q * H, WHOLE, first, count, H, hidden_copy);
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
            put_rows(tensor[8] + b * Q * P, s, first, count, P, out);
        }
    }
    put_norm_gradients(&norm, tensor[9], tensor[10]);
    unpack(tensor[11], grad_up, H, P);
    unpack(tensor[12], grad_up_bias, 1, H);
    unpack(tensor[13], grad_down, P, H);
    unpack(tensor[14], grad_down_bias, 1, P);
}

#endif
