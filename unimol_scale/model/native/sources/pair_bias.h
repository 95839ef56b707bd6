/* y = W·[LN](x) + b of pairs [B, Q, P], channels first [B, H, Q], and its gradients; see channel_first_linear. */
#ifndef PAIR_BIAS_H
#define PAIR_BIAS_H

#include "rows.h"

/* size: molecules B, nodes N, width P, channels H, whether there is a norm. tensor: nodes of
 * each molecule, x, W [H, P], b, norm
 * weight and bias; y. */
void channel_first_linear(const long *size, float *const *tensor) {
    const long B = size[0], N = size[1], Q = N * N, P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_PH = pack_transposed(space, tensor[2], H, P), *bias_H = pack(space, tensor[3], 1, H);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Hp), *rstd = take(space, BLOCK);
    float *normal = take(space, BLOCK * Pp);
    const Norm norm = norm_of(space, tensor[4], tensor[5], size[4] ? P : 0);
    for (long b = 0; b < B; b++) {
        const Square s = square_of(tensor[0], N, b);
        for (long c = 0; c < H; c++) clear_padding(tensor[6] + (b * H + c) * Q, s, 1);
        for (long first = 0; first < s.n * s.n; first += BLOCK) {
            const long count = smaller(BLOCK, s.n * s.n - first);
            const float *rows = get_rows(tensor[1] + b * Q * P, s, first, count, P, copy);
            if (size[4]) {
                standardise(&norm, rows, normal, rstd);
                affine(&norm, normal, normal);
                rows = normal;
            }
            multiply(BLOCK, Hp, P, rows, Pp, 1, weight_PH, Hp, bias_H, out, Hp, 0);
            for (long r = 0, run; r < count; r += run) {
                run = run_of(s, first + r, count - r);
                for (long c = 0; c < H; c++) {
                    float *to = tensor[6] + (b * H + c) * Q + place_of(s, first + r);
                    for (long k = 0; k < run; k++) to[k] = out[(r + k) * Hp + c];
                }
            }
        }
    }
}

/* size: as above. tensor: nodes, grad of y, x, W, norm weight and bias; gradients of x, W, b, norm weight and bias. */
void channel_first_linear_backward(const long *size, float *const *tensor) {
    const long B = size[0], N = size[1], Q = N * N, P = size[2], H = size[3], Pp = padded(P), Hp = padded(H);
    Space *space = open_space();
    const float *weight_HP = pack(space, tensor[3], H, P);
    float *copy = take(space, BLOCK * Pp), *out = take(space, BLOCK * Pp), *grad = take(space, Hp * BLOCK);
    float *grad_weight = take(space, Hp * Pp), *rstd = take(space, BLOCK);
    float *normal = take(space, BLOCK * Pp), *scaled = take(space, BLOCK * Pp);
    Norm norm = norm_of(space, tensor[4], tensor[5], size[4] ? P : 0);
    for (long c = 0; c < H; c++) tensor[8][c] = 0.0f;
    for (long b = 0; b < B; b++) {
        const Square s = square_of(tensor[0], N, b);
        clear_padding(tensor[6] + b * Q * P, s, P);
        for (long first = 0; first < s.n * s.n; first += BLOCK) {
            const long count = smaller(BLOCK, s.n * s.n - first);
            const float *rows = get_rows(tensor[2] + b * Q * P, s, first, count, P, copy);
            if (size[4]) {
                standardise(&norm, rows, normal, rstd);
                affine(&norm, normal, scaled);
                rows = scaled;
            }
            for (long c = 0; c < H; c++) {
                memset(grad + c * BLOCK, 0, 4 * BLOCK);
                for (long r = 0, run; r < count; r += run) {
                    run = run_of(s, first + r, count - r);
                    memcpy(grad + c * BLOCK + r, tensor[1] + (b * H + c) * Q + place_of(s, first + r), 4 * run);
                }
                vec sum = {0};
                for (long r = 0; r < BLOCK; r += LANES) sum += load(grad + c * BLOCK + r);
                tensor[8][c] += sum_of(sum);
            }
            multiply(BLOCK, Pp, H, grad, 1, BLOCK, weight_HP, Pp, NULL, out, Pp, 0);
            multiply(Hp, Pp, BLOCK, grad, BLOCK, 1, rows, Pp, NULL, grad_weight, Pp, 1);
            if (size[4]) standardise_backward(&norm, out, normal, rstd, out);
            put_rows(tensor[6] + b * Q * P, s, first, count, P, out);
        }
    }
    unpack(tensor[7], grad_weight, H, P);
    if (size[4]) put_norm_gradients(&norm, tensor[9], tensor[10]);
}

#endif
