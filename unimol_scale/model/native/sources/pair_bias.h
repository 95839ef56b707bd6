/* A linear map of pairs, [B, Q, P] to channels first, [B, H, Q], and its gradients; see channel_first_linear. */
#ifndef PAIR_BIAS_H
#define PAIR_BIAS_H

#include "rows.h"

/* size: molecules B, pairs Q of each, width P, channels H. tensor: x, W [H, P], b; y. */
void channel_first_linear(const long *size, float *const *tensor) {
    const long B = size[0], Q = size[1], P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_PH = pack_transposed(space, tensor[1], H, P), *bias_H = pack(space, tensor[2], 1, H);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Hp);
    for (long b = 0; b < B; b++)
        for (long first = 0; first < Q; first += BLOCK) {
            const long count = smaller(BLOCK, Q - first);
            const float *rows = get_rows(tensor[0] + b * Q * P, first, count, P, copy);
            multiply(BLOCK, Hp, P, rows, Pp, 1, weight_PH, Hp, bias_H, out, Hp, 0);
            for (long c = 0; c < H; c++) {
                float *to = tensor[3] + (b * H + c) * Q + first;
                for (long r = 0; r < count; r++) to[r] = out[r * Hp + c];
            }
        }
}

/* size: as above. tensor: grad of y, x, W; gradients of x, W and b. */
void channel_first_linear_backward(const long *size, float *const *tensor) {
    const long B = size[0], Q = size[1], P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_HP = pack(space, tensor[2], H, P);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp), *grad = take(space, Hp * BLOCK);
    float *grad_weight = take(space, Hp * Pp);
    for (long c = 0; c < H; c++) tensor[5][c] = 0.0f;
    for (long b = 0; b < B; b++)
        for (long first = 0; first < Q; first += BLOCK) {
            const long count = smaller(BLOCK, Q - first);
            const float *rows = get_rows(tensor[1] + b * Q * P, first, count, P, copy);
            for (long c = 0; c < H; c++) {
                memset(grad + c * BLOCK, 0, 4 * BLOCK);
                memcpy(grad + c * BLOCK, tensor[0] + (b * H + c) * Q + first, 4 * count);
                vec sum = {0};
                for (long r = 0; r < BLOCK; r += LANES) sum += load(grad + c * BLOCK + r);
                tensor[5][c] += sum_of(sum);
            }
            multiply(BLOCK, Pp, H, grad, 1, BLOCK, weight_HP, Pp, NULL, out, Pp, 0);
            multiply(Hp, Pp, BLOCK, grad, BLOCK, 1, rows, Pp, NULL, grad_weight, Pp, 1);
            put_rows(tensor[3] + b * Q * P, first, count, P, out);
        }
    unpack(tensor[4], grad_weight, H, P);
}

#endif
