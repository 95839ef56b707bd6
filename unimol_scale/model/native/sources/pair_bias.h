/* y = W·[LN](x) + b of pairs [B, Q, P], channels first [B, H, Q], and its gradients; see channel_first_linear. */
#ifndef PAIR_BIAS_H
#define PAIR_BIAS_H

#include "rows.h"

/* size: molecules B, pairs Q of each, width P, channels H, whether there is a norm. tensor: x, W [H, P], b, norm
 * weight and bias; y. */
void channel_first_linear(const long *size, float *const *tensor) {
    const long B = size[0], Q = size[1], P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_PH = pack_transposed(space, tensor[1], H, P), *bias_H = pack(space, tensor[2], 1, H);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Hp), *rstd = take(space, BLOCK);
    float *normal = take(space, BLOCK * Pp);
    const Norm norm = norm_of(space, tensor[3], tensor[4], size[4] ? P : 0);
    for (long b = 0; b < B; b++)
        for (long first = 0; first < Q; first += BLOCK) {
            const long count = smaller(BLOCK, Q - first);
            const float *rows = get_rows(tensor[0] + b * Q * P, first, count, P, copy);
            if (size[4]) {
                standardise(&norm, rows, normal, rstd);
                affine(&norm, normal, normal);
                rows = normal;
            }
            multiply(BLOCK, Hp, P, rows, Pp, 1, weight_PH, Hp, bias_H, out, Hp, 0);
            for (long c = 0; c < H; c++) {
                float *to = tensor[5] + (b * H + c) * Q + first;
                for (long r = 0; r < count; r++) to[r] = out[r * Hp + c];
            }
        }
}

/* size: as above. tensor: grad of y, x, W, norm weight and bias; gradients of x, W, b, norm weight and bias. */
void channel_first_linear_backward(const long *size, float *const *tensor) {
    const long B = size[0], Q = size[1], P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_HP = pack(space, tensor[2], H, P);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp), *grad = take(space, Hp * BLOCK);
    float *grad_weight = take(space, Hp * Pp), *rstd = take(space, BLOCK);
    float *normal = take(space, BLOCK * Pp), *scaled = take(space, BLOCK * Pp);
    Norm norm = norm_of(space, tensor[3], tensor[4], size[4] ? P : 0);
    for (long c = 0; c < H; c++) tensor[7][c] = 0.0f;
    for (long b = 0; b < B; b++)
        for (long first = 0; first < Q; first += BLOCK) {
            const long count = smaller(BLOCK, Q - first);
            const float *rows = get_rows(tensor[1] + b * Q * P, first, count, P, copy);
            if (size[4]) {
                standardise(&norm, rows, normal, rstd);
                affine(&norm, normal, scaled);
                rows = scaled;
            }
            for (long c = 0; c < H; c++) {
                memset(grad + c * BLOCK, 0, 4 * BLOCK);
                memcpy(grad + c * BLOCK, tensor[0] + (b * H + c) * Q + first, 4 * count);
                vec sum = {0};
                for (long r = 0; r < BLOCK; r += LANES) sum += load(grad + c * BLOCK + r);
                tensor[7][c] += sum_of(sum);
            }
            multiply(BLOCK, Pp, H, grad, 1, BLOCK, weight_HP, Pp, NULL, out, Pp, 0);
            multiply(Hp, Pp, BLOCK, grad, BLOCK, 1, rows, Pp, NULL, grad_weight, Pp, 1);
            if (size[4]) standardise_backward(&norm, out, normal, rstd, out);
            put_rows(tensor[5] + b * Q * P, first, count, P, out);
        }
    unpack(tensor[6], grad_weight, H, P);
    if (size[4]) put_norm_gradients(&norm, tensor[8], tensor[9]);
}

#endif
