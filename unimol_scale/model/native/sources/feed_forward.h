/* y = [x +] W₂·GELU(W₁·LN(x) + b₁) + b₂ over rows, and its gradients; see FeedForwardFunction. */
#ifndef FEED_FORWARD_H
#define FEED_FORWARD_H

#include "rows.h"

/* The rows of molecule b, if rows are pairs, and *count of them; or of all molecules, if they are nodes. */
static Square rows_of(Space *space, const long *size, const float *nodes, long b, long *count) {
    if (size[6]) return nodes_of(space, nodes, size[0], size[1], 0, count);
    const Square s = square_of(nodes, size[2], b);
    *count = s.n == s.N ? size[1] : s.n * s.n;
    return s;
}

static void clear_rows(float *tensor, const long *size, const float *nodes, Square s, long b, long width) {
    if (size[6]) clear_nodes(tensor, nodes, size[0], size[1], width);
    else clear_padding(tensor + b * size[1] * width, s, width);
}

/* size: molecules B, rows Q of each, nodes N, width P, hidden H, residual, whether rows are nodes (Q = N). tensor: nodes
 * of each molecule, if rows are pairs or nodes; x, norm weight, norm bias, W₁ [H, P], b₁, W₂ [P, H], b₂; hidden [B, Q, H] before GELU, and y. */
void feed_forward(const long *size, float *const *tensor) {
    const long Q = size[1], P = size[3], H = size[4], residual = size[5], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const Norm norm = norm_of(space, tensor[2], tensor[3], P);
    const float *up_PH = pack_panels_transposed(space, tensor[4], H, P), *up_bias_H = pack(space, tensor[5], 1, H);
    const float *down_HP = pack_panels_transposed(space, tensor[6], P, H), *down_bias_P = pack(space, tensor[7], 1, P);
    float *copy = take_raw(space, BLOCK * Pp), *normal = take_raw(space, BLOCK * Pp), *out = take_raw(space, BLOCK * Pp);
    float *active = take_raw(space, BLOCK * Hp), *rstd = take_raw(space, BLOCK);
    for (long b = 0; b < (size[6] ? 1 : size[0]); b++) {
        long count_all;
        const Square s = rows_of(space, size, tensor[0], b, &count_all);
        const float *x = tensor[1] + b * Q * P;
        float *hidden = tensor[8] + b * Q * H, *y = tensor[9] + b * Q * P;
        clear_rows(tensor[9], size, tensor[0], s, b, P);
        for (long first = 0; first < count_all; first += BLOCK) {
            const long count = smaller(BLOCK, count_all - first);
            const float *rows = get_rows(x, s, first, count, P, copy);
            standardise(&norm, rows, normal, rstd);
            affine(&norm, normal, normal);
            const long M = whole_tiles(count);
            multiply(M, Hp, P, normal, Pp, 1, up_PH, PANELS, up_bias_H, active, Hp, 0);
            put_rows(hidden, WHOLE, first, count, H, active);
            for (long i = 0; i < M * Hp; i += LANES) store(active + i, gelu(load(active + i)));
            multiply(M, Pp, H, active, Hp, 1, down_HP, PANELS, down_bias_P, out, Pp, 0);
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
    const float *up_HP = pack_panels(space, tensor[6], H, P), *down_PH = pack_panels(space, tensor[7], P, H);
    float *copy = take_raw(space, BLOCK * Pp), *grad_copy = take_raw(space, BLOCK * Pp), *y = take_raw(space, BLOCK * Pp);
    float *normal = take_raw(space, BLOCK * Pp), *out = take_raw(space, BLOCK * Pp), *rstd = take_raw(space, BLOCK);
    float *hidden_copy = take_raw(space, BLOCK * Hp), *active = take_raw(space, BLOCK * Hp);
    float *grad_hidden = take_raw(space, BLOCK * Hp);
    float *grad_up = gradient_of(space, tensor[11], H, P), *grad_down = gradient_of(space, tensor[13], P, H);
    float *grad_up_bias = take(space, Hp), *grad_down_bias = take(space, Pp);
    for (long b = 0; b < (size[6] ? 1 : size[0]); b++) {
        long count_all;
        const Square s = rows_of(space, size, tensor[0], b, &count_all);
        clear_rows(tensor[8], size, tensor[0], s, b, P);
        for (long first = 0; first < count_all; first += BLOCK) {
            const long count = smaller(BLOCK, count_all - first);
            const float *grad = get_rows(tensor[1] + b * Q * P, s, first, count, P, grad_copy);
            const float *rows = get_rows(tensor[2] + b * Q * P, s, first, count, P, copy);
            const float *hidden = get_rows(tensor[3] + b * Q * H, WHOLE, first, count, H, hidden_copy);
            multiply(BLOCK, Hp, P, grad, Pp, 1, down_PH, PANELS, NULL, grad_hidden, Hp, 0);
            for (long i = 0; i < BLOCK * Hp; i += LANES) {
                vec value;
                const vec slope = gelu_slope(load(hidden + i), &value);
                store(active + i, value);
                store(grad_hidden + i, load(grad_hidden + i) * slope);
            }
            multiply(whole_tiles(P), Hp, BLOCK, grad, 1, Pp, active, Hp, NULL, grad_down, Hp, 1);
            add_columns(grad, Pp, grad_down_bias);
            standardise(&norm, rows, normal, rstd);
            affine(&norm, normal, y);
            multiply(whole_tiles(H), Pp, BLOCK, grad_hidden, 1, Hp, y, Pp, NULL, grad_up, Pp, 1);
            add_columns(grad_hidden, Hp, grad_up_bias);
            multiply(BLOCK, Pp, H, grad_hidden, Hp, 1, up_HP, PANELS, NULL, out, Pp, 0);
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
